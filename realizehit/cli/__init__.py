"""The commands: `realizehit-server` runs a server, `realizehit` publishes, subscribes and looks things up.

Each command is a module of its own and imported when it is called: looking up an id does not load a web server.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Sequence

from realizehit.children import leave_working_directory

_SUBCOMMANDS = {"check-config", "healthcheck"}  # of `realizehit-server`, which serve nobody


def server() -> None:
    """Run ``realizehit-server``."""
    leave_working_directory()
    prepare(sys.argv[1:])
    from realizehit.cli.serve import serve

    write_anything()
    try:
        serve(prog_name="realizehit-server")
    finally:
        _let_go_of_output()


def prepare(words: Sequence[str]) -> None:
    """Do what a server's process does first; see `realizehit.cli.init`.

    Args:
        words: what follows the command's name.
    """
    from realizehit.cli.init import begin

    begin(status=None if _SUBCOMMANDS.intersection(words) else 0)


def write_anything() -> None:
    """Write characters that the terminal's encoding lacks as JSON writes them, instead of failing."""
    codecs.register_error("realizehit.json", _as_json_escapes)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="realizehit.json")


def _as_json_escapes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2)), error.end


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


def client(prog_name: str = "realizehit") -> None:
    """Run ``realizehit``."""
    leave_working_directory()
    if sys.argv[1:2] == ["server"]:
        prepare(sys.argv[2:])
    from realizehit.cli.main import main

    write_anything()
    main(prog_name=prog_name)
