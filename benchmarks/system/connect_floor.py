"""The C floor of connects as a process that clients connect to like a node."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.system.compiled import program
from benchmarks.system.processes import Child
from realizehit.pattern import Pattern


class ConnectFloor(Child):
    """A C program that answers handshakes, and each client's `sub` with one fixed frame.

    Args:
        core: where it is kept.
        pattern: the one pattern that its clients subscribe to, as the first channel of their fleet.
    """

    def __init__(self, core: int, pattern: Mapping[str, str]) -> None:
        reply = json.dumps({"id": "s00000000", "ret": Pattern(pattern).id}, separators=(",", ":"))
        source = Path(__file__).with_name("connect_floor.c")
        super().__init__([str(program(source)), str(core), reply])
        self.ws_url = f"ws://127.0.0.1:{self.said['port']}/ws"
