"""The C floor as a process that a client can connect to like a node."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.system.compiled import shared_library
from benchmarks.system.place import raise_file_limit
from benchmarks.system.processes import START_TIMEOUT, Child, Valkey

_HERE = Path(__file__).parent


class Floor(Child):
    """A plain C ``send`` loop to ``count`` clients, all of which subscribe to one channel."""

    def __init__(self, broker: Valkey, count: int, *, core: int | None) -> None:
        raise_file_limit(count + 200)  # the child's are this process's
        library = shared_library(_HERE / "floor.c")
        options = {"library": str(library), "broker": str(broker.path), "core": core, "count": count}
        super().__init__([sys.executable, "-P", str(_HERE / "_floor.py"), json.dumps(options)])
        self.ws_url = str(self.said["ws"])

    def ready(self) -> None:
        """Wait until all clients are subscribed, and the broker knows."""
        self.hear(START_TIMEOUT)
