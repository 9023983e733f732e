"""The commands: `realizehit-server` runs a server, `realizehit` publishes, subscribes and looks things up.

Each command is a module of its own and imported when it is called: looking up an id does not load a web server.
"""

from __future__ import annotations

import os
import sys


def server() -> None:
    """Run ``realizehit-server``."""
    from realizehit.cli.serve import serve

    try:
        serve(prog_name="realizehit-server")
    finally:
        _let_go_of_output()


def _let_go_of_output() -> None:
    """See to it that output which cannot be written, to a full disk say, does not become the exit status."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except ValueError:
            pass  # it is closed
        except OSError:
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, stream.fileno())  # where the interpreter's own last flush then goes
            os.close(sink)


def client() -> None:
    """Run ``realizehit``."""
    from realizehit.cli.main import main

    main(prog_name="realizehit")
