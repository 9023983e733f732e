"""The WebSocket client: subscribes to patterns, and connects again when the connection is lost."""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import Mapping
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

from realizehit.client.conflation import check_every
from realizehit.client.connection import is_secure
from realizehit.client.events import Callback, Emitter
from realizehit.client.filters import filters_of
from realizehit.client.log_cursor import LogCursor
from realizehit.client.payload_queue import Overflow
from realizehit.client.received_message import ReceivedMessage
from realizehit.client.reconnecting import Reconnecting
from realizehit.client.session import Session
from realizehit.client.subscription import Subscription, SubscriptionState
from realizehit.client.token import Token, check, current
from realizehit.client.topics import Topics
from realizehit.common.backoff import Backoff
from realizehit.errors import (
    ClientError,
    Disconnected,
    ErrorCode,
    Rejected,
    ResponseTimeout,
    SettingsError,
)

__all__ = ["Overflow", "ReceivedMessage", "Subscription", "SubscriptionState", "WSClient"]

OverflowPolicy = Literal["drop_oldest", "drop_newest", "error"]


class WSClient(Emitter):
    """Subscribe over a WebSocket, and stay subscribed.

    For example::

        async with WSClient("ws://127.0.0.1:8080/ws") as client:
            news = await client.subscribe({"kind": "news"})
            async for payload in news:
                print(payload)

    When the connection is lost, the client connects again, after an exponential back-off with full jitter or after the
    delay that a closing server asked for, and subscribes to everything again. A subscription with positions (``since``,
    ``last``, ``offsets``) resumes after its last message, and its ``recovered`` event says that nothing is missing.
    Otherwise what was published meanwhile is missing: each subscription reports it with its ``gap`` event, also when
    the server's broker was away. If the server closes with 4500 to 4999, or refuses the handshake with 401 or 403, the
    client does not connect again: it ends, and its subscriptions raise the error.

    Events:

    - ``connected`` (): the client is connected, for the first time or again.
    - ``disconnect`` (`Disconnected`): the connection is lost; the error has the close code.
    - ``expiring`` (seconds): the client's token expires in so many seconds. If ``token`` is a function, the client
      sends a new token before that.
    - ``note`` (any JSON): an operator sent this note.
    - ``error`` (exception): an attempt to connect again or to renew the token failed; or the client ended because the
      server refuses it.

    Args:
        url: ``ws://`` or ``wss://``.
        headers: sent with the opening handshake.
        token: who the client is, a JSON Web Token; or a function, a coroutine function too, that returns a fresh one.
            It is called for each connection, and when the server says that the token expires. With a function the
            client also connects again after a close because of an expired token.
        ssl: TLS settings of a ``wss://`` connection; ``None`` for the system's.
        proxy: URL of a proxy; ``True`` for the proxy that the environment names, ``None`` for no proxy.
        open_timeout: seconds for connecting and the handshake.
        response_timeout: seconds for the reply to an action; a subscription that waits for a lost connection included.
        heartbeat: seconds between this side's pings, and again for the answer; after that the connection is lost.
        backoff_base: seconds, the first bound of the delay before reconnecting.
        backoff_cap: seconds, the last bound of it.
        maxsize: how many payloads may wait in each subscription's queue.
        overflow: what happens to a payload that finds the queue full. ``drop_oldest`` and ``drop_newest`` count in
            `Subscription.dropped`; ``error`` ends the subscription with `QueueOverflow`.
        max_message: bytes of the largest message that is accepted; a larger one costs the connection.

    Raises:
        SettingsError: the URL or the token cannot be used.

    Concurrency: any number of tasks of one event loop may use it.
    """

    events: ClassVar[tuple[str, ...]] = ("connected", "disconnect", "expiring", "note", "error")

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        token: Token | None = None,
        ssl: ssl_module.SSLContext | None = None,
        proxy: str | Literal[True] | None = True,
        open_timeout: float = 10.0,
        response_timeout: float = 10.0,
        heartbeat: float = 20.0,
        backoff_base: float = 0.5,
        backoff_cap: float = 30.0,
        maxsize: int = 1024,
        overflow: OverflowPolicy | Overflow = "drop_oldest",
        max_message: int = 16 << 20,
    ) -> None:
        super().__init__()
        if not is_secure(url) and ssl is not None:
            raise SettingsError("TLS settings were given, but the URL is not wss://")
        check(token, headers)
        self.url = url
        self._headers = headers
        options: dict[str, Any] = {
            "proxy": proxy,
            "open_timeout": open_timeout,
            "ping_interval": heartbeat,
            "ping_timeout": heartbeat,
            "max_size": max_message,
            **({"ssl": ssl} if ssl is not None else {}),
        }
        self._response_timeout = response_timeout
        self._maxsize = maxsize
        self._overflow = Overflow(overflow)
        self._topics = Topics(Backoff(backoff_base, backoff_cap))
        self._reconnecting = Reconnecting(url, headers, token, Backoff(backoff_base, backoff_cap), options)
        self._session = Session(
            self._reconnecting, self._topics, Backoff(backoff_base, backoff_cap), response_timeout, self._emit
        )

    def __repr__(self) -> str:
        state = "connected" if self.connected else "closed" if self._session.closing else "disconnected"
        return f"<WSClient {self.url} {state}>"

    # ---- life

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._session.connection is not None

    @property
    def subscriptions(self) -> list[Subscription]:
        """The subscriptions that have not ended."""
        return self._topics.members

    async def connect(self) -> Self:
        """Connect; ``async with`` does it. The first attempt is not repeated, so that a wrong address is noticed.

        Raises:
            Unavailable: the server cannot be reached, or cannot serve now.
            Rejected: it refused the handshake; ``status`` says how.
            TokenUnavailable: the function that gives tokens failed.
        """
        await self._session.connect()
        return self

    async def close(self) -> None:
        """Disconnect and end all subscriptions; calling it again does nothing."""
        await self._session.close()

    async def wait_closed(self) -> None:
        """Wait until the client has ended; for programs that use callbacks.

        Raises:
            Disconnected, Rejected: the server refused the client. After `close` nothing is raised.
        """
        await self._session.wait_closed()

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ---- actions

    async def subscribe(
        self,
        pattern: Mapping[str, Any],
        *,
        callback: Callback | None = None,
        raw: bool = False,
        since: str | None = None,
        last: int | None = None,
        offsets: bool = False,
        every: int | None = None,
        trace: bool = False,
        maxsize: int | None = None,
        overflow: OverflowPolicy | Overflow | None = None,
    ) -> Subscription:
        """Subscribe to a pattern and wait until that is in force: nothing published from then on is missed.

        Several subscriptions to one pattern each get every payload; on the wire there is one.

        Args:
            pattern: a mapping of filters, or a `Pattern`. A value of ``*`` leaves a filter's value open, and
                ``"*": "*"`` allows further filters; `Subscription.messages` tells what each message was published to.
            callback: called with each payload, as ``subscription.on("payload", callback)``.
            raw: whether payloads come as the JSON text they were published as, ``bytes``.
            since: a position, the ``position`` of a message or subscription. What was published after it comes first.
                `Subscription.recovered` is False, and ``gaps`` counts, if the server cannot tell all of that.
            last: how many of the last messages come first; not together with ``since``.
            offsets: whether to ask for positions, so that the subscription resumes after a lost connection; implied by
                ``since`` and ``last``. The three have an effect if the server keeps a history for the pattern, and
                only the client's first subscription to a pattern can give them.
            every: milliseconds in which the server sends at most one message, always the newest; ``None`` for every
                message. All subscriptions of a client to one pattern have the same; not together with ``since``,
                ``last`` or ``offsets``.
            trace: whether to ask for the traceparents of messages, `ReceivedMessage.traceparent`; only the client's
                first subscription to a pattern can ask for them.
            maxsize: how many payloads may wait in its queue; ``None`` for the client's setting.
            overflow: what happens to one more; ``None`` for the client's setting.

        Raises:
            PatternError: the pattern is not a mapping, or cannot be written as JSON.
            RequestError: ``since``, ``last``, ``offsets``, ``every`` or ``trace`` cannot be used.
            Rejected: the server refuses it; ``code`` says why, for example ``forbidden`` or ``id-collision``, and
                ``too-many-shapes`` or ``wildcard-unsupported`` for a wildcard.
            Unavailable: the server cannot reach its broker.
            ResponseTimeout: no answer in time, perhaps because there is no connection.
            ClientError: the client is closed, or ended while waiting.
        """
        self._session.check_open()
        filters = filters_of(pattern)
        wanted = LogCursor(since, last, offsets)
        check_every(every, wanted)
        subscription = Subscription(
            self,
            filters,
            raw=raw,
            maxsize=self._maxsize if maxsize is None else maxsize,
            overflow=self._overflow if overflow is None else Overflow(overflow),
        )
        topic = self._topics.join(subscription, wanted, every, trace=trace)
        try:
            if callback is not None:
                subscription.on("payload", callback)
            async with asyncio.timeout(self._response_timeout):
                await asyncio.shield(topic.ready)
        except TimeoutError:
            self._topics.leave(subscription)
            subscription.finish()
            away = "" if self.connected else "; the connection is away"
            raise ResponseTimeout(f"no answer to sub within {self._response_timeout:g} seconds{away}") from None
        except BaseException:
            self._topics.leave(subscription)
            subscription.finish()
            raise
        if subscription.state is SubscriptionState.SUBSCRIBING and topic.id:  # it joined one that is in force
            subscription.in_force(topic.id.decode(), 0.0, None, topic.cursor.position)
        return subscription

    async def unsubscribe(self, pattern: Mapping[str, Any]) -> None:
        """End all of this client's subscriptions to a pattern.

        Raises:
            Rejected: there is no such subscription, code ``not-subscribed``.
            ResponseTimeout: the server did not confirm it in time; they have ended on this side anyway.
        """
        subscriptions = self._topics.members_of(pattern)
        if not subscriptions:
            raise Rejected(f"{dict(pattern)!r} is not subscribed to", ErrorCode.NOT_SUBSCRIBED)
        for subscription in subscriptions:
            await self.end(subscription)

    async def ping(self) -> float:
        """Send a ``ping`` action and return the seconds until its ``pong``.

        Raises:
            Disconnected: the connection is away, or went away meanwhile.
            ResponseTimeout: no answer in time.
        """
        self._session.check_open()
        connection = self._session.connection
        if connection is None:
            raise Disconnected("the connection is away")
        loop = asyncio.get_running_loop()
        began = loop.time()
        await connection.request("ping", timeout=self._response_timeout)
        return loop.time() - began

    async def authenticate(self, token: Token) -> None:
        """Take the identity of a token, or replace the token by a newer one. Later connections use it too.

        Raises:
            Rejected: the server does not accept it, code ``not-authenticated``; the connection keeps its identity.
            Disconnected: the connection is away, or went away meanwhile; the next one is opened with it.
            ResponseTimeout: no answer in time.
            SettingsError, TokenUnavailable: the token cannot be used, or its function failed.
        """
        self._session.check_open()
        check(token, self._headers)
        self._reconnecting.token = token
        connection = self._session.connection
        if connection is None:
            raise Disconnected("the connection is away")
        await connection.request("auth", token=await current(token), timeout=self._response_timeout)

    async def end(self, subscription: Subscription) -> None:
        """End one subscription; what `Subscription.unsubscribe` calls."""
        if subscription.state in (SubscriptionState.UNSUBSCRIBING, SubscriptionState.UNSUBSCRIBED):
            return
        subscription.move(SubscriptionState.UNSUBSCRIBING)
        subscription.stop_reading()
        confirmed = self._topics.leave(subscription)
        try:
            async with asyncio.timeout(self._response_timeout):
                await confirmed
        except TimeoutError:
            raise ResponseTimeout(f"no answer to unsub within {self._response_timeout:g} seconds") from None
        finally:
            subscription.finish()

    def fail(self, subscription: Subscription, error: ClientError) -> None:
        """End one subscription because of an error on this side."""
        self._topics.leave(subscription)
        subscription.finish(error)
