"""Follow a pattern from a plain ``for`` loop, without an event loop."""

from __future__ import annotations

import logging
import math
import ssl as ssl_module
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Final, Literal, Self

from websockets.exceptions import ConnectionClosed

from realizehit.client.conflation import check_every, sub_keys
from realizehit.client.connection import NOT_UTF8, Lost, is_secure, is_utf8
from realizehit.client.filters import computed_id, filters_of, is_wildcard
from realizehit.client.log_cursor import LogCursor
from realizehit.client.ownership import Owner
from realizehit.client.protocol import Notice, action, channel_in, parse_event
from realizehit.client.received_message import ReceivedMessage
from realizehit.client.reconnect_rules import STABLE_AFTER, asked_delay, may_return, may_try_again
from realizehit.client.refusals import rejection
from realizehit.client.sync_connection import SyncSocket, open_socket, subscribe
from realizehit.client.token import SyncToken, check, current_sync, renewal_delay, with_token
from realizehit.common.backoff import Backoff
from realizehit.common.traceparent import traceparent_in
from realizehit.errors import (
    ClientError,
    CloseCode,
    Rejected,
    ResponseTimeout,
    SettingsError,
    TokenUnavailable,
    Unavailable,
)

_logger: Final = logging.getLogger("realizehit.client")


def _warn(error: ClientError) -> None:
    _logger.warning("%s", error)


class Subscriber:
    """Subscribe to one pattern over a connection of its own.

    For example::

        with Subscriber("ws://127.0.0.1:8080/ws", {"kind": "news"}) as news:
            for payload in news:
                print(payload)

    It connects again as `realizehit.WSClient` does, while the loop waits for the next payload. There is no queue on
    this side: the server disconnects a loop that is too slow. With positions (``since``, ``last``, ``offsets``) the
    subscriber comes back without a loss if the server's history reaches back far enough, otherwise with a gap.

    Args:
        url: ``ws://`` or ``wss://``.
        pattern: a mapping of filters, or a `Pattern`.
        raw: whether payloads come as the JSON text they were published as, ``bytes``.
        since: a position, the ``position`` of a message or subscriber: what was published after it comes first.
        last: how many of the last messages come first; not together with ``since``.
        offsets: whether to ask for positions; implied by ``since`` and ``last``. The three have an effect if the server
            keeps a history for the pattern.
        every: milliseconds in which the server sends at most one message, always the newest; ``None`` for every
            message. Not together with ``since``, ``last`` or ``offsets``.
        trace: whether to ask for the traceparents of messages, `ReceivedMessage.traceparent`.
        on_gap: called with seconds each time the subscriber, or the server's broker, is connected again; messages that
            were published in these seconds may be missing. It is called with 0 if the server cannot tell all that came
            after ``since``.
        on_recovered: called each time the subscriber is connected again and nothing is missing.
        on_expiring: called with the seconds after which the token expires.
        on_note: called with what an operator sent, any JSON value.
        on_error: called with a `ClientError` when a message is left out: for each payload that is not JSON, and once if
            labels of a wildcard subscription's messages are malformed. Without it the logger ``realizehit.client``
            warns.
        headers: sent with the opening handshake.
        token: who the subscriber is, a JSON Web Token; or a function that returns a fresh one. It is called for each
            connection, and when the server says that the token expires. With a function the subscriber also connects
            again after a close because of an expired token.
        ssl: TLS settings of a ``wss://`` connection; ``None`` for the system's.
        proxy: URL of a proxy; ``True`` for the proxy that the environment names, ``None`` for no proxy.
        open_timeout: seconds for connecting and the handshake.
        response_timeout: seconds for the reply to the subscription.
        heartbeat: seconds between this side's pings, and again for the answer.
        backoff_base: seconds, the first bound of the delay before reconnecting.
        backoff_cap: seconds, the last bound of it.
        max_message: bytes of the largest message that is accepted.

    Raises:
        SettingsError: the URL or the token cannot be used.
        PatternError: the pattern is not a mapping, or cannot be written as JSON.
        RequestError: ``since``, ``last`` or ``every`` cannot be used.

    Attributes:
        id: the pattern's id on the wire, empty until the server has confirmed the subscription once.
        gaps: how many gaps there were.
        recovered: whether everything after the last position that the server was asked for has come or will come;
            ``None`` if it was not asked.
    """

    def __init__(
        self,
        url: str,
        pattern: Mapping[str, Any],
        *,
        raw: bool = False,
        since: str | None = None,
        last: int | None = None,
        offsets: bool = False,
        every: int | None = None,
        trace: bool = False,
        on_gap: Callable[[float], object] = lambda seconds: None,
        on_recovered: Callable[[], object] = lambda: None,
        on_expiring: Callable[[float], object] = lambda seconds: None,
        on_note: Callable[[Any], object] = lambda note: None,
        on_error: Callable[[ClientError], object] | None = None,
        headers: Mapping[str, str] | None = None,
        token: SyncToken | None = None,
        ssl: ssl_module.SSLContext | None = None,
        proxy: str | Literal[True] | None = True,
        open_timeout: float = 10.0,
        response_timeout: float = 10.0,
        heartbeat: float = 20.0,
        backoff_base: float = 0.5,
        backoff_cap: float = 30.0,
        max_message: int = 16 << 20,
    ) -> None:
        if not is_secure(url) and ssl is not None:
            raise SettingsError("TLS settings were given, but the URL is not wss://")
        check(token, headers)
        self.id = ""
        self.gaps = 0
        self.recovered: bool | None = None
        self._cursor = LogCursor(since, last, offsets)
        check_every(every, self._cursor)
        self._every = every
        self._trace = trace
        self._url = url
        self._filters = filters_of(pattern)
        self._is_wildcard = is_wildcard(self._filters)
        self._told_malformed = False
        self._raw = raw
        self._on_gap = on_gap
        self._on_recovered = on_recovered
        self._on_expiring = on_expiring
        self._on_note = on_note
        self._on_error = on_error if on_error is not None else _warn
        self._headers = headers
        self._token = token
        self._options: dict[str, Any] = {
            "proxy": proxy,
            "open_timeout": open_timeout,
            "ping_interval": heartbeat,
            "ping_timeout": heartbeat,
            "max_size": max_message,
            "ssl": ssl,
        }
        self._response_timeout = response_timeout
        self._backoff = Backoff(backoff_base, backoff_cap)
        self._socket: SyncSocket | None = None
        self._owner: Owner | None = None
        self._began = 0.0
        self._renew_at = math.inf  # when to send a fresh token
        self._closing = threading.Event()

    @property
    def position(self) -> str | None:
        """The position of the last message; before the first one, the position from which the subscription began.

        ``None`` if the server tells no positions. A later ``Subscriber(since=...)`` goes on from there.
        """
        return self._cursor.position

    def connect(self) -> Self:
        """Connect and subscribe; ``with`` does it. Nothing published from then on is missed.

        Raises:
            Unavailable: the server or its broker cannot be reached.
            Rejected: the server refuses the handshake or the pattern.
            SettingsError: a SOCKS proxy needs a library that is missing.
            ResponseTimeout: no answer in time.
            TokenUnavailable: the function that gives tokens failed.
        """
        if self._socket is not None or self._closing.is_set():
            raise RuntimeError("a subscriber connects once; make another one")
        self._owner = Owner("subscriber")
        self._socket = self._open()
        if self.recovered is False:
            self._tell_gap(0.0)
        return self

    def close(self) -> None:
        """Disconnect, which ends the loop; any thread may call it, and again."""
        self._closing.set()
        if self._socket is not None and self._owner is not None and not self._owner.is_inherited:
            self._socket.close()

    def __enter__(self) -> Self:
        return self.connect()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Return the next payload; wait for it, and for the connection if it is lost.

        Raises:
            Disconnected, Rejected: the server does not accept this subscriber any more.
        """
        while True:
            message = self._receive()
            if message is None:
                raise StopIteration
            if self._raw:
                return message.raw
            try:
                return message.payload
            except ClientError as error:
                self._on_error(ClientError(f"a payload of {self._filters!r} is not JSON and was left out: {error}"))

    def messages(self) -> Iterator[ReceivedMessage]:
        """Iterate over messages: each has its payload, its text, and the pattern that it was published to.

        A payload that is not JSON is not left out here: reading `ReceivedMessage.payload` raises.

        Raises:
            Disconnected, Rejected: the server does not accept this subscriber any more.
        """
        while (message := self._receive()) is not None:
            yield message

    def _receive(self) -> ReceivedMessage | None:
        """Wait for the next message of the subscription; return ``None`` after `close`."""
        if self._socket is None or self._owner is None:
            raise ClientError("the subscriber is not connected; use `with` or `connect`")
        if self._owner.is_inherited and not self._closing.is_set():
            self._owner.check()  # raises: the thread that reads is in the parent process
        while not self._closing.is_set():
            left = None if self._renew_at == math.inf else self._renew_at - time.monotonic()
            if left is not None and left <= 0:
                self._renew()
                continue
            try:
                message = self._socket.recv(left, decode=False)
            except TimeoutError:
                continue
            except ConnectionClosed as closed:
                self._come_back(Lost.of(closed), self._socket.last_heard)
                continue
            if not (message.isascii() or is_utf8(message)):
                self._socket.close(CloseCode.INVALID_DATA, NOT_UTF8)
                continue
            head, mark, payload = message.partition(b"?")
            wire_id, _, label = head.partition(b"@")
            if mark and wire_id == self.id.encode():
                position = self._cursor.advance(label) if label and self._cursor.has_positions else None
                trace = traceparent_in(label) if label else None
                if not self._is_wildcard:
                    return ReceivedMessage(self._filters, payload, position=position, traceparent=trace)
                try:
                    return ReceivedMessage(self._filters, payload, channel_in(label), position, trace)
                except ValueError as error:
                    self._label_malformed(error)
            elif message.startswith(b"{"):
                self._notice(parse_event(message))
        return None

    def _label_malformed(self, error: ValueError) -> None:
        """Report the first message whose label does not tell what it was published to."""
        if not self._told_malformed:
            self._told_malformed = True
            text = f"a message of {self._filters!r} has a malformed label and was left out, as further ones will be"
            self._on_error(ClientError(f"{text}: {error}"))

    def _notice(self, event: Notice | None) -> None:
        if event is None:
            return
        if event.name == "expiring":
            self._on_expiring(event.seconds)
            if callable(self._token):
                self._renew_at = time.monotonic() + renewal_delay(event.seconds)
        elif event.name == "note":
            self._on_note(event.note)
        if self.id not in event.ids:
            return
        if event.name == "gap":
            self._cursor.gap(event.at.get(self.id))
            self._tell_gap(event.seconds)
        elif event.name == "unsubscribed":
            self.close()
            raise rejection(event.reason or "the server ended the subscription", event.code)

    def _renew(self) -> None:
        """Send a fresh token. If that fails, the connection ends with the old one; the next connection gets another."""
        assert self._token is not None
        assert self._socket is not None
        self._renew_at = math.inf
        with suppress(TokenUnavailable, ConnectionClosed):
            self._socket.send(action("2", "auth", token=current_sync(self._token)))

    def _open(self) -> SyncSocket:
        headers = self._headers if self._token is None else with_token(self._headers, current_sync(self._token))
        with ExitStack() as stack:
            socket = open_socket(self._url, additional_headers=headers, **self._options)
            stack.push(socket)
            self._renew_at = math.inf
            reply = subscribe(
                socket,
                self._filters,
                sub_keys(self._cursor, self._every, trace=self._trace),
                timeout=self._response_timeout,
                token=self._token,
                notice=self._notice,
            )
            stack.pop_all()  # it stays open
        self.id = reply.ret if reply.ret is not None else computed_id(self._filters)
        self.recovered = self._cursor.confirmed(reply)
        self._began = time.monotonic()
        return socket

    def _come_back(self, lost: Lost, since: float) -> None:
        """Connect again, however long that takes; return at once if `close` was called."""
        if self._closing.is_set():
            return
        if not may_return(lost.close_code, self._token):
            raise lost
        if since - self._began >= STABLE_AFTER:
            self._backoff.reset()
        delay = asked_delay(lost.close_code, lost.reason)
        while not self._closing.wait(self._backoff.next() if delay is None else delay):
            delay = None
            try:
                self._socket = self._open()
            except (Unavailable, ResponseTimeout, TokenUnavailable):
                continue
            except Rejected as error:
                if may_try_again(error):
                    continue
                raise
            if self._closing.is_set():
                self._socket.close()
                return
            if self.recovered:
                self._on_recovered()
            else:
                self._tell_gap(time.monotonic() - since)
            return

    def _tell_gap(self, seconds: float) -> None:
        self.gaps += 1
        self._on_gap(seconds)
