"""The commands: `realizehit-server` runs a server, `realizehit` publishes, subscribes and looks things up.

Each command is a module of its own and imported when it is called: looking up an id does not load a web server.
"""

from __future__ import annotations


def server() -> None:
    """Run ``realizehit-server``."""
    from realizehit.cli.serve import serve

    serve(prog_name="realizehit-server")


def client() -> None:
    """Run ``realizehit``."""
    from realizehit.cli.main import main

    main(prog_name="realizehit")
