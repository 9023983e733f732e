"""The Python and the JavaScript client in the soak: they reconnect by themselves, and say what was missed."""

from __future__ import annotations

import asyncio
import json
import time
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from realizehit import WSClient
from realizehit.client.received_message import ReceivedMessage
from realizehit.client.subscription import Subscription
from realizehit.common.position import Position
from realizehit.errors import ClientError
from tests.interop.npm import install
from tests.support.account import Account
from tests.support.account_records import Back, Came, Filters, Life, Told

ROOT: Final = Path(__file__).resolve().parents[2]
SCRIPT: Final = Path(__file__).with_name("js_reader.mjs")
WS: Final = "ws@8.23.0"  # Node.js before 22 has no WebSocket
PATIENCE: Final = 30.0


class PythonClient:
    """A `WSClient` with some subscriptions.

    Args:
        account: gets the subscriptions.
        url: of the server.
        wanted: the patterns, and whether positions are asked for.
    """

    name = "python client"

    def __init__(self, account: Account, url: str, wanted: Sequence[tuple[Filters, bool]]) -> None:
        self.lives: list[Life] = []
        self._account = account
        self._wanted = wanted
        self._client = WSClient(
            url,
            proxy=None,
            heartbeat=1.5,
            backoff_base=0.1,
            backoff_cap=1.0,
            response_timeout=PATIENCE,
            maxsize=100_000,
        )

    async def start(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                await self._client.connect()
                break
            except ClientError:
                assert time.monotonic() < deadline, "the server cannot be reached"
                await asyncio.sleep(0.1)
        for filters, positions in self._wanted:
            life = self._account.begin(Life(self.name, filters, queued=True, measured=True))
            self.lives.append(life)
            await self._subscribe(life, positions)

    async def _subscribe(self, life: Life, positions: bool) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                subscription = await self._client.subscribe(life.filters, offsets=positions)
                break
            except ClientError:
                assert time.monotonic() < deadline, "the subscription is refused"
                await asyncio.sleep(0.1)
        life.begun, life.at = time.monotonic(), Position.parse(subscription.position)
        listen(subscription, life)

    async def stop(self) -> None:
        await self._client.close()


def listen(subscription: Subscription, life: Life) -> None:
    """Enter what comes for a subscription."""

    def came(message: ReceivedMessage) -> None:
        life.events.append(Came(time.monotonic(), message.payload[0], Position.parse(message.position)))

    def told(seconds: float) -> None:
        now = time.monotonic()
        # The event comes when it is known, and counts from the last sign of life.
        life.events.append(Told(now, now - seconds if seconds else 0.0, None))

    subscription.on("message", came)
    subscription.on("gap", told)
    subscription.on("recovered", lambda: life.events.append(Back(time.monotonic(), None)))


class JavaScriptClient:
    """A program in Node.js with the JavaScript client.

    Args:
        account: gets the subscriptions.
        directory: where the program and the package for WebSockets are.
        url: of the server.
        transport: ``websocket`` or ``sse``.
        wanted: the patterns, and whether positions are asked for.
    """

    def __init__(
        self, account: Account, directory: Path, url: str, transport: str, wanted: Sequence[tuple[Filters, bool]]
    ) -> None:
        self.name = f"js {transport}"
        self.lives = [Life(self.name, filters, measured=True) for filters, _ in wanted]
        for life in self.lives:
            account.begin(life)
        self._directory = directory
        self._words = (url, transport, json.dumps([{"pattern": dict(each), "offsets": has} for each, has in wanted]))
        self._wanted = wanted
        self._reading: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()

    @staticmethod
    def prepare(directory: Path) -> Path:
        """Install what the program needs, and return the directory with it."""
        return install(directory, SCRIPT, WS)

    async def start(self) -> None:
        client = ROOT / "clients" / "js" / "realizehit.js"
        words = ("node", str(self._directory / SCRIPT.name), str(client), *self._words)
        self._process = await asyncio.create_subprocess_exec(*words, stdin=PIPE, stdout=PIPE, limit=1 << 22)
        self._reading = asyncio.create_task(self._read())
        async with asyncio.timeout(PATIENCE):
            await self._begun.wait()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._enter(json.loads(line))

    def _enter(self, event: dict[str, Any]) -> None:
        now, life, kind = event["when"], self.lives[event["index"]], event["kind"]
        position = Position.parse(event.get("position"))
        if kind == "came":
            life.events.append(Came(now, event["serial"], position))
        elif kind == "gap":
            life.events.append(Told(now, now - event["seconds"] if event["seconds"] else 0.0, None))
        elif kind == "recovered":
            life.events.append(Back(now, None))
        elif kind == "subscribed" and life.begun is None:
            life.begun, life.at = now, position
            if all(each.begun is not None for each in self.lives):
                self._begun.set()

    async def stop(self) -> None:
        if self._reading is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(PATIENCE):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reading
