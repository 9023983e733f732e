"""A span for each message of a sampled trace that this process delivers, whatever the number of its subscribers."""

from __future__ import annotations

import time
from collections.abc import Callable

from realizehit import _fanout
from realizehit.common.spans import Spans


class DeliverSpans:
    """Makes a span for each delivery that the engine tells of.

    A span ends in the turn of the event loop behind that of the delivery: the engine has then made its first writes.

    Args:
        engine: delivers.
        spans: makes the spans.
        call_soon: has a function called in the loop's next turn.
    """

    def __init__(self, engine: _fanout.Engine, spans: Spans, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._spans = spans
        self._call_soon = call_soon
        self._under_way: list[tuple[bytes, bytes, int, int]] = []
        engine.follow_traces(self._delivered)

    def _delivered(self, channel: bytes, traceparent: bytes, subscribers: int, nanoseconds: int) -> None:
        if not self._under_way:
            self._call_soon(self._end)
        self._under_way.append((channel, traceparent, subscribers, time.time_ns() - nanoseconds))

    def _end(self) -> None:
        ended, self._under_way = self._under_way, []
        now = time.time_ns()
        for channel, traceparent, subscribers, began in ended:
            self._spans.delivered(traceparent, _fanout.channel_id(channel), subscribers, began, now)
