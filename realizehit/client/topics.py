"""What a WebSocket client is subscribed to: each pattern once on the wire, for any number of subscriptions.

The rules of this file. A topic is asked for once per connection, in the turn in which there is a connection. The reply
to ``sub`` carries the label under which its payloads come, so none can come earlier. A topic that its last subscription
has left is forgotten at once; the same pattern asked for again is a new topic, and the server answers in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from realizehit.client.connection import Connection, Lost
from realizehit.client.filters import computed_id, filters_of, pattern_key
from realizehit.client.protocol import Notice, Reply
from realizehit.client.subscription import Subscription
from realizehit.common.backoff import Backoff
from realizehit.errors import ClientError, ErrorCode, Rejected

_TRY_AGAIN: Final = (ErrorCode.UNAVAILABLE, ErrorCode.RATE_LIMITED)


class Topic:
    """One pattern that a client is subscribed to, once on the wire for all its subscriptions here.

    Attributes:
        key: what tells patterns apart here.
        filters: the pattern.
        request_id: the id of its last ``sub``.
        id: the pattern's id on this connection, empty until the server has confirmed it.
        members: the subscriptions that share it.
        ready: done when it is in force; fails where the server refuses it.
        was_in_force: whether it ever was, so that an error now is that of coming back.
    """

    def __init__(self, key: object, filters: Mapping[str, Any]) -> None:
        self.key = key
        self.filters = filters
        self.request_id = ""
        self.id = b""
        self.members: list[Subscription] = []
        self.was_in_force = False
        self.ready = _quiet_future()

    def deliver(self, payload: bytes, label: bytes) -> bool:
        """Queue one payload for each member; see `Subscription.deliver`.

        Args:
            payload: its JSON text.
            label: the label that came with it; empty if there was none.
        """
        full = False
        for member in tuple(self.members):
            full |= member.deliver(payload, label)
        return full

    def in_force(self, wire_id: str, now: float) -> None:
        """Learn that the server has confirmed it."""
        self.id = wire_id.encode()
        self.was_in_force = True
        if not self.ready.done():
            self.ready.set_result(None)
        for member in tuple(self.members):
            member.in_force(wire_id, now)

    def interrupted(self, since: float) -> None:
        """Learn that the connection is gone."""
        self.id = b""
        if self.ready.done():
            self.ready = _quiet_future()
        for member in tuple(self.members):
            member.interrupted(since)

    def end(self, reason: ClientError, error: ClientError | None) -> None:
        """End all of it.

        Args:
            reason: what those learn who still wait for it to be in force.
            error: what its subscriptions raise; ``None`` where the client was closed.
        """
        if not self.ready.done():
            self.ready.set_exception(reason)
        members, self.members = self.members, []
        for member in members:
            member.finish(error)


class Topics:
    """The topics of one client.

    Args:
        retry: the delays before asking again for a topic that a server cannot serve for now.
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

    def join(self, subscription: Subscription) -> Topic:
        """Add a subscription, and ask for its topic if that is new."""
        key = pattern_key(subscription.filters)
        topic = self._by_key.get(key)
        if topic is None:
            topic = self._by_key[key] = Topic(key, subscription.filters)
            self._ask_for(topic)
        topic.members.append(subscription)
        return topic

    def leave(self, subscription: Subscription) -> asyncio.Future[None]:
        """Take a subscription away, and unsubscribe from its topic if nobody else here wants it.

        Returns:
            Done when the server has confirmed it, or where there is nothing to confirm.
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
        """Learn that there is a connection, and ask for everything on it."""
        self._connection = connection
        for topic in tuple(self._by_key.values()):
            self._ask_for(topic)

    def detach(self, since: float) -> None:
        """Learn that the connection is gone; messages may be missing from ``since`` on."""
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
            ``None`` if no topic has this id, otherwise whether a reader should have its turn now.
        """
        topic, label = self._by_id.get(head), b""
        if topic is None:
            name, _, label = head.partition(b"@")
            topic = self._by_id.get(name)
        return None if topic is None else topic.deliver(payload, label)

    def notice(self, event: Notice) -> None:
        """Take what the server tells of subscriptions: a gap, or that it ended them."""
        for wire_id in event.ids:
            topic = self._by_id.get(wire_id.encode())
            if topic is None:
                continue
            if event.name == "gap":
                for member in tuple(topic.members):
                    member.gap(event.seconds)
            elif event.name == "unsubscribed":
                del self._by_id[topic.id]
                if self._by_key.get(topic.key) is topic:
                    del self._by_key[topic.key]
                error = Rejected(event.reason or "the server ended the subscription", event.code)
                topic.end(error, error)

    def end(self, error: ClientError | None) -> None:
        """End everything, with an error or because the client was closed."""
        self._connection = None
        topics, self._by_key = self._by_key, {}
        self._by_id.clear()
        for topic in topics.values():
            topic.end(error or ClientError("the client was closed"), error)

    def _ask_for(self, topic: Topic) -> None:
        """Send ``sub``, unless the connection is away: then the next one begins with it."""
        if self._connection is not None and self._by_key.get(topic.key) is topic:
            topic.request_id = self._connection.act("sub", topic.filters, partial(self._subscribed, topic))

    def _ask_again(self, topic: Topic, connection: Connection | None) -> None:
        if self._connection is connection:
            self._ask_for(topic)

    def _subscribed(self, topic: Topic, reply: Reply | Lost) -> None:
        """Take the reply to ``sub``."""
        if isinstance(reply, Lost) or self._by_key.get(topic.key) is not topic:
            return  # it is asked for again on the next connection; or nobody wants it any more
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
                topic.in_force(wire_id, loop.time())
                return
            # A server that does not know of collisions.
            text = f"{topic.filters!r} has the id of {other.filters!r}, {wire_id}; use another connection for it"
            failure = Rejected(text, ErrorCode.ID_COLLISION)
        del self._by_key[topic.key]
        topic.end(failure, failure)

    def _unsubscribed(self, topic: Topic, confirmed: asyncio.Future[None], reply: Reply | Lost) -> None:
        """Take the reply to ``unsub``; an error says that the server knows of none, which is as good."""
        # Here and not by whoever waits: a new `sub` of this pattern may be answered right behind it.
        if self._by_id.get(topic.id) is topic:
            del self._by_id[topic.id]
        if not confirmed.done():
            confirmed.set_result(None)


def _quiet_future() -> asyncio.Future[None]:
    """Return a future whose error may go unseen: those who waited may all have given up."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future
