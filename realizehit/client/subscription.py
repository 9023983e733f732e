"""One subscription of a WebSocket client: its queue, its callbacks, its events."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Mapping
from enum import StrEnum
from typing import Any, ClassVar, Final, Protocol

from realizehit.client.events import Callback, Emitter
from realizehit.client.filters import is_wildcard
from realizehit.client.payload_queue import Ended, Overflow, PayloadQueue, QueueFull
from realizehit.client.payloads import decode_payload
from realizehit.client.protocol import channel_in
from realizehit.client.received_message import ReceivedMessage
from realizehit.common.traceparent import traceparent_in
from realizehit.errors import ClientError, QueueOverflow

_FED_BY_QUEUE: Final = ("payload", "message")  # the events whose callbacks the queue feeds, one message at a time


class SubscriptionState(StrEnum):
    """The state of a subscription; each state is also an event of that name."""

    SUBSCRIBING = "subscribing"  # asked for; also while the connection is away
    SUBSCRIBED = "subscribed"  # in force: nothing published from here on is missed
    UNSUBSCRIBING = "unsubscribing"
    UNSUBSCRIBED = "unsubscribed"  # ended for good


class SubscriptionOwner(Protocol):
    """What a subscription needs of the client that made it."""

    async def end(self, subscription: Subscription) -> None:
        """Unsubscribe at the server, and end the subscription.

        Raises:
            ResponseTimeout: the server did not confirm it in time; the subscription has ended anyway.
        """

    def fail(self, subscription: Subscription, error: ClientError) -> None:
        """End the subscription because of an error on this side."""


class Subscription(Emitter):
    """A subscription to one pattern. `WSClient.subscribe` makes it.

    Read it in one of these ways, not in several: ``async for payload in subscription``; or
    ``async for message in subscription.messages()``, which tells the pattern of each message too; or callbacks of the
    events ``payload`` and ``message``. One bounded queue feeds all of them, in order. A callback that is a coroutine
    function is awaited before the next payload is handed out.

    Events:

    - ``payload`` (payload): something was published.
    - ``message`` (`ReceivedMessage`): the same, with the pattern that it was published to.
    - ``subscribing``, ``subscribed``, ``unsubscribing``, ``unsubscribed``: the state changed.
    - ``gap`` (seconds): messages may be missing. The connection, or the server's broker, was away and the subscription
      is in force again; the seconds count from the last sign of life: everything older has arrived. 0 seconds mean
      that the queue was full and dropped messages (`dropped` counts them), or that the server cannot tell what came
      after ``since``.
    - ``recovered`` (): the subscription is in force again after a lost connection, and what was published meanwhile
      follows: nothing is missing. This is for subscriptions with positions.
    - ``error`` (exception): the subscription ended by itself; or a message was left out, because its payload is not
      JSON, or because the label of a wildcard subscription's message is malformed. The latter is told once.

    Attributes:
        filters: the pattern as it was given.
        id: the pattern's id on the wire, empty until the server has confirmed the subscription once.
        state: a `SubscriptionState`.
        gaps: how many gaps there were.
        raw: whether payloads come as the JSON text they were published as, ``bytes``, instead of Python values.
        recovered: whether everything after the last position that the server was asked for has come or will come;
            ``None`` if it was not asked. After ``subscribe(since=...)``, False means that messages are missing.
        position: of the last message that was handed out; before the first one, the position from which the
            subscription began. A later ``subscribe(since=...)`` goes on from there. ``None`` if the server tells no
            positions.
    """

    events: ClassVar[tuple[str, ...]] = (*_FED_BY_QUEUE, *SubscriptionState, "gap", "recovered", "error")

    def __init__(
        self, owner: SubscriptionOwner, filters: Mapping[str, Any], *, raw: bool, maxsize: int, overflow: Overflow
    ) -> None:
        super().__init__()
        self.filters = dict(filters)
        self.id = ""
        self.state = SubscriptionState.SUBSCRIBING
        self.gaps = 0
        self.raw = raw
        self.recovered: bool | None = None
        self.position: str | None = None
        self._owner = owner
        self._maxsize = maxsize
        self._queue: PayloadQueue[tuple[bytes, bytes, str | None]] = PayloadQueue(maxsize, overflow)
        self._told_dropped = 0  # of the queue's `dropped`, how many were told as gaps
        self._away_since: float | None = None
        self._is_wildcard = is_wildcard(filters)
        self._told_malformed = False
        self._pump: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Subscription {self.filters!r} {self.state}>"

    @property
    def dropped(self) -> int:
        """How many payloads were lost because the queue was full."""
        return self._queue.dropped

    @property
    def waiting(self) -> int:
        """How many payloads wait in the queue."""
        return len(self._queue)

    def on(self, event: str, callback: Callback) -> None:
        """Call ``callback`` at each such event. See `Emitter.on`.

        The first callback for ``payload`` or ``message`` starts reading the queue: messages that already wait go to
        the callbacks too.
        """
        super().on(event, callback)
        if event in _FED_BY_QUEUE and self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._call_back(), name="realizehit payload callbacks")

    async def unsubscribe(self) -> None:
        """End the subscription. What still waits in the queue is thrown away; calling it again does nothing.

        Raises:
            ResponseTimeout: the server did not confirm it in time; the subscription has ended on this side anyway.
        """
        await self._owner.end(self)

    def __aiter__(self) -> Subscription:
        self._check_unread()
        return self

    async def __anext__(self) -> Any:
        try:
            while True:
                payload = (await self._next())[0]
                if self.raw:
                    return payload
                try:
                    return decode_payload(payload)
                except ClientError as error:
                    self._left_out(error)
        except Ended:
            raise StopAsyncIteration from None

    async def messages(self) -> AsyncIterator[ReceivedMessage]:
        """Iterate over messages: each has its payload, its text, and the pattern that it was published to.

        A payload that is not JSON is not left out here: reading `ReceivedMessage.payload` raises.
        """
        self._check_unread()
        while True:
            try:
                message = ReceivedMessage(self.filters, *await self._next())
            except Ended:
                return
            yield message

    def _check_unread(self) -> None:
        if self._pump is not None:
            raise RuntimeError("this subscription has a callback for its messages; iterate over another subscription")

    async def _next(self) -> tuple[bytes, bytes, str | None, str | None]:
        """Return the next payload, the channel that it was published to, its position and its traceparent.

        The channel is empty if this is no wildcard.
        """
        while True:
            payload, label, position = await self._queue.get()
            if self._queue.dropped != self._told_dropped:
                self._tell_dropped()
            if position is not None:
                self.position = position
            traceparent = traceparent_in(label) if label else None
            if not self._is_wildcard:
                return payload, b"", position, traceparent
            try:
                return payload, channel_in(label), position, traceparent
            except ValueError as error:
                self._label_malformed(error)

    def _label_malformed(self, error: ValueError) -> None:
        """Report a message whose label does not tell what it was published to; only the first one is reported."""
        if not self._told_malformed:
            self._told_malformed = True
            text = f"a message of {self.filters!r} has a malformed label and was left out, as further ones will be"
            self._emit("error", ClientError(f"{text}: {error}"))

    def _left_out(self, error: ClientError) -> None:
        self._emit("error", ClientError(f"a payload of {self.filters!r} is not JSON and was left out: {error}"))

    async def _call_back(self) -> None:
        while True:
            try:
                message = ReceivedMessage(self.filters, *await self._next())
            except Ended:
                return
            except ClientError:
                return  # the error event has reported it
            for callback in tuple(self._callbacks["message"]):
                await self._call(callback, message)
            if not self._callbacks["payload"]:
                continue
            try:
                payload = message.raw if self.raw else message.payload
            except ClientError as error:
                self._left_out(error)
                continue
            for callback in tuple(self._callbacks["payload"]):
                await self._call(callback, payload)

    async def _call(self, callback: Callback, value: object) -> None:
        try:
            result = callback(value)
            if inspect.isawaitable(result):
                await result
        except Exception as error:  # noqa: BLE001 - the next message must still reach the callbacks
            self._callback_failed(error)

    # ---- what the client does with it

    def deliver(self, payload: bytes, label: bytes, position: str | None) -> bool:
        """Queue one payload.

        Args:
            payload: its JSON text.
            label: the label that came with it; empty if there was none.
            position: its position, if the server told one.

        Returns:
            Whether the queue is full now, so that the reader should run before the next one.
        """
        try:
            full = self._queue.put((payload, label, position))
        except QueueFull:
            text = f"{self._maxsize} payloads of {self.filters!r} were waiting when one more came"
            self._owner.fail(self, QueueOverflow(text))
            return False
        untold = self._queue.dropped - self._told_dropped
        # The first one is told at once. Further ones are told together, at the latest when the reader goes on.
        if untold and (not self._told_dropped or untold >= self._maxsize):
            self._tell_dropped()
        return full

    def in_force(self, wire_id: str, now: float, recovered: bool | None, position: str | None) -> None:
        """Note that the server has confirmed the subscription.

        Args:
            wire_id: the pattern's id on the wire.
            now: the loop's time.
            recovered: whether everything after the position that the server was asked for follows; ``None`` if it was
                not asked.
            position: the position from which it goes on, if there is one.
        """
        is_first = not self.id
        self.id = wire_id
        self.recovered = recovered
        if is_first:
            self.position = position
        self.move(SubscriptionState.SUBSCRIBED)
        if self._away_since is not None:
            seconds, self._away_since = now - self._away_since, None
            if recovered:
                self._emit("recovered")
            else:
                self.gap(seconds)
        elif recovered is False:
            self.gap(0.0)

    def gap(self, seconds: float) -> None:
        """Count a gap and tell it: messages may be missing."""
        self.gaps += 1
        self._emit("gap", seconds)

    def _tell_dropped(self) -> None:
        self._told_dropped = self._queue.dropped
        self.gap(0.0)

    def interrupted(self, since: float) -> None:
        """Note that the connection is lost; messages may be missing from ``since`` on."""
        if self.state is SubscriptionState.SUBSCRIBED:
            if self._away_since is None:
                self._away_since = since
            self.move(SubscriptionState.SUBSCRIBING)

    def finish(self, error: Exception | None = None) -> None:
        """End the subscription. With an error, what waits in the queue can still be read; without, it is discarded."""
        self._queue.end(error, discard=error is None)
        if self.state is not SubscriptionState.UNSUBSCRIBED:
            self.move(SubscriptionState.UNSUBSCRIBED)
            if error is not None:
                self._emit("error", error)

    def stop_reading(self) -> None:
        """Hand out nothing more, and discard what waits."""
        self._queue.end(discard=True)

    def stop_callbacks(self) -> asyncio.Task[None] | None:
        """Cancel the task that runs the callbacks, unless it is the caller; return the task to wait for."""
        if self._pump is None or self._pump is asyncio.current_task():
            return None
        self._pump.cancel()
        return self._pump

    def move(self, state: SubscriptionState) -> None:
        """Change the state and emit its event."""
        if self.state is not state:
            self.state = state
            self._emit(state)
