"""Clients that all leave and come back at once, in a process of their own.

Each line of its input says what to do: ``join``, ``storm`` or ``leave``. The answer is one line with the seconds that
connecting took, or with the reason why it failed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from benchmarks.system.crowd import Crowd
from benchmarks.system.place import give_way

UNDER_WAY = 2000  # connections without an answer yet; more than a system's queue of new ones loses time in retries


def main() -> None:
    options: dict[str, Any] = json.loads(sys.argv[1])
    os.sched_setaffinity(0, {options["core"]})
    # The reader of the live messages and the broker, on the same core, need not wait for these clients.
    give_way()
    size: int = options["size"]
    with Crowd(
        options["ws"],
        None,
        [{"user": n} for n in range(size)],
        [[n] for n in range(size)],
        sources=options["sources"],
        max_pending=UNDER_WAY,
    ) as crowd:
        print(json.dumps({}), flush=True)
        for line in sys.stdin:
            task: str = json.loads(line)["do"]
            said: dict[str, Any] = {}
            try:
                if task != "join":
                    crowd.fleet.disconnect()
                start = time.perf_counter()
                if task != "leave":
                    crowd.join()
                said["seconds"] = time.perf_counter() - start
            except RuntimeError as error:
                said["error"] = str(error)
            print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
