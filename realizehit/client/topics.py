"""What a WebSocket client is subscribed to: a topic is one pattern on the wire, shared by any number of subscriptions.

Rules: A topic is sent once per connection, in the loop turn in which the connection is made. The reply to ``sub``
carries the id under which its payloads come, so no payload can come earlier. When its last subscription leaves, a topic
is forgotten at once. The same pattern subscribed to again is a new topic; this works because the server answers in
order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from realizehit.client.conflation import sub_keys
from realizehit.client.connection import Connection, Lost
from realizehit.client.filters import computed_id, filters_of, pattern_key
from realizehit.client.log_cursor import LogCursor
from realizehit.client.protocol import Notice, Reply
from realizehit.client.refusals import rejection
from realizehit.client.subscription import Subscription
from realizehit.common.backoff import Backoff
from realizehit.errors import ClientError, ErrorCode, Rejected, RequestError

_TRY_AGAIN: Final = (ErrorCode.UNAVAILABLE, ErrorCode.RATE_LIMITED)


class Topic:
    """One pattern that a client is subscribed to, once on the wire for all its subscriptions here.

    Attributes:
        key: equal for equal patterns.
        filters: the pattern.
        request_id: the id of its last ``sub``.
        id: the pattern's id on this connection, empty until the server has confirmed it.
        members: the subscriptions that share it.
        ready: done when the server has confirmed it; fails if the server refuses it.
        cursor: where it stands in the history of its pattern.
        every: milliseconds in which the server sends at most one message; ``None`` for every message.
        trace: whether it asks for the traceparents of messages.
        was_in_force: whether the server ever confirmed it; a later error happens while coming back.
    """

    def __init__(
        self, key: object, filters: Mapping[str, Any], cursor: LogCursor, every: int | None, *, trace: bool = False
    ) -> None:
        self.key = key
        self.filters = filters
        self.cursor = cursor
        self.every = every
        self.trace = trace
        self.request_id = ""
        self.id = b""
        self.members: list[Subscription] = []
        self.was_in_force = False
        self.ready = _quiet_future()

    def sub_keys(self) -> dict[str, Any]:
        """Return the keys of its next ``sub`` besides the pattern."""
        return sub_keys(self.cursor, self.every, trace=self.trace)

    def deliver(self, payload: bytes, label: bytes) -> bool:
        """Queue one payload for each member; see `Subscription.deliver`.

        Args:
            payload: its JSON text.
            label: the label that came with it; empty if there was none.
        """
        full = False
        position = self.cursor.advance(label) if label and self.cursor.has_positions else None
        for member in tuple(self.members):
            full |= member.deliver(payload, label, position)
        return full

    def in_force(self, wire_id: str, now: float, reply: Reply) -> None:
        """Note that the server has confirmed it."""
        recovered = self.cursor.confirmed(reply)
        self.id = wire_id.encode()
        self.was_in_force = True
        if not self.ready.done():
            self.ready.set_result(None)
        for member in tuple(self.members):
            member.in_force(wire_id, now, recovered, self.cursor.position)

    def gap(self, seconds: float, at: str | None) -> None:
        """Note that messages may be missing, and the position at which the server goes on."""
        self.cursor.gap(at)
        for member in tuple(self.members):
            member.gap(seconds)

    def interrupted(self, since: float) -> None:
        """Note that the connection is lost."""
        self.id = b""
        if self.ready.done():
            self.ready = _quiet_future()
        for member in tuple(self.members):
            member.interrupted(since)

    def end(self, reason: ClientError, error: ClientError | None) -> None:
        """End the topic and its subscriptions.

        Args:
            reason: raised for callers that still wait for the server's confirmation.
            error: raised by its subscriptions; ``None`` if the client was closed.
        """
        if not self.ready.done():
            self.ready.set_exception(reason)
        members, self.members = self.members, []
        for member in members:
            member.finish(error)


class Topics:
    """The topics of one client.

    Args:
        retry: the delays before sending ``sub`` again if the server cannot serve the topic now.
    """

    def __init__(self, retry: Backoff) -> None:
        self._retry = retry
        self._connection: Connection | None = None
        self._by_key: dict[object, Topic] = {}
        self._by_id: dict[bytes, Topic] = {}

    @property
    def members(self) -> list[Subscription]:
        """All subscriptions."""
        return [member for topic in self._by_key.values() for member in topic.members]

    def members_of(self, pattern: Mapping[str, Any]) -> list[Subscription]:
        """Return the subscriptions to one pattern."""
        topic = self._by_key.get(pattern_key(filters_of(pattern)))
        return [] if topic is None else list(topic.members)

    def join(
        self, subscription: Subscription, wanted: LogCursor, every: int | None = None, *, trace: bool = False
    ) -> Topic:
        """Add a subscription, and send ``sub`` if its topic is new.

        Args:
            subscription: the one to add.
            wanted: what it asked for of the pattern's history.
            every: milliseconds in which it wants at most one message.
            trace: whether it asked for the traceparents of messages.

        Raises:
            RequestError: it asks for what its topic, which others share, did not ask for.
        """
        key = pattern_key(subscription.filters)
        topic = self._by_key.get(key)
        if topic is None:
            topic = self._by_key[key] = Topic(key, subscription.filters, wanted, every, trace=trace)
            self._ask_for(topic)
        elif wanted.begins_earlier or (wanted.has_positions and not topic.cursor.has_positions):
            text = f"{topic.filters!r} is subscribed to already; only the first subscription to a pattern can"
            raise RequestError(f"{text} give since, last or offsets")
        elif every != topic.every:
            text = f"{topic.filters!r} is subscribed to already, with every={topic.every}"
            raise RequestError(f"{text}; use the same, or another client")
        elif trace and not topic.trace:
            text = f"{topic.filters!r} is subscribed to already, without trace"
            raise RequestError(f"{text}; the first subscription to a pattern decides")
        topic.members.append(subscription)
        return topic

    def leave(self, subscription: Subscription) -> asyncio.Future[None]:
        """Remove a subscription, and send ``unsub`` if it was the last one of its topic.

        Returns:
            Done when the server has confirmed it, or at once if there is nothing to confirm.
        """
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        topic = self._by_key.get(pattern_key(subscription.filters))
        if topic is not None and subscription in topic.members:
            topic.members.remove(subscription)
            if not topic.members:
                del self._by_key[topic.key]
                if self._connection is not None:
                    self._connection.forget(topic.request_id)
                    self._connection.act("unsub", topic.filters, partial(self._unsubscribed, topic, confirmed))
                    return confirmed
        confirmed.set_result(None)
        return confirmed

    def attach(self, connection: Connection) -> None:
        """Use a new connection, and send ``sub`` for every topic."""
        self._connection = connection
        for topic in tuple(self._by_key.values()):
            self._ask_for(topic)

    def detach(self, since: float) -> None:
        """Note that the connection is lost; messages may be missing from ``since`` on."""
        self._connection = None
        self._by_id.clear()
        for topic in tuple(self._by_key.values()):
            topic.interrupted(since)

    def deliver(self, head: bytes, payload: bytes) -> bool | None:
        """Pass a payload on to its topic.

        Args:
            head: what stands before the payload: the topic's id, and perhaps ``@`` and a label.
            payload: its JSON text.

        Returns:
            ``None`` if no topic has this id, otherwise whether a reader should run now.
        """
        topic, label = self._by_id.get(head), b""
        if topic is None:
            name, _, label = head.partition(b"@")
            topic = self._by_id.get(name)
        return None if topic is None else topic.deliver(payload, label)

    def notice(self, event: Notice) -> None:
        """Handle an event about subscriptions: a gap, or that the server ended them."""
        for wire_id in event.ids:
            topic = self._by_id.get(wire_id.encode())
            if topic is None:
                continue
            if event.name == "gap":
                topic.gap(event.seconds, event.at.get(wire_id))
            elif event.name == "unsubscribed":
                del self._by_id[topic.id]
                if self._by_key.get(topic.key) is topic:
                    del self._by_key[topic.key]
                error = rejection(event.reason or "the server ended the subscription", event.code)
                topic.end(error, error)

    def end(self, error: ClientError | None) -> None:
        """End everything, with an error or because the client was closed."""
        self._connection = None
        topics, self._by_key = self._by_key, {}
        self._by_id.clear()
        for topic in topics.values():
            topic.end(error or ClientError("the client was closed"), error)

    def _ask_for(self, topic: Topic) -> None:
        """Send ``sub``; if there is no connection, the next one begins with it."""
        if self._connection is not None and self._by_key.get(topic.key) is topic:
            topic.request_id = self._connection.act(
                "sub", topic.filters, partial(self._subscribed, topic), sub_keys=topic.sub_keys()
            )

    def _ask_again(self, topic: Topic, connection: Connection | None) -> None:
        if self._connection is connection:
            self._ask_for(topic)

    def _subscribed(self, topic: Topic, reply: Reply | Lost) -> None:
        """Handle the reply to ``sub``."""
        if isinstance(reply, Lost) or self._by_key.get(topic.key) is not topic:
            return  # the next connection sends `sub` again; or the topic is forgotten
        loop = asyncio.get_running_loop()
        failure: ClientError | None = reply.failure()
        if failure is not None and topic.was_in_force and reply.code in _TRY_AGAIN:
            loop.call_later(self._retry.next(), self._ask_again, topic, self._connection)
            return
        if failure is None:
            wire_id = reply.ret if reply.ret is not None else computed_id(topic.filters)
            other = self._by_id.get(wire_id.encode(), topic)
            if other is topic or not other.members:
                self._retry.reset()
                self._by_id[wire_id.encode()] = topic
                topic.in_force(wire_id, loop.time(), reply)
                return
            # Only a server that does not detect collisions gets here.
            text = f"{topic.filters!r} has the id of {other.filters!r}, {wire_id}; use another connection for it"
            failure = Rejected(text, ErrorCode.ID_COLLISION)
        del self._by_key[topic.key]
        topic.end(failure, failure)

    def _unsubscribed(self, topic: Topic, confirmed: asyncio.Future[None], reply: Reply | Lost) -> None:
        """Handle the reply to ``unsub``; an error means that the server has no such subscription, which is fine."""
        # Not in the waiting task: the reply to a new `sub` of this pattern may follow immediately.
        if self._by_id.get(topic.id) is topic:
            del self._by_id[topic.id]
        if not confirmed.done():
            confirmed.set_result(None)


def _quiet_future() -> asyncio.Future[None]:
    """Return a future whose error may stay unread: all its waiters may have given up."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future
