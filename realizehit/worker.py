"""The program of a worker process, ``python -m realizehit.worker``: operators find workers by this name."""

from __future__ import annotations

from realizehit.process.worker import main

if __name__ == "__main__":
    main()
