"""Requests of polling sessions that reach another worker than the one with the session: they are passed on to that one.

The id of a session begins with the number of its worker. The worker that accepted a request sends it there whole, and
sends the answer to the client. When the client goes meanwhile, the other worker learns of it. An upgrade to a WebSocket
is passed on as a connection: the other worker gets its descriptor, and decides about it as if it had accepted it.
"""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
from collections.abc import Awaitable
from typing import Any, Final, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from realizehit.common.exchange import NoAnswerError
from realizehit.transports.engineio.errors import EngineIOError, Refused

KIND: Final = "polling"
"""The kind of question to another worker, see `Passing.passed`."""

SID_BYTES: Final = 15

_NUMBERED: Final = re.compile(r"(\d{1,4})-")


class Ask(Protocol):
    """Asks another worker."""

    def __call__(self, number: int, kind: str, data: Any, *, patience: float) -> Awaitable[Any]:
        """Return its answer; `NoAnswerError` where there is none."""


class SendConnection(Protocol):
    """Sends a connection to another worker."""

    def __call__(self, number: int, fd: int, data: bytes) -> bool:
        """Send its descriptor, and what it has sent so far; return whether the worker gets it."""


class Passing:
    """Passes requests on to other workers, and serves those that others pass on.

    Args:
        number: of this worker.
        ask: asks another worker.
        send_connection: sends it a connection.
        patience: seconds for another worker to answer; a poll may wait for most of a heartbeat.
        max_payload: bytes that the body of a POST may have.
    """

    def __init__(
        self, number: int, ask: Ask, send_connection: SendConnection, *, patience: float, max_payload: int
    ) -> None:
        self._number = number
        self._ask = ask
        self.send_connection: Final = send_connection
        self._patience = patience
        self._max_payload = max_payload

    def new_sid(self) -> str:
        """Return an id for a session of this worker."""
        return f"{self._number}-{secrets.token_urlsafe(SID_BYTES)}"

    def other_worker(self, sid: str) -> int | None:
        """Return the number of the worker that has a session, if that is another one."""
        numbered = _NUMBERED.match(sid)
        if numbered is None or int(numbered[1]) == self._number:
            return None
        return int(numbered[1])

    async def pass_on(self, number: int, scope: Scope, receive: Receive, send: Send) -> None:
        """Have a request answered by another worker.

        Raises:
            Refused: the session is unknown, since its worker is gone.
        """
        request = {
            "method": scope["method"],
            "path": scope["path"],
            "query": scope["query_string"].decode("latin-1"),
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
            "client": scope.get("client"),
            "body": base64.b64encode(await self._read(receive)).decode() if scope["method"] == "POST" else "",
        }
        asking = asyncio.ensure_future(self._ask(number, KIND, request, patience=self._patience))
        gone = asyncio.ensure_future(disconnected(receive))
        try:
            await asyncio.wait({asking, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not asking.done():
                asking.cancel()
        if asking.cancelled() or not asking.done():
            return
        try:
            status, headers, body = asking.result()
        except NoAnswerError:
            raise Refused(EngineIOError.UNKNOWN_SID) from None
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": base64.b64decode(body)})

    async def _read(self, receive: Receive) -> bytes:
        """Return the body, or the beginning of one that is too large."""
        parts: list[bytes] = []
        size = 0
        while size <= self._max_payload:
            message = await receive()
            if message["type"] != "http.request":
                raise Refused(EngineIOError.BAD_REQUEST, "the request was incomplete")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if not message.get("more_body", False):
                break
        return b"".join(parts)

    @staticmethod
    async def passed(app: ASGIApp, request: Any) -> Any:
        """Serve a request that another worker passed on, and return what `pass_on` takes for the answer."""
        scope: Scope = {
            "type": "http",
            "method": request["method"],
            "path": request["path"],
            "query_string": request["query"].encode("latin-1"),
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request["headers"]],
            "client": request["client"] and tuple(request["client"]),
        }
        gone = asyncio.Event()
        messages: list[Message] = []
        bodies = [base64.b64decode(request["body"])]

        async def receive() -> Message:
            if bodies:
                return {"type": "http.request", "body": bodies.pop(), "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            messages.append(message)

        serving = asyncio.ensure_future(app(scope, receive, send))
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            gone.set()
            await serving
            raise
        start, *rest = messages
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in start["headers"]]
        body = b"".join(message.get("body", b"") for message in rest)
        return start["status"], headers, base64.b64encode(body).decode()


async def disconnected(receive: Receive) -> None:
    """Wait until the client of a request is gone; what it sends is ignored."""
    while (await receive())["type"] != "http.disconnect":
        pass
