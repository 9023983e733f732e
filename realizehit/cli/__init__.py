"""The commands: `realizehit-server` runs a server, `realizehit` publishes, subscribes and looks things up.

Each command is a module of its own and imported when it is called: looking up an id does not load a web server.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from realizehit.cli.streams import with_streams
from realizehit.common.children import leave_working_directory

_SUBCOMMANDS = {"check-config", "healthcheck"}  # of `realizehit-server`, which serve nobody


def server() -> None:
    """Run ``realizehit-server``."""
    leave_working_directory()
    prepare(sys.argv[1:])
    from realizehit.cli.serve import serve

    with_streams(lambda: serve(prog_name="realizehit-server"))


def prepare(words: Sequence[str]) -> None:
    """Do what a server's process does first; see `realizehit.cli.pid1`.

    Args:
        words: what follows the command's name.
    """
    from realizehit.cli.pid1 import exit_on_signals, run_under_init

    exit_on_signals(status=None if _SUBCOMMANDS.intersection(words) else 0)
    run_under_init()


def client(prog_name: str = "realizehit") -> None:
    """Run ``realizehit``."""
    leave_working_directory()
    if sys.argv[1:2] == ["server"]:
        prepare(sys.argv[2:])
    elif os.getpid() == 1:
        from realizehit.cli.pid1 import run_under_init

        run_under_init()  # whose child ends with a signal as a command elsewhere does
    from realizehit.cli.main import main

    with_streams(lambda: main(prog_name=prog_name))
