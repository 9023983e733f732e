"""The commands: `realizehit-server` runs a server; `realizehit` publishes, subscribes, and has small tools.

Each command is a module that is imported when the command is called: showing an id does not load a web server.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from realizehit.cli.streams import with_streams
from realizehit.common.children import leave_working_directory

_SUBCOMMANDS = {"check-config", "healthcheck"}  # of `realizehit-server`; they do not serve


def server() -> None:
    """Run ``realizehit-server``."""
    leave_working_directory()
    prepare(sys.argv[1:])
    from realizehit.cli.serve import serve

    with_streams(lambda: serve(prog_name="realizehit-server"))


def prepare(words: Sequence[str]) -> None:
    """Prepare a server's process: handle signals, and run under an init if this is process 1. See `pid1`.

    Args:
        words: the arguments of the command.
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

        run_under_init()  # its child ends by a signal as a command outside a container does
    from realizehit.cli.main import main

    with_streams(lambda: main(prog_name=prog_name))
