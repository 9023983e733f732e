"""The program of a client process: ``python -m realizehit.loadtest.client_main DESCRIPTOR``.

The descriptor is one end of a pipe of `multiprocessing.connection`. The first message is the job.
"""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection

from realizehit.loadtest.worker import work


def main() -> None:
    """Receive the job from the pipe and run it."""
    pipe = Connection(int(sys.argv[1]))
    try:
        job = pipe.recv()
    except EOFError:
        return  # the load test is gone already
    work(pipe, job)


if __name__ == "__main__":
    main()
