"""What a node tells of itself: the figures that the console shows, as answers to questions and as publications.

A process with the console also publishes them over its own broker: each second while there are listeners, as the
broker's count of the last message shows, and otherwise every few seconds. While somebody watches in one of the two
ways, a stamped message of the node's own goes the whole way as well, from the bus over the broker into the engine's
dispatch and flush, and back here: what that takes is the latency that is shown.

Source: the message's fields are documented in ``docs/console.md``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import time
from collections.abc import Callable
from typing import Any, Final

import hiredis
import orjson

from realizehit import __version__, _fanout
from realizehit.broker.base import Bus
from realizehit.broker.publication import Publication, Published
from realizehit.errors import BrokerRefused
from realizehit.node.history_figures import HistoryFigures
from realizehit.node.names import interest_of
from realizehit.pattern import RESERVED_KEY, Channel, channel_of, is_reserved

logger: Final = logging.getLogger(__name__)

STATS: Final = {RESERVED_KEY: "stats"}  # the pattern that the figures of all nodes are published to
STATS_CHANNEL: Final = channel_of(STATS)

INTERVAL: Final = 1.0  # seconds between messages while there are listeners
IDLE: Final = 5  # intervals between them while there are no listeners
WATCHED: Final = 4  # intervals for which a question of a watcher counts
BUSIEST: Final = 10  # channels in a message

_NO_MORE: Final = object()


class Figures:
    """Takes the figures of one process, and publishes them.

    Args:
        engine, bus: the node's.
        history: figures of history.
        node: names the process in its messages; drawn anew at each start.
        role: what the process does; one without clients has no probe.
        published: returns how many messages were published through it so far.
        publishes: whether the figures are published too; they are told to those who ask in any case.
        worker: number of the process among the workers of its server; ``None`` where it is the only one.
        interval: seconds between messages.

    Reentrancy: for the event loop's thread.
    """

    def __init__(
        self,
        engine: _fanout.Engine,
        bus: Bus,
        history: HistoryFigures,
        *,
        node: str,
        role: str,
        published: Callable[[], int],
        publishes: bool = True,
        worker: int | None = None,
        interval: float = INTERVAL,
    ) -> None:
        self.node = node
        self._engine = engine
        self._bus = bus
        self._history = history
        self._role = role
        self._published = published
        self._publishes = publishes
        self._worker = worker
        self._interval = interval
        self._probe = Probe(engine, bus, channel_of({RESERVED_KEY: "probe", "node": self.node}))
        self._started = time.monotonic()
        self._listened = False  # whether the last message had receivers
        self._watched = False
        self._asked = -math.inf  # when a watcher last asked
        self._refused = False
        self._before: tuple[float, dict[str, int]] | None = None  # when figures were last taken, and the counters then
        self._taken: dict[str, Any] = {}  # the last figures

    def about(self) -> dict[str, Any]:
        """Return what does not change: which process this is."""
        return {
            "node": self.node,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "worker": self._worker,
            "parent": None if self._worker is None else os.getppid(),
            "role": self._role,
            "version": __version__,
        }

    async def answer(self, question: Any) -> dict[str, Any]:
        """Answer a question of a process: ``{"watch": true}`` of one that goes on asking, ``None`` of any other."""
        if isinstance(question, dict) and question.get("watch"):
            self._asked = time.monotonic()
            self._look()
        return self.take()

    async def run(self) -> None:
        """Publish until cancelled."""
        try:
            for turn in range(1 << 62):
                await asyncio.sleep(self._interval)
                self._look()
                is_due = self._publishes and (self._has_listeners() or turn % IDLE == 0)
                if is_due or self._watched:
                    await self._publish(figures=is_due)
        finally:
            self._probe.end()

    def _has_listeners(self) -> bool:
        # Listeners here are known at once, listeners elsewhere from the count of the last message.
        return self._listened or self._engine.subscribers(STATS_CHANNEL) > 0

    def _look(self) -> None:
        """See whether somebody watches."""
        watched = self._listened or time.monotonic() - self._asked < WATCHED * self._interval
        if watched and not self._watched:
            self._engine.busiest(1)  # what was counted so far is not of this second
        elif not watched:
            self._probe.end()
        self._watched = watched

    async def _publish(self, *, figures: bool) -> None:
        publications: list[Publication] = []
        if figures:
            publications.append(Publication(STATS_CHANNEL, orjson.dumps(self.take())))
        if self._watched and self._role != "api":
            self._probe.begin()
            publications.append(Publication(self._probe.channel, self._probe.stamp()))
        outcomes = await self._bus.publish_many(publications) if publications else []
        if not figures:
            return
        outcome = outcomes[0]
        if isinstance(outcome, BrokerRefused) and not self._refused:
            self._refused = True
            logger.warning("the console has no figures of this node: %s", outcome)
        self._listened = isinstance(outcome, Published) and outcome.nodes > 0
        self._look()

    def take(self) -> dict[str, Any]:
        """Return the message: gauges as they are, rates since the last message. The probe is left out of all of it.

        Within half an interval the message is the same for all who ask, so that rates are never those of an instant.
        """
        now = time.monotonic()
        if self._before is not None and now - self._before[0] < self._interval / 2:
            return self._taken
        stats = self._engine.stats()
        counters = {
            "messages": stats["messages"] - self._probe.arrived,
            "deliveries": stats["deliveries"] - self._probe.arrived,
            "bytes": stats["bytes_out"] - self._probe.bytes,
            "published": self._published(),
            **self._history.counters(stats),
        }
        then, before = self._before or (now, counters)
        self._before = now, counters
        elapsed = max(now - then, 1e-3)
        messages, size, largest_messages, largest_bytes = self._engine.queues()
        busiest = self._engine.busiest(BUSIEST + 2) if self._watched else []
        probing = self._probe.handle is not None
        self._taken = {
            **self.about(),
            "time": time.time(),
            "uptime": round(now - self._started, 1),
            "interval": self._interval * (1 if self._has_listeners() else IDLE),
            "broker": self._bus.state.value,
            "shapes": self._bus.shapes,
            "connections": stats["connections"] - probing,
            "subscriptions": stats["subscriptions"] - probing,
            "channels": stats["channels"] - probing,
            **counters,
            **{f"{name}_rate": round((counters[name] - before[name]) / elapsed, 1) for name in counters},
            "latency_ms": self._probe.take(),
            "queued_messages": messages,
            "queued_bytes": size,
            "largest_queue": {"messages": largest_messages, "bytes": largest_bytes},
            "slow_disconnects": stats["slow_disconnects"],
            "history": self._history.take(stats),
            "busiest": [
                {
                    "channel": channel.decode(),
                    "subscribers": subscribers,
                    "rate": round(count / elapsed, 1),
                    "at": self._history.position(channel),
                }
                for channel, subscribers, count in busiest
                if not is_reserved(channel)
            ][:BUSIEST],
        }
        return self._taken


class Probe:
    """A connection of the node to itself: what is published to its channel comes back through broker and engine.

    It is a transport and a handler of the engine at once, with the framing that workers have, which knows no heartbeat.

    Args:
        engine, bus: the node's. The hub is bypassed: no answer has to wait, and no gap has to be reported.
        channel: of its own, with the reserved key.

    Attributes:
        handle: the engine's handle, ``None`` while there is no connection.
        arrived: stamps that came back so far.
        bytes: what the engine wrote to it so far.
    """

    def __init__(self, engine: _fanout.Engine, bus: Bus, channel: Channel) -> None:
        self.channel = channel
        self.handle: int | None = None
        self.arrived = 0
        self.bytes = 0
        self._engine = engine
        self._bus = bus
        self._reader = hiredis.Reader(notEnoughData=_NO_MORE)
        self._latency: float | None = None

    def begin(self) -> None:
        """Connect and subscribe, where that is not so already."""
        if self.handle is None:
            self._reader = hiredis.Reader(notEnoughData=_NO_MORE)
            self.handle = self._engine.attach(self, self, framing=_fanout.RESP)
            self._engine.subscribe(self.handle, self.channel)
            self._bus.subscribe(interest_of(self.channel))

    def end(self) -> None:
        """Disconnect."""
        if self.handle is not None:
            self._engine.disconnect(self.handle, 0)

    def stamp(self) -> bytes:
        """Return a payload that says when it was made."""
        return b"%d" % time.perf_counter_ns()

    def take(self) -> float | None:
        """Return the milliseconds that the slowest stamp took that came back since the last call."""
        latency, self._latency = self._latency, None
        return None if latency is None else round(latency, 3)

    # ---- as a transport

    def write(self, data: bytes) -> None:
        """Take what the engine writes."""
        now = time.perf_counter_ns()
        self.bytes += len(data)
        self._reader.feed(data)
        for _, channel, payload in iter(self._reader.gets, _NO_MORE):
            if channel == self.channel:  # what the node tells all its connections is not for this one
                self.arrived += 1
                self._latency = max(self._latency or 0.0, (now - int(payload)) / 1e6)

    def close(self) -> None:
        """Do nothing: there is no socket."""

    abort = close

    # ---- as a handler

    def on_gone(self, handle: int) -> None:
        """Learn that the connection ended."""
        self.handle = None

    def on_text(self, handle: int, data: bytes) -> None:
        """Never called: nothing is sent on it."""

    on_binary = on_bytes = on_text
