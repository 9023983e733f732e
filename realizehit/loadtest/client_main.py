"""A client process as a program of its own: ``python -m realizehit.loadtest.client_main DESCRIPTOR``.

The descriptor is one end of a pipe of `multiprocessing.connection`. What to do comes through it first.
"""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection

from realizehit.loadtest.worker import work


def main() -> None:
    """Take the work from the pipe and do it."""
    pipe = Connection(int(sys.argv[1]))
    try:
        job = pipe.recv()
    except EOFError:
        return  # the load test is gone already
    work(pipe, job)


if __name__ == "__main__":
    main()
