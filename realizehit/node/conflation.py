"""Conflation: the key ``every`` of a subscription, and the timer by which the engine sends what it kept."""

from __future__ import annotations

from collections.abc import Callable

from realizehit import _fanout
from realizehit.common.upkeep import Failures
from realizehit.errors import RequestError
from realizehit.node.history_request import HistoryRequest


def every_of(every: object) -> int:
    """Read an ``every``; ``None`` counts as left out.

    Returns:
        Milliseconds in which a subscription receives at most one message; 0 if it receives every message.

    Raises:
        RequestError: ``bad-request``; it is not a time that can be used.
    """
    if every is None:
        return 0
    if isinstance(every, bool) or not isinstance(every, int) or not 1 <= every <= _fanout.MAX_EVERY:
        raise RequestError(f"every must be an integer of 1 to {_fanout.MAX_EVERY}, in milliseconds")
    return every


def check_together(history: HistoryRequest | None, every: int) -> None:
    """Check that a subscription asks for positions or for fewer messages, not for both.

    Raises:
        RequestError: ``bad-request``; it asks for both.
    """
    if history is not None and every:
        raise RequestError("every was given together with since, last or offsets; a subscription has one of these")


class WindowTimer:
    """Tells the engine the time while subscriptions wait for the end of their windows, and sets no timer otherwise.

    Args:
        engine: has the subscriptions.
        clock: returns seconds of the clock that the engine's ``tick`` is told.
        call_later: has a function called after some seconds.
    """

    def __init__(
        self,
        engine: _fanout.Engine,
        clock: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._call_later = call_later
        self._failures = Failures("sending what was kept for subscriptions with every")
        self._waits = False
        engine.on_windows = self._begin

    def _begin(self) -> None:
        if not self._waits:
            self._advance()

    def _advance(self) -> None:
        self._waits = True
        seconds = _fanout.WINDOW_TICK
        try:
            seconds = self._engine.advance_windows(self._clock())
        except Exception as error:  # noqa: BLE001 - the other subscriptions still wait
            self._failures.note(error)
        self._waits = seconds > 0
        if self._waits:
            self._call_later(max(seconds, 0.001), self._advance)
