"""The program of the server that a load test starts: ``python -m realizehit.loadtest.server_main [WORKERS]``.

It prints one line of JSON with its addresses, and ends when its standard input ends, so that it never outlives the
load test. The broker's URL comes in the environment, because it may hold a password; without one the server starts a
Valkey.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
from typing import Any

from realizehit.broker.embedded import EmbeddedValkey
from realizehit.errors import RealizehitError
from realizehit.loadtest.started_server import REDIS_VARIABLE
from realizehit.process.supervisor import start
from realizehit.settings import Settings


def main() -> int:
    """Serve until standard input ends; the exit status is 1 if the server did not start."""
    logging.basicConfig(level=logging.WARNING, format="server: %(message)s")
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        with contextlib.ExitStack() as stack:
            url = os.environ.get(REDIS_VARIABLE) or stack.enter_context(EmbeddedValkey()).url
            settings = Settings(port=0, redis=url, workers=workers, drain_seconds=0.0, log_level="warning")
            start(settings, lambda ws, api, _places: _tell(ws=ws, api=api, redis=url))
    except RealizehitError as error:
        _tell(error=str(error))
        return 1
    return 0


def _end_with_input() -> None:
    # Not through sys.stdin: at exit the interpreter would wait for the lock of the buffered reader.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _tell(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
