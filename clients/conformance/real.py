"""A real ``realizehit-server`` with its embedded Valkey, for the cases that need one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx2

from realizehit.settings import OPTIONS, variable_of

START_TIMEOUT: Final = 30.0
STOP_TIMEOUT: Final = 15.0
SECRET: Final = "the-secret-of-the-conformance-kit-0123456789"  # noqa: S105 - of servers that live as long as a case
API_KEY: Final = "rhk_publisher_of_the_kit"
NEWS_KEY: Final = "rhk_publisher_of_news_only"
SLOW_KEY: Final = "rhk_publisher_with_a_low_rate"


class RealServer:
    """A server as a process.

    Args:
        args: further arguments of the command.

    Attributes:
        broken: whether a case stopped or damaged it, so that the next one needs another.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self.args = tuple(args)
        self.broken = False
        self._port = _free_port()
        self._process: asyncio.subprocess.Process | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="rh-kit-", ignore_cleanup_errors=True)
        self._log = Path(self._directory.name) / "server.log"
        self._client = httpx2.AsyncClient(trust_env=False, timeout=10.0)

    @property
    def ws(self) -> str:
        """The address for WebSocket clients."""
        return f"ws://127.0.0.1:{self._port}/ws"

    @property
    def api(self) -> str:
        """The address for API clients."""
        return f"http://127.0.0.1:{self._port}/"

    @property
    def port(self) -> int:
        """The port of both."""
        return self._port

    @property
    def log(self) -> str:
        """What the server wrote."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    async def start(self) -> None:
        """Start it, or start it again on the same port, and wait until it is ready.

        Raises:
            RuntimeError: it did not become ready.
        """
        own = {variable_of(option.name) for option in OPTIONS} | {"REALIZEHIT_CONFIG"}
        env = {name: value for name, value in os.environ.items() if name not in own}
        env["TMPDIR"] = self._directory.name
        if "--jwt-algorithm" in self.args:
            env["REALIZEHIT_JWT_SECRET"] = SECRET
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                "from realizehit.cli import server; server()",
                "--port",
                str(self._port),
                *self.args,
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while not await self._is_ready():
                    if self._process.returncode is not None:
                        raise RuntimeError(f"the server ended: {self.log}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise RuntimeError(f"the server was not ready in {START_TIMEOUT:g} s: {self.log}") from None

    async def _is_ready(self) -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            return (await self._client.get(f"{self.api}readyz")).status_code == httpx2.codes.OK
        return False

    async def publish(self, pattern: Mapping[str, Any], text: str) -> None:
        """Publish one message, its payload as a text.

        Raises:
            RuntimeError: the server did not take it.
        """
        import json

        body = f'{{"pattern":{json.dumps(dict(pattern))},"payload":{text}}}'
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {API_KEY}"}
        answer = await self._client.post(self.api, content=body.encode(), headers=headers)
        if not answer.is_success:
            raise RuntimeError(f"the server answered a publication with {answer.status_code}: {answer.text}")

    async def publish_batch(self, body: bytes) -> None:
        """Publish a batch, the body of a request as it is.

        Raises:
            RuntimeError: the server did not take it.
        """
        headers = {"Content-Type": "application/json"}
        answer = await self._client.post(f"{self.api}batch", content=body, headers=headers)
        if not answer.is_success:
            raise RuntimeError(f"the server answered a batch with {answer.status_code}: {answer.text}")

    def terminate(self) -> None:
        """Send SIGTERM: the server drains its clients."""
        assert self._process is not None
        self.broken = True
        self._process.terminate()

    def kill_broker(self) -> None:
        """Kill the embedded Valkey; the server starts another one."""
        (file,) = Path(self._directory.name).glob("realizehit-*/*/v.pid")
        os.kill(int(file.read_text()), signal.SIGKILL)
        self.broken = True  # the next case shall not meet a server that is still counting its channels back

    async def wait(self) -> None:
        """Wait until it has ended."""
        if self._process is not None:
            await self._process.wait()

    async def stop(self) -> None:
        """End it."""
        process = self._process
        if process is not None and process.returncode is None:
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0 if number is signal.SIGTERM else STOP_TIMEOUT):
                        await process.wait()
                        break
        await self._client.aclose()
        self._directory.cleanup()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
