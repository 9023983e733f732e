"""Redis as the distribution packages it, with the methods of the Valkey that other tests use."""

from __future__ import annotations

import subprocess
import time
from typing import Any

import redis

from tests.support.valkey import Valkey


class RedisServer(Valkey):
    """A ``redis-server`` on a Unix socket."""

    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir", str(self.directory)]
        self._process = subprocess.Popen(["redis-server", *words], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not self._answers():
            assert self._process.poll() is None, "redis-server ended"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            return bool(self.command("PING"))
        except redis.ConnectionError:
            return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def __exit__(self, *exc: Any) -> None:
        self.kill()
        super().__exit__(*exc)
