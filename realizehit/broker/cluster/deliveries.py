"""A publication on its way into a cluster: itself and its projections, which go to the machines of their slots."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from typing import Final, Protocol

from realizehit.broker.projections import labelled
from realizehit.broker.publication import Outcome, Publication, Published
from realizehit.broker.publish_errors import PublishErrors
from realizehit.errors import BrokerError
from realizehit.pattern import projections

_NUMBERS: Final = count()


class Receiver(Protocol):
    """Who waits for outcomes of publications."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def take(self, place: int, outcome: Outcome) -> None:
        """Take the outcome of the publication at ``place``."""


class FutureReceiver:
    """Sets a future to the outcomes of all publications once they are there.

    Args:
        size: how many there are.

    Attributes:
        future: it.
    """

    __slots__ = ("_left", "_outcomes", "future")

    def __init__(self, size: int) -> None:
        self.future: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self._outcomes: list[Outcome | None] = [None] * size
        self._left = size

    def done(self) -> bool:
        """Whether the caller gave up, or has all outcomes."""
        return self.future.done()

    def take(self, place: int, outcome: Outcome) -> None:
        """Take one outcome."""
        self._outcomes[place] = outcome
        self._left -= 1
        if not self._left and not self.future.done():
            self.future.set_result([one for one in self._outcomes if one is not None])


class CallbackReceiver:
    """Calls back with the outcome of one publication."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[Outcome], None]) -> None:
        self._callback: Callable[[Outcome], None] | None = callback

    def done(self) -> bool:
        """Whether there is an outcome."""
        return self._callback is None

    def take(self, place: int, outcome: Outcome) -> None:
        """Call back."""
        callback, self._callback = self._callback, None
        try:
            if callback is not None:
                callback(outcome)
        except Exception as error:  # noqa: BLE001 - the other outcomes are for others
            asyncio.get_running_loop().call_exception_handler(
                {"message": "telling of a publication failed", "exception": error}
            )


class Part:
    """What one machine publishes of a delivery.

    Attributes:
        publication: the message itself, or one projection of it.
        delivery: to which it belongs.
        number: its place in the order in which parts were handed over.
        slot: of its channel.
        attempts: how often a machine did not carry it out.
        was_sent: whether a machine may have carried it out.
    """

    __slots__ = ("attempts", "delivery", "number", "publication", "slot", "was_sent")

    def __init__(self, delivery: Delivery, publication: Publication, slot: int) -> None:
        self.delivery = delivery
        self.publication = publication
        self.number = next(_NUMBERS)
        self.slot = slot
        self.attempts = 0
        self.was_sent = False


class Delivery:
    """A publication on its way.

    Args:
        publication: it.
        deadline: time of the loop at which it fails.
        receiver: gets the outcome.
        place: its place for the receiver.

    Attributes:
        shapes: those by which it was projected.
        left: how many of its parts have no outcome.
        answered_at: time of the loop of the last outcome of a part.
        trouble: why a part was not carried out so far.
        has_outcome: whether it was told.
    """

    __slots__ = (
        "_nodes", "_own", "_refusal", "answered_at", "deadline", "has_outcome", "left", "parts", "place", "publication",
        "receiver", "shapes", "trouble",
    )  # fmt: skip

    def __init__(self, publication: Publication, deadline: float, receiver: Receiver, place: int) -> None:
        self.publication = publication
        self.deadline = deadline
        self.receiver = receiver
        self.place = place
        self.shapes: tuple[bytes, ...] = ()
        self.parts: list[Part] = []
        self.left = 0
        self.answered_at = 0.0
        self.trouble: BrokerError | None = None
        self.has_outcome = False
        self._own: Published | None = None
        self._nodes = 0
        self._refusal: BrokerError | None = None

    def done(self) -> bool:
        """Whether nobody waits for the outcome."""
        return self.has_outcome or self.receiver.done()

    def take(self, part: Part, outcome: Outcome) -> None:
        """Take the outcome of a part."""
        self.left -= 1
        if isinstance(outcome, BrokerError):
            self._refusal = self._refusal or outcome
        elif part is self.parts[0]:
            self._own = outcome
            self._nodes += outcome.nodes
        else:
            self._nodes += outcome.nodes

    def tell(self) -> None:
        """Tell the outcome: all parts have theirs."""
        outcome: Outcome
        if self._refusal is not None or self._own is None:
            assert self._refusal is not None
            outcome = self._refusal
        elif self._nodes == self._own.nodes:
            outcome = self._own
        else:
            outcome = Published(self._nodes, self._own.duplicate, self._own.at)
        self._tell(outcome)

    def fail(self, error: BrokerError, errors: PublishErrors) -> None:
        """Tell a failure before all parts have their outcomes; it is unclear if a machine may have carried out one."""
        sent = any(part.was_sent for part in self.parts)
        self._tell(self._refusal or (errors.unclear(error) if sent else error))

    def _tell(self, outcome: Outcome) -> None:
        self.has_outcome = True
        if not self.receiver.done():
            self.receiver.take(self.place, outcome)


def projections_with_keys(publication: Publication, shapes: tuple[bytes, ...]) -> Sequence[Publication]:
    """Return the projections of a publication by some shapes, each with the idempotency key of this publication there.

    Publications to several channels may have the same key and the same channel of a wildcard. So the key of a
    projection names the channel of its publication, too.
    """
    channels = projections(publication.channel, shapes)
    if not channels:
        return ()
    payload = labelled(publication)
    key = b"%b?%b" % (publication.channel, publication.key) if publication.key else b""
    return [Publication(channel, payload, key) for channel in channels]
