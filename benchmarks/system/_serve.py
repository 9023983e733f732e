"""A node in a separate process, for the benchmarks: prints one JSON line when it listens, ends with its input.

Run as a script, so that it can be the server of another revision as well: it imports nothing of the benchmarks.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from realizehit.process.server import Node
from realizehit.settings import Settings

try:
    from realizehit.process.running import run
except ImportError:  # an older revision, to compare with
    from realizehit.process.server import run  # type: ignore[attr-defined, no-redef]


def log_to_nowhere() -> None:
    """Write log lines as the command does, to the null device: each is formatted, and one system call."""
    from realizehit.logs.lines import configure

    sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open as long as this process
    configure("text", "info")


def main() -> None:
    options: dict[str, Any] = json.loads(sys.argv[1])
    core, broker, reuse_port = options.pop("core"), options.pop("broker"), options.pop("reuse_port")
    if core is not None:
        os.sched_setaffinity(0, {core})

    if options.get("access_log"):
        log_to_nowhere()

    def started(node: Node) -> None:
        print(json.dumps({"ws": node.ws_url, "api": node.api_url}), flush=True)

    # An older revision may lack some settings and their features.
    known = {field.name for field in dataclasses.fields(Settings)}
    options = {name: value for name, value in options.items() if name in known}
    settings = Settings(**{"port": 0, "drain_seconds": 0, **options})
    run(settings, broker, reuse_port=reuse_port, on_started=started, stop_fd=sys.stdin.fileno())


if __name__ == "__main__":
    main()
