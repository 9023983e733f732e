"""The server that a load test starts for itself: ``python -m realizehit.loadtest.embedded``.

It prints one line of JSON with its addresses, and ends when its standard input does, so that it never outlives the
load test.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from typing import Any

from realizehit.bus.embedded import EmbeddedValkey
from realizehit.errors import RealizehitError
from realizehit.loadtest.limits import raise_open_files
from realizehit.server import Node, run
from realizehit.settings import Settings


def main() -> int:
    """Serve until standard input ends; the exit status is 1 where the server did not start."""
    logging.basicConfig(level=logging.WARNING, format="server: %(message)s")
    raise_open_files()
    try:
        with contextlib.ExitStack() as stack:
            url = os.environ.get("REALIZEHIT_LOADTEST_REDIS") or stack.enter_context(EmbeddedValkey()).url

            def started(node: Node) -> None:
                _tell(ws=node.ws_url, api=node.api_url, redis=url)

            run(Settings(port=0, drain_seconds=0.0), url, on_started=started, stop_fd=sys.stdin.fileno())
    except RealizehitError as error:
        _tell(error=str(error))
        return 1
    return 0


def _tell(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
