"""A WebSocket server that a test scripts: close codes, silences and answers that no real node gives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any

import orjson
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

Script = Callable[["Scripted", ServerConnection], Awaitable[None]]


class Scripted:
    """The record of the server.

    Attributes:
        arrivals: the loop's time of each connection that was let in.
        actions: what clients sent, in order.
        status: the HTTP status of handshakes from now on, ``None`` to let them in.
    """

    def __init__(self, scripts: list[Script]) -> None:
        self.scripts = scripts
        self.arrivals: list[float] = []
        self.actions: list[dict[str, Any]] = []
        self.status: HTTPStatus | None = None
        self.refused = 0
        self.url = ""

    async def handle(self, socket: ServerConnection) -> None:
        self.arrivals.append(asyncio.get_running_loop().time())
        script = self.scripts[min(len(self.arrivals), len(self.scripts)) - 1]
        with suppress(ConnectionClosed):
            await script(self, socket)

    def look(self, socket: ServerConnection, request: Request) -> Response | None:
        if self.status is None:
            return None
        self.refused += 1
        return socket.respond(self.status, "as the test says")

    async def next_action(self, socket: ServerConnection) -> dict[str, Any]:
        action: dict[str, Any] = orjson.loads(await socket.recv())
        self.actions.append(action)
        return action


async def reply(socket: ServerConnection, action: dict[str, Any], **more: Any) -> None:
    await socket.send(orjson.dumps({"id": action["id"], **more}).decode())


async def answer_all(server: Scripted, socket: ServerConnection) -> None:
    """Answer each action like a node, with an id made of the pattern's first value."""
    while True:
        action = await server.next_action(socket)
        ret = "pong" if action["act"] == "ping" else str(next(iter(action["pat"].values())))
        await reply(socket, action, ret=ret)


def answer_then_close(count: int, code: int, reason: str = "") -> Script:
    """Answer a number of actions, then close."""

    async def script(server: Scripted, socket: ServerConnection) -> None:
        for _ in range(count):
            action = await server.next_action(socket)
            await reply(socket, action, ret=str(next(iter(action["pat"].values()))))
        await socket.close(code, reason)

    return script


@asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[Scripted]:
    """Run a server whose n-th connection follows the n-th script, later ones the last."""
    server = Scripted(list(scripts))
    async with serve(
        server.handle, "127.0.0.1", 0, process_request=server.look, compression=None, close_timeout=1
    ) as running:
        port = next(iter(running.sockets)).getsockname()[1]
        server.url = f"ws://127.0.0.1:{port}/ws"
        yield server
