"""One subscription of a WebSocket client: its queue, its callbacks, its events."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar, Protocol

from realizehit.client.events import Callback, Emitter
from realizehit.client.payload_queue import Ended, Overflow, PayloadQueue, QueueFull
from realizehit.client.payloads import decode_payload
from realizehit.errors import ClientError, QueueOverflow


class SubscriptionState(StrEnum):
    """Where a subscription stands; each state is also an event of that name."""

    SUBSCRIBING = "subscribing"  # asked for; also while the connection is away
    SUBSCRIBED = "subscribed"  # in force: nothing published from here on is missed
    UNSUBSCRIBING = "unsubscribing"
    UNSUBSCRIBED = "unsubscribed"  # over for good


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
    """What a client asked for. Made by `WSClient.subscribe`.

    Read it with ``async for payload in subscription``, or attach a callback to its ``payload`` event; one or the
    other. Both are fed by one bounded queue, in order. A callback that is a coroutine function is awaited before the
    next payload is handed out.

    Events:

    - ``payload`` (payload): something was published.
    - ``subscribing``, ``subscribed``, ``unsubscribing``, ``unsubscribed``: the state changed.
    - ``gap`` (seconds): the connection, or the server's broker, had been away and the subscription is in force again.
      Messages that were published meanwhile are missing. The seconds count from the last sign of life, so what is
      older has arrived.
    - ``error`` (exception): the subscription ended by itself, or a payload was no JSON and was left out.

    Attributes:
        filters: the pattern as it was given.
        id: its label on the wire, empty until it was subscribed once.
        state: a `SubscriptionState`.
        gaps: how many gaps there were.
        raw: whether payloads come as the JSON text they were published as, ``bytes``, instead of Python values.
    """

    events: ClassVar[tuple[str, ...]] = ("payload", *SubscriptionState, "gap", "error")

    def __init__(
        self, owner: SubscriptionOwner, filters: Mapping[str, Any], *, raw: bool, maxsize: int, overflow: Overflow
    ) -> None:
        super().__init__()
        self.filters = dict(filters)
        self.id = ""
        self.state = SubscriptionState.SUBSCRIBING
        self.gaps = 0
        self.raw = raw
        self._owner = owner
        self._maxsize = maxsize
        self._queue = PayloadQueue(maxsize, overflow)
        self._away_since: float | None = None
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

        From the first ``payload`` callback on, payloads go to the callbacks, those that already wait included.
        """
        super().on(event, callback)
        if event == "payload" and self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._call_back(), name="realizehit payload callbacks")

    async def unsubscribe(self) -> None:
        """End the subscription. What still waits in the queue is thrown away; calling it again does nothing.

        Raises:
            ResponseTimeout: the server did not confirm it in time; the subscription has ended on this side anyway.
        """
        await self._owner.end(self)

    def __aiter__(self) -> Subscription:
        if self._pump is not None:
            raise RuntimeError("this subscription has a payload callback; iterate over another one")
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._next()
        except Ended:
            raise StopAsyncIteration from None

    async def _next(self) -> Any:
        while True:
            payload = await self._queue.get()
            if self.raw:
                return payload
            try:
                return decode_payload(payload)
            except ClientError as error:
                self._emit("error", ClientError(f"a payload of {self.filters!r} is no JSON and was left out: {error}"))

    async def _call_back(self) -> None:
        while True:
            try:
                payload = await self._next()
            except Ended:
                return
            except ClientError:
                return  # the error event has told it
            for callback in tuple(self._callbacks["payload"]):
                try:
                    result = callback(payload)
                    if inspect.isawaitable(result):
                        await result
                except Exception as error:  # noqa: BLE001 - the next payload has its own chance
                    self._callback_failed(error)

    # ---- what the client does with it

    def deliver(self, payload: bytes) -> bool:
        """Queue one payload.

        Returns:
            Whether the queue is full now, so that the reader should have its turn before the next one.
        """
        try:
            return self._queue.put(payload)
        except QueueFull:
            text = f"{self._maxsize} payloads of {self.filters!r} were waiting when one more came"
            self._owner.fail(self, QueueOverflow(text))
            return False

    def in_force(self, label: str, now: float) -> None:
        """Learn that the server has confirmed it."""
        self.id = label
        self.move(SubscriptionState.SUBSCRIBED)
        if self._away_since is not None:
            seconds, self._away_since = now - self._away_since, None
            self.gap(seconds)

    def gap(self, seconds: float) -> None:
        """Learn that something may be missing."""
        self.gaps += 1
        self._emit("gap", seconds)

    def interrupted(self, since: float) -> None:
        """Learn that the connection is gone."""
        if self.state is SubscriptionState.SUBSCRIBED:
            if self._away_since is None:
                self._away_since = since
            self.move(SubscriptionState.SUBSCRIBING)

    def finish(self, error: Exception | None = None) -> None:
        """End it: at once where that was asked for, after what waits in the queue where an error ends it."""
        self._queue.end(error, discard=error is None)
        if self.state is not SubscriptionState.UNSUBSCRIBED:
            self.move(SubscriptionState.UNSUBSCRIBED)
            if error is not None:
                self._emit("error", error)

    def stop_reading(self) -> None:
        """Hand out nothing more, and forget what waits."""
        self._queue.end(discard=True)

    def stop_callbacks(self) -> asyncio.Task[None] | None:
        """Cancel the callback that runs, unless it is the caller; return the task to wait for."""
        if self._pump is None or self._pump is asyncio.current_task():
            return None
        self._pump.cancel()
        return self._pump

    def move(self, state: SubscriptionState) -> None:
        """Change the state and tell it."""
        if self.state is not state:
            self.state = state
            self._emit(state)
