"""One WebSocket connection of a client: it sends actions in order, and each gets one answer.

A connection is used until it is lost. The client decides what to do then.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidProxy, InvalidStatus, InvalidURI, WebSocketException
from websockets.uri import parse_uri

from realizehit.client.protocol import Notice, Reply, action, parse_event, parse_reply
from realizehit.client.proxies import bad_proxy, no_socks
from realizehit.client.refusals import rejection
from realizehit.client.token import LOGGER
from realizehit.common.causes import reason_of
from realizehit.common.masking import masked
from realizehit.errors import (
    CloseCode,
    Disconnected,
    ErrorCode,
    Rejected,
    ResponseTimeout,
    SettingsError,
    Unavailable,
)

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT = 5.0  # seconds for the server to answer a close frame
NOT_UTF8 = "a text is not UTF-8"  # the reason of the close frame
MAX_DETAIL = 1000  # characters of a server's explanation that are shown


_CODES: Final[dict[int, str]] = {
    CloseCode.NOT_AUTHENTICATED: ErrorCode.NOT_AUTHENTICATED,
    CloseCode.FORBIDDEN: ErrorCode.FORBIDDEN,
    CloseCode.TOO_MANY_CONNECTIONS: ErrorCode.TOO_MANY_CONNECTIONS,
}


class Lost(Disconnected):
    """A connection that ended.

    Args:
        message: what happened.
        close_code: the close code that the server sent, if any.
        reason: the reason that the server sent.
    """

    def __init__(self, message: str, close_code: int | None = None, reason: str = "") -> None:
        super().__init__(message, close_code)
        self.reason = reason
        self.code = _CODES.get(close_code or 0, "")

    @classmethod
    def of(cls, closed: ConnectionClosed) -> Lost:
        """Make one from the library's exception."""
        received = closed.rcvd
        if received is None:
            ours = f" ({closed.sent.reason})" if closed.sent is not None and closed.sent.reason else ""
            return cls(f"the connection was lost{ours}")
        if closed.rcvd_then_sent is False:
            return cls("the client closed the connection", received.code, received.reason)
        why = f": {received.reason}" if received.reason else ""
        return cls(f"the server closed the connection with {received.code}{why}", received.code, received.reason)


Answered = Callable[[Reply | Lost], None]
"""Called once, with the reply to an action or with the end of the connection."""


def is_utf8(message: bytes) -> bool:
    """Whether a message is valid UTF-8, as RFC 6455 requires of text; otherwise the connection must be closed."""
    try:
        message.decode()
    except UnicodeDecodeError:
        return False
    return True


class _Socket(ClientConnection):
    """The library's connection, which also remembers when it last received anything."""

    last_heard = 0.0

    def data_received(self, data: bytes) -> None:
        """Record the time: after a loss, messages may be missing from then on."""
        self.last_heard = self.loop.time()
        super().data_received(data)


def is_secure(url: str) -> bool:
    """Check that a WebSocket client can use a URL.

    Returns:
        Whether it is ``wss://``.

    Raises:
        SettingsError: it cannot be used.
    """
    try:
        return parse_uri(url).secure
    except InvalidURI as error:
        raise SettingsError(f"the URL cannot be used; write ws://host:port/ws: {masked(str(error))}") from None
    except ValueError as error:  # the library lets some of urllib's through
        raise SettingsError(f"the URL {masked(url)!r} cannot be used; write ws://host:port/ws: {error}") from None


def handshake_error(url: str, error: OSError | WebSocketException) -> Rejected | Unavailable | SettingsError:
    """Return the error of this package for one of the library's while connecting."""
    url = masked(url)
    if isinstance(error, InvalidProxy):
        return bad_proxy(error)
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        detail, code = _problem(error.response.body)
        text = f"{url} answered the handshake with HTTP {status}{detail and f': {detail}'}"
        is_refusal = 400 <= status < 500 and status not in (408, 425, 429)
        return rejection(text, code, status) if is_refusal else Unavailable(text, status)
    return Unavailable(f"cannot connect to {url}: {reason_of(error)}")


def _problem(body: bytes | bytearray | None) -> tuple[str, str]:
    """Return the detail and the code of a problem document; empty texts if the body is not one."""
    try:
        values = orjson.loads(body or b"")
    except orjson.JSONDecodeError:
        return "", ""
    if not isinstance(values, dict):
        return "", ""
    detail, code = values.get("detail"), values.get("code")
    return (detail[:MAX_DETAIL] if isinstance(detail, str) else ""), (code if isinstance(code, str) else "")


async def open_connection(url: str, **options: Any) -> Connection:
    """Connect and do the opening handshake.

    Args:
        url: where to.
        **options: of the library's ``connect``.

    Raises:
        Unavailable: the server cannot be reached, or cannot serve now.
        Rejected: it refused the handshake; ``status`` says how.
        SettingsError: the environment names a proxy that cannot be used.
    """
    try:
        socket = await connect(
            url,
            compression=None,
            close_timeout=CLOSE_TIMEOUT,
            create_connection=_Socket,
            max_queue=64,
            logger=LOGGER,
            **options,
        )
    except (OSError, WebSocketException) as error:  # TimeoutError is an OSError
        raise handshake_error(url, error) from error
    except ImportError:
        raise no_socks("python-socks") from None
    assert isinstance(socket, _Socket)
    return Connection(socket)


class Connection:
    """A connection that is open. Made by `open_connection`."""

    def __init__(self, socket: _Socket) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._pending: dict[str, Answered] = {}
        self._outgoing: asyncio.Queue[str] = asyncio.Queue()

    @property
    def last_heard(self) -> float:
        """The loop's time at which anything was last received, a pong included."""
        return self._socket.last_heard

    def act(
        self,
        act: str,
        filters: Mapping[str, Any] | None,
        answered: Answered,
        *,
        token: str | None = None,
        sub_keys: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        """Send one action. The actions of one turn of the loop go out together.

        Args:
            act: the action's name.
            filters: its pattern, if it has one.
            answered: called once, with the reply or with the end of the connection.
            token: its token, if it has one.
            sub_keys: further keys of ``sub``.

        Returns:
            The action's id, for `forget`.
        """
        request_id = str(next(self._numbers))
        self._pending[request_id] = answered
        self._outgoing.put_nowait(action(request_id, act, filters, token=token, sub_keys=sub_keys))
        return request_id

    def forget(self, request_id: str) -> None:
        """Stop waiting for an answer: a server does not answer a ``sub`` that an ``unsub`` overtook."""
        self._pending.pop(request_id, None)

    async def request(self, act: str, *, timeout: float, token: str | None = None) -> None:  # noqa: ASYNC109 - the caller's setting
        """Send one action and wait for its reply.

        Raises:
            Disconnected: the connection went away meanwhile.
            ResponseTimeout: no answer in time.
            Rejected, Unavailable: the server refused the action.
        """
        answer: asyncio.Future[Reply | Lost] = asyncio.get_running_loop().create_future()
        request_id = self.act(act, None, lambda reply: None if answer.done() else answer.set_result(reply), token=token)
        try:
            async with asyncio.timeout(timeout):
                reply = await answer
        except TimeoutError:
            raise ResponseTimeout(f"no answer to {act} within {timeout:g} seconds") from None
        finally:
            self.forget(request_id)
        failure = reply if isinstance(reply, Lost) else reply.failure()
        if failure is not None:
            raise failure

    async def serve(
        self, deliver: Callable[[bytes, bytes], bool | None], notice: Callable[[Notice], object] = lambda event: None
    ) -> Lost:
        """Read until the connection is lost, then answer every pending action with the loss.

        Args:
            deliver: takes what stands before the ``?`` of a message and the payload; returns ``None`` if no
                subscription has that id, otherwise whether a reader should run before the next message.
            notice: takes the events that the server sends.
        """
        lost = Lost("the client was closed")
        writer = asyncio.create_task(self._write(), name="realizehit client writer")
        try:
            while True:
                message = await self._socket.recv(decode=False)
                if not (message.isascii() or is_utf8(message)):  # the library leaves the check to us
                    await self._socket.close(CloseCode.INVALID_DATA, NOT_UTF8)
                    continue
                head, mark, payload = message.partition(b"?")
                full = deliver(head, payload) if mark else None
                if full is None:
                    self._take_other(message, notice)
                elif full:
                    await asyncio.sleep(0)
        except ConnectionClosed as closed:
            lost = Lost.of(closed)
            return lost
        finally:
            writer.cancel()
            self._socket.transport.abort()  # closed already, unless this task was cancelled
            pending, self._pending = self._pending, {}
            for answered in pending.values():
                answered(lost)

    async def close(self) -> None:
        """End the connection; `serve` returns then."""
        await self._socket.close()

    def _take_other(self, message: bytes, notice: Callable[[Notice], object]) -> None:
        if not message.startswith(b"{"):
            return
        reply = parse_reply(message)
        if reply is None:
            event = parse_event(message)
            if event is not None:
                notice(event)
            return
        answered = self._pending.pop(reply.id, None)
        if answered is not None:
            answered(reply)

    async def _write(self) -> None:
        try:
            while True:
                await self._socket.send(await self._outgoing.get())
        except ConnectionClosed:
            pass  # the reader gets this error too
        except Exception:
            logger.exception("writing to the server failed; the client connects again")
            self._socket.transport.abort()
