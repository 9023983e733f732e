"""The WebSocket client: subscribes to patterns, and comes back by itself when the connection is lost.

The rules of this file. One task serves the connection and, when it is gone, makes the next one. A topic is asked for
once per connection, in the turn in which the connection is there. The reply to ``sub`` carries the label under which
its payloads come, so none can come earlier.
"""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Final, Literal, Self

from websockets.exceptions import InvalidURI
from websockets.uri import parse_uri

from realizehit.client.connection import Connection, Lost, open_connection
from realizehit.client.events import Callback, Emitter
from realizehit.client.mailbox import Overflow
from realizehit.client.subscription import Subscription, SubscriptionState, Topic
from realizehit.client.wire import Backoff, Reply, asked_delay, filters_of, may_return, same_pattern_key
from realizehit.errors import (
    ClientError,
    Disconnected,
    ErrorCode,
    Rejected,
    ResponseTimeout,
    ServerUnavailable,
    SettingsError,
)

__all__ = ["Overflow", "Subscription", "SubscriptionState", "WSClient"]

STABLE_AFTER: Final = 10.0
"""Seconds that a connection must last to count as a success: one that is lost sooner does not reset the back-off."""

_TRY_AGAIN: Final = (ErrorCode.UNAVAILABLE, ErrorCode.RATE_LIMITED)
_NEVER_STATUS: Final = (401, 403)  # HTTP statuses that end a client; others may be a deployment under way

OverflowPolicy = Literal["drop_oldest", "drop_newest", "error"]


class WSClient(Emitter):
    """Subscribe over a WebSocket, and stay subscribed.

    For example::

        async with WSClient("ws://127.0.0.1:8080/ws") as client:
            news = await client.subscribe({"kind": "news"})
            async for payload in news:
                print(payload)

    When the connection is lost it is made again, after a capped exponential back-off with full jitter or after the
    delay that a server asks for as it goes away, and everything is subscribed to again. What was published meanwhile is
    missing: each subscription tells it by its ``gap`` event. A server that closes with 4500 to 4999, or refuses the
    handshake with 401 or 403, is not bothered again: the client ends, and its subscriptions raise the error.

    Events:

    - ``connected`` (): the connection is there, the first time and each time it came back.
    - ``disconnect`` (`Disconnected`): it is gone, with its close code.
    - ``error`` (exception): an attempt to come back failed, or the client ended because the server will not have it.

    Args:
        url: ``ws://`` or ``wss://``.
        headers: sent with the opening handshake.
        ssl: TLS settings of a ``wss://`` connection; the system's where none are given.
        proxy: URL of a proxy; ``True`` for what the environment says, ``None`` for none.
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
        SettingsError: the URL cannot be used.

    Reentrancy: for one event loop's thread; any number of tasks may use it.
    """

    events: ClassVar[tuple[str, ...]] = ("connected", "disconnect", "error")

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
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
        try:
            secure = parse_uri(url).secure
        except InvalidURI as error:
            raise SettingsError(f"the URL cannot be used; write ws://host:port/ws: {error}") from None
        if ssl is not None and not secure:
            raise SettingsError("TLS settings were given, but the URL is not wss://")
        self.url = url
        self._options: dict[str, Any] = {
            "additional_headers": headers,
            "proxy": proxy,
            "open_timeout": open_timeout,
            "ping_interval": heartbeat,
            "ping_timeout": heartbeat,
            "max_size": max_message,
            **({"ssl": ssl} if ssl is not None else {}),
        }
        self._response_timeout = response_timeout
        self._backoff = Backoff(backoff_base, backoff_cap)
        self._retry = Backoff(backoff_base, backoff_cap)  # of a `sub` that a server cannot serve for now
        self._maxsize = maxsize
        self._overflow = Overflow(overflow)
        self._connection: Connection | None = None
        self._runner: asyncio.Task[None] | None = None
        self._closing = False
        self._ended: asyncio.Future[None] | None = None
        self._topics: dict[object, Topic] = {}
        self._by_label: dict[bytes, Topic] = {}

    def __repr__(self) -> str:
        state = "connected" if self.connected else "closed" if self._closing else "disconnected"
        return f"<WSClient {self.url} {state}>"

    # ---- life

    @property
    def connected(self) -> bool:
        """Whether the connection is there."""
        return self._connection is not None

    @property
    def subscriptions(self) -> list[Subscription]:
        """Those that have not ended."""
        return [member for topic in self._topics.values() for member in topic.members]

    async def connect(self) -> Self:
        """Connect; ``async with`` does it. This first attempt is not repeated, so that a wrong address shows.

        Raises:
            ServerUnavailable: the server cannot be reached, or cannot serve now.
            Rejected: it refused the handshake; ``status`` says how.
        """
        if self._runner is not None or self._closing:
            raise RuntimeError("a client connects once; make another one")
        self._connection = await open_connection(self.url, **self._options)
        self._ended = asyncio.get_running_loop().create_future()
        self._runner = asyncio.create_task(self._run(self._connection), name="realizehit client")
        return self

    async def close(self) -> None:
        """Disconnect and end all subscriptions; calling it again does nothing."""
        self._closing = True
        if self._runner is None:
            return
        subscriptions = self.subscriptions
        try:
            if self._connection is not None:
                await self._connection.close()
                await asyncio.wait({self._runner}, timeout=1.0)  # it ends by itself
        finally:
            self._runner.cancel()
        await asyncio.wait({self._runner})
        callbacks = [task for each in subscriptions if (task := each.stop_callbacks()) is not None]
        if callbacks:
            await asyncio.wait(callbacks)

    async def wait_closed(self) -> None:
        """Wait until the client has ended, which programs with callbacks do.

        Raises:
            Disconnected, Rejected: the server will not have the client; `close` raises nothing.
        """
        if self._ended is None:
            raise RuntimeError("the client is not connected")
        await asyncio.shield(self._ended)

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
        maxsize: int | None = None,
        overflow: OverflowPolicy | Overflow | None = None,
    ) -> Subscription:
        """Subscribe to a pattern and wait until it is in force: nothing published from then on is missed.

        Several subscriptions to one pattern each get every payload; on the wire there is one.

        Args:
            pattern: a mapping of filters, or a `Pattern`.
            callback: called with each payload, as ``subscription.on("payload", callback)``.
            raw: whether payloads come as the JSON text they were published as, ``bytes``.
            maxsize: how many payloads may wait in its queue; the client's where it is not given.
            overflow: what happens to one more; the client's where it is not given.

        Raises:
            PatternError: the pattern is no mapping, or cannot be written as JSON.
            Rejected: the server refuses it; ``code`` says why, ``id-collision`` for one.
            ServerUnavailable: the server cannot reach its broker.
            ResponseTimeout: no answer in time, perhaps because the connection is away.
            ClientError: the client is closed, or ended meanwhile.
        """
        self._check_open()
        filters = filters_of(pattern)
        subscription = Subscription(
            self,
            filters,
            raw=raw,
            maxsize=self._maxsize if maxsize is None else maxsize,
            overflow=self._overflow if overflow is None else Overflow(overflow),
        )
        key = same_pattern_key(filters)
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = Topic(key, filters)
            self._ask_for(topic)
        topic.members.append(subscription)
        try:
            if callback is not None:
                subscription.on("payload", callback)
            async with asyncio.timeout(self._response_timeout):
                await asyncio.shield(topic.ready)
        except TimeoutError:
            self._leave(subscription)
            subscription.finish()
            away = "" if self.connected else "; the connection is away"
            raise ResponseTimeout(f"no answer to sub within {self._response_timeout:g} seconds{away}") from None
        except BaseException:
            self._leave(subscription)
            subscription.finish()
            raise
        if subscription.state is SubscriptionState.SUBSCRIBING and topic.label:  # it joined one that is in force
            subscription.in_force(topic.label.decode(), 0.0)
        return subscription

    async def unsubscribe(self, pattern: Mapping[str, Any]) -> None:
        """End all of this client's subscriptions to a pattern.

        Raises:
            Rejected: there are none, code ``not-subscribed``.
            ResponseTimeout: the server did not confirm it in time; they have ended on this side anyway.
        """
        topic = self._topics.get(same_pattern_key(filters_of(pattern)))
        if topic is None:
            raise Rejected(f"{dict(pattern)!r} is not subscribed to", ErrorCode.NOT_SUBSCRIBED)
        for subscription in tuple(topic.members):
            await self.end(subscription)

    async def ping(self) -> float:
        """Send a ``ping`` action and return the seconds until its ``pong``.

        Raises:
            Disconnected: the connection is away, or went away meanwhile.
            ResponseTimeout: no answer in time.
        """
        self._check_open()
        if self._connection is None:
            raise Disconnected("the connection is away")
        loop = asyncio.get_running_loop()
        began = loop.time()
        await self._connection.request("ping", timeout=self._response_timeout)
        return loop.time() - began

    async def end(self, subscription: Subscription) -> None:
        """End one subscription; what `Subscription.unsubscribe` calls."""
        if subscription.state in (SubscriptionState.UNSUBSCRIBING, SubscriptionState.UNSUBSCRIBED):
            return
        subscription.move(SubscriptionState.UNSUBSCRIBING)
        subscription.stop_reading()
        confirmed = self._leave(subscription)
        try:
            async with asyncio.timeout(self._response_timeout):
                await confirmed
        except TimeoutError:
            raise ResponseTimeout(f"no answer to unsub within {self._response_timeout:g} seconds") from None
        finally:
            subscription.finish()

    def fail(self, subscription: Subscription, error: ClientError) -> None:
        """End one subscription because of an error on this side."""
        self._leave(subscription)
        subscription.finish(error)

    # ---- topics

    def _leave(self, subscription: Subscription) -> asyncio.Future[None]:
        """Take a subscription out of its topic, and unsubscribe from that if nobody else here wants it.

        Returns:
            Done when the server has confirmed it, or where there is nothing to confirm.
        """
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        topic = self._topics.get(same_pattern_key(subscription.filters))
        if topic is not None and subscription in topic.members:
            topic.members.remove(subscription)
            if not topic.members:
                del self._topics[topic.key]
                if self._connection is not None:
                    self._connection.act("unsub", topic.filters, partial(self._unsubscribed, topic, confirmed))
                    return confirmed
        confirmed.set_result(None)
        return confirmed

    def _unsubscribed(self, topic: Topic, confirmed: asyncio.Future[None], reply: Reply | Lost) -> None:
        """Take the reply to ``unsub``; an error says that the server knows of none, which is as good."""
        self._forget(topic)
        if not confirmed.done():
            confirmed.set_result(None)

    def _forget(self, topic: Topic) -> None:
        if self._by_label.get(topic.label) is topic:
            del self._by_label[topic.label]

    def _ask_for(self, topic: Topic) -> None:
        """Send ``sub``, unless the connection is away: then the next one begins with it."""
        if self._connection is not None and self._topics.get(topic.key) is topic:
            self._connection.act("sub", topic.filters, partial(self._subscribed, topic))

    def _subscribed(self, topic: Topic, reply: Reply | Lost) -> None:
        """Take the reply to ``sub``."""
        if isinstance(reply, Lost) or self._topics.get(topic.key) is not topic:
            return  # it is asked for again on the next connection; or nobody wants it any more
        loop = asyncio.get_running_loop()
        failure: ClientError | None = reply.failure()
        if failure is not None and topic.was_in_force and reply.code in _TRY_AGAIN:
            loop.call_later(self._retry.next(), self._ask_again, topic, self._connection)
            return
        if failure is None:
            label = reply.ret if reply.ret is not None else _computed_id(topic.filters)
            other = self._by_label.get(label.encode(), topic)
            if other is topic or not other.members:
                self._retry.reset()
                self._by_label[label.encode()] = topic
                topic.in_force(label, loop.time())
                return
            # A server that does not know of collisions, or one pattern in two spellings that this side took for two.
            text = f"{topic.filters!r} has the id of {other.filters!r}, {label}; use another connection for it"
            failure = Rejected(text, ErrorCode.ID_COLLISION)
        del self._topics[topic.key]
        topic.fail(failure)

    def _ask_again(self, topic: Topic, connection: Connection | None) -> None:
        if self._connection is connection:
            self._ask_for(topic)

    def _deliver(self, label: bytes, payload: bytes) -> bool | None:
        topic = self._by_label.get(label)
        return None if topic is None else topic.deliver(payload)

    # ---- the connection

    def _check_open(self) -> None:
        if self._closing:
            raise ClientError("the client is closed")
        if self._ended is None:
            raise ClientError("the client is not connected; use `async with` or `connect`")
        if self._ended.done():
            error = self._ended.exception()
            assert error is not None
            raise error

    async def _run(self, connection: Connection) -> None:
        """Serve one connection after the other until the client ends."""
        loop = asyncio.get_running_loop()
        error: ClientError | None = None
        try:
            while True:
                began = loop.time()
                self._connected(connection)
                lost = await connection.serve(self._deliver)
                if loop.time() - began >= STABLE_AFTER:
                    self._backoff.reset()
                self._disconnected(connection, lost)
                if not may_return(lost.close_code):
                    error = lost
                if error is not None or self._closing:
                    return
                delay = asked_delay(lost.close_code, lost.reason)
                connection = await self._come_back(self._backoff.next() if delay is None else delay)
        except Rejected as refused:
            error = refused
        except Exception as defect:  # noqa: BLE001 - whoever waits must learn of it
            error = ClientError(f"the client failed: {defect!r}")
            error.__cause__ = defect
        finally:
            self._finish(error)

    def _connected(self, connection: Connection) -> None:
        if self._connection is None:  # it is not the first one, on which topics are asked for as they come
            self._connection = connection
            for topic in tuple(self._topics.values()):
                self._ask_for(topic)
        self._emit("connected")

    def _disconnected(self, connection: Connection, lost: Lost) -> None:
        self._connection = None
        self._by_label.clear()
        if not self._closing:
            for topic in tuple(self._topics.values()):
                topic.interrupted(connection.last_heard)
        self._emit("disconnect", lost)

    async def _come_back(self, delay: float) -> Connection:
        while True:
            await asyncio.sleep(delay)
            try:
                return await open_connection(self.url, **self._options)
            except (Rejected, ServerUnavailable) as error:
                if isinstance(error, Rejected) and error.status in _NEVER_STATUS:
                    raise
                self._emit("error", error)
            delay = self._backoff.next()

    def _finish(self, error: ClientError | None) -> None:
        """End everything, with an error or because the client was closed."""
        self._connection = None
        topics, self._topics = self._topics, {}
        for topic in topics.values():
            if not topic.ready.done():
                topic.ready.set_exception(error or ClientError("the client was closed"))
            for subscription in tuple(topic.members):
                subscription.finish(error)
        assert self._ended is not None
        if error is None:
            self._ended.set_result(None)
            return
        self._ended.set_exception(error)
        self._ended.exception()  # seen: the event tells it, and the subscriptions
        self._emit("error", error)


def _computed_id(filters: Mapping[str, Any]) -> str:
    """Return a pattern's id where the server does not tell it. This alone needs the extension."""
    from realizehit.pattern import Pattern

    return Pattern(filters).id
