"""``python -m realizehit``: the command ``realizehit``; its subcommand ``server`` is ``realizehit-server``."""

from __future__ import annotations

from realizehit.cli import client

if __name__ == "__main__":
    client(prog_name="python -m realizehit")
