"""``python -m realizehit``: the command ``realizehit``; its subcommand ``server`` is ``realizehit-server``."""

from __future__ import annotations

from realizehit.cli.main import main

if __name__ == "__main__":
    main(prog_name="python -m realizehit")
