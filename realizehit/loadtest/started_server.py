"""The server that a load test starts for itself, as a child process."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from realizehit.common import children
from realizehit.errors import LoadTestError
from realizehit.loadtest.plan import Publish
from realizehit.loadtest.target import Target, find_target

REDIS_VARIABLE: Final = "REALIZEHIT_LOADTEST_REDIS"  # not an argument: a URL may hold a password
STOP_TIMEOUT: Final = 15.0  # seconds for the server to end


@contextmanager
def embedded_target(*, redis: str | None = None, publish: Publish | None = None, workers: int = 1) -> Iterator[Target]:
    """Run a server as long as the context lasts; without a broker's URL it starts its own Valkey.

    Args:
        redis: the broker's URL.
        publish: how to publish; ``None`` for directly to the broker.
        workers: the number of the server's processes.

    Raises:
        LoadTestError: it did not start; the text says why.
    """
    environment = {**children.environment(), REDIS_VARIABLE: redis or ""}
    # Its own session: Ctrl+C in the terminal reaches the load test alone, which then ends the server.
    process = subprocess.Popen(  # noqa: S603 - this package's own module
        children.command("realizehit.loadtest.server_main", str(workers)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        told = json.loads(line) if line else {"error": f"it ended with status {process.wait(STOP_TIMEOUT)}"}
        if "error" in told:
            raise LoadTestError(f"the server for the load test did not start: {told['error']}")
        found = find_target(told["ws"], api=told["api"], redis=told["redis"], publish=publish or "redis")
        yield replace(found, embedded=True, pids=tuple({process.pid, *found.pids}))
    finally:
        process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
