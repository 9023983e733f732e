"""The commands: `realizehit-server` runs a server, `realizehit` publishes, subscribes and looks things up.

Each command is a module of its own and imported when it is called: looking up an id does not load a web server.
"""

from __future__ import annotations

from realizehit.children import leave_working_directory
from realizehit.cli.streams import with_streams


def server() -> None:
    """Run ``realizehit-server``."""
    leave_working_directory()
    from realizehit.cli.serve import serve

    with_streams(lambda: serve(prog_name="realizehit-server"))


def client(prog_name: str = "realizehit") -> None:
    """Run ``realizehit``."""
    leave_working_directory()
    from realizehit.cli.main import main

    with_streams(lambda: main(prog_name=prog_name))
