"""The subscribers and the publisher of a broadcast, in a process that yields to others on its core."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.system.crowd import Crowd
from benchmarks.system.place import give_way

RATE = 2.0  # broadcasts a second


def main() -> None:
    options: dict[str, Any] = json.loads(sys.argv[1])
    os.sched_setaffinity(0, {options["core"]})
    give_way()
    valkey: Any = SimpleNamespace(path=Path(options["broker"]))
    with Crowd(options["ws"], valkey, [{"large": 1}], [[0]] * options["size"]) as crowd:
        crowd.join()
        print(json.dumps({"ready": crowd.size}), flush=True)
        for line in sys.stdin:
            seconds = json.loads(line)["seconds"]
            before = crowd.fleet.deliveries
            crowd.fleet.schedule(rate=RATE)
            crowd.fleet.run(seconds)
            crowd.fleet.unschedule()
            crowd.fleet.run(2.0, deliveries=before + int(seconds * RATE) * crowd.size)
            crowd.check()
            print(json.dumps({"deliveries": crowd.fleet.deliveries - before}), flush=True)


if __name__ == "__main__":
    main()
