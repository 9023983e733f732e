"""Subscriptions that wait for their answer, by what they wait for at the broker, with their deadlines."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from realizehit.broker.base import Interest
from realizehit.errors import ErrorCode
from realizehit.node.history_request import HistoryRequest, Started

Answer = Callable[[ErrorCode | None, str, Started], None]
"""Told how a subscription went: no code and no text when it is in force, otherwise why not; and where it begins."""

if TYPE_CHECKING:
    from realizehit._fanout import FirstSub

    TellFirst = Callable[[FirstSub, ErrorCode | None, str, Started], None]
    """Told the same of a plain subscription that the engine made."""


class FirstAnswer:
    """The answer of a plain subscription that is the first one of its channel; the engine can give it by itself.

    Attributes:
        tell: called with `first` and then as an `Answer`, where the engine does not.
        first: what the engine told of it.
    """

    __slots__ = ("first", "tell")

    def __init__(self, tell: TellFirst, first: FirstSub) -> None:
        self.tell = tell
        self.first = first

    def __call__(self, code: ErrorCode | None, text: str, started: Started) -> None:
        """Answer."""
        self.tell(self.first, code, text, started)


class Waiter(NamedTuple):
    """A subscription without an answer.

    Attributes:
        conn: its connection's handle.
        answer: told the outcome.
        deadline: when it is given up, by the hub's clock.
        history: what it asks of the pattern's history; None for nothing.
        muted: whether the engine sends it nothing until it is answered.
        added: whether it is new; if not, its connection has asked for the same before.
    """

    conn: int
    answer: Answer
    deadline: float
    history: HistoryRequest | None = None
    muted: bool = False
    added: bool = True


class Waiting:
    """The subscriptions that wait, at most one list for each interest.

    A subscription waits from its action until the broker has confirmed its interest and, if the pattern has history,
    until its beginning in the log is known.
    """

    def __init__(self) -> None:
        self._waiters: dict[Interest, list[Waiter]] = {}
        self._deadlines: deque[tuple[float, Interest]] = deque()

    def __contains__(self, interest: object) -> bool:
        return interest in self._waiters

    def add(self, interest: Interest, waiter: Waiter) -> None:
        """Add a subscription, or put back one that was taken. A new one has the latest deadline of all."""
        self._waiters.setdefault(interest, []).append(waiter)
        if not self._deadlines or waiter.deadline >= self._deadlines[-1][0]:
            self._deadlines.append((waiter.deadline, interest))

    def add_firsts(self, firsts: list[FirstSub], tell: TellFirst, deadline: float) -> None:
        """Add plain subscriptions to channels of which none waits; their deadline is the latest of all."""
        for first in firsts:
            interest = Interest(first[2])
            self._waiters[interest] = [Waiter(first[0], FirstAnswer(tell, first), deadline)]
            self._deadlines.append((deadline, interest))

    def take_first(self, interest: Interest) -> FirstSub | None:
        """Remove the only one that waits for an interest, if the engine can answer it."""
        waiters = self._waiters.get(interest, ())
        if len(waiters) != 1 or type(waiters[0].answer) is not FirstAnswer:
            return None
        del self._waiters[interest]
        return waiters[0].answer.first

    def of(self, interest: Interest) -> list[Waiter]:
        """Return a copy of those that wait for an interest, in order."""
        return list(self._waiters.get(interest, ()))

    def holds(self, interest: Interest, conn: int) -> bool:
        """Whether a connection waits for an interest."""
        return any(waiter.conn == conn for waiter in self._waiters.get(interest, ()))

    def all(self) -> Iterator[tuple[Interest, Waiter]]:
        """Go through all that wait."""
        for interest, waiters in self._waiters.items():
            for waiter in waiters:
                yield interest, waiter

    def take(self, interest: Interest, matches: Callable[[Waiter], bool] = lambda waiter: True) -> list[Waiter]:
        """Remove those that wait for an interest, or some of them, and return them in order."""
        taken: list[Waiter] = []
        left: list[Waiter] = []
        for waiter in self._waiters.pop(interest, ()):
            (taken if matches(waiter) else left).append(waiter)
        if left:
            self._waiters[interest] = left
        return taken

    def overdue(self, now: float) -> Iterator[tuple[Interest, list[Waiter]]]:
        """Remove those whose deadline has passed, and return them by interest.

        A connection that asked twice has one subscription: its requests end together.
        """
        while self._deadlines and self._deadlines[0][0] <= now:
            _, interest = self._deadlines.popleft()
            waiters = self._waiters.get(interest)
            if not waiters or waiters[0].deadline > now:
                continue  # the one that waits longest was just given up, with all that were as late
            late = {waiter.conn for waiter in waiters if waiter.deadline <= now}
            yield interest, self.take(interest, partial(_is_of, late))


def _is_of(conns: set[int], waiter: Waiter) -> bool:
    return waiter.conn in conns
