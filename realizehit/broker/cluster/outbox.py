"""Publications on their way into a cluster, until each has its outcome."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from realizehit.broker.chunks import CHUNK_MESSAGES
from realizehit.broker.cluster.deliveries import Delivery, Part, Receiver, projections_with_keys
from realizehit.broker.cluster.registry_view import RegistryView
from realizehit.broker.cluster.routes import Routes
from realizehit.broker.cluster.shard import NotCarriedOut, Shard
from realizehit.broker.cluster.shards import Shards
from realizehit.broker.cluster.slots import slot_of
from realizehit.broker.cluster.watch import TopologyWatch
from realizehit.broker.deadlines import Deadlines
from realizehit.broker.projections import ProjectionCounts
from realizehit.broker.publication import Outcome, Publication
from realizehit.broker.publish_errors import PublishErrors
from realizehit.errors import BrokerError, BrokerRefused, BrokerUnavailable, BrokerUnclear


class Outbox:
    """Takes publications, and reports their outcomes.

    Args:
        shards: the connections to machines.
        view: what is known of the registry of shapes.
        watch: knows the owners of slots.
        errors: builds the errors.
        counts: counts projections.
        late: returns the error for what was not carried out in time, from why it was not.
        project: whether messages are projected.
        timeout: seconds until a publication fails.
    """

    def __init__(
        self,
        shards: Shards,
        view: RegistryView,
        watch: TopologyWatch,
        errors: PublishErrors,
        *,
        counts: ProjectionCounts,
        late: Callable[[BrokerError | None], BrokerUnavailable],
        project: bool,
        timeout: float,
    ) -> None:
        self._shards = shards
        self._view = view
        self._watch = watch
        self._counts = counts
        self._errors = errors
        self._late = late
        self._project = project
        self._timeout = timeout
        self._routes = Routes(shards, self._answered, CHUNK_MESSAGES)
        self._open: deque[Delivery] = deque()  # those without an outcome, and perhaps some with one, oldest first
        self._held: deque[Delivery] = deque()  # those that wait for a young view
        self._unconfirmed: deque[Delivery] = deque()  # those whose replies came while the view was too old
        self._deadlines = Deadlines(self._fail_late, self._next_due)
        self._closed = False

    def close(self) -> None:
        """Fail everything; what is published from here on fails, too."""
        self._closed = True
        self._deadlines.stop()
        self._routes.close()
        error = self._errors.closed()
        for delivery in self._open:
            if not delivery.has_outcome:
                delivery.fail(error, self._errors)
        for queue in (self._open, self._held, self._unconfirmed):
            queue.clear()

    def take_topology(self) -> None:
        """Follow the new topology of the shards."""
        self._routes.take_topology()

    # ---- what is published

    def begin_all(
        self, block: Sequence[Publication], receiver: Receiver, failed: dict[Shard | None, BrokerError]
    ) -> None:
        """Begin to publish a block, but not what goes to machines that failed."""
        parts: list[Part] = []
        for place, publication in enumerate(block):
            if failed and (error := failed.get(self._shards.owner_of(slot_of(publication.channel)))) is not None:
                receiver.take(place, error)
            elif (delivery := self._admit(publication, receiver, place)) is not None:
                parts += self._parts(delivery)
        self._routes.send_all(parts)

    def begin(self, publication: Publication, receiver: Receiver) -> None:
        """Begin to publish one message."""
        delivery = self._admit(publication, receiver, 0)
        if delivery is not None:
            for part in self._parts(delivery):
                self._routes.send(part)

    def _admit(self, publication: Publication, receiver: Receiver, place: int) -> Delivery | None:
        """Return a delivery that may be sent now; None if it waits until the registry has been read, or has failed."""
        loop = asyncio.get_running_loop()
        if self._closed:
            loop.call_soon(receiver.take, place, self._errors.closed())
            return None
        now = loop.time()
        delivery = Delivery(publication, now + self._timeout, receiver, place)
        self._open.append(delivery)
        self._deadlines.start(self._timeout)
        if self._view.is_young(now) and not self._held:
            return delivery
        self._held.append(delivery)
        return None

    def _parts(self, delivery: Delivery) -> list[Part]:
        """Return the parts of a delivery that is about to be sent: itself, then its projections."""
        publication = delivery.publication
        parts = [Part(delivery, publication, slot_of(publication.channel))]
        if self._view.shapes and self._project:
            delivery.shapes = self._view.shapes
            projections = projections_with_keys(publication, delivery.shapes)
            if projections:
                self._counts.add(projections)
                parts += [Part(delivery, one, slot_of(one.channel)) for one in projections]
        delivery.parts = parts
        delivery.left = len(parts)
        return parts

    def _answered(self, part: Part, outcome: Outcome) -> None:
        """Take the outcome of a part from the machine that it was sent to."""
        delivery = part.delivery
        if delivery.done():
            return
        if isinstance(outcome, BrokerUnavailable) and not self._closed:
            if isinstance(outcome, NotCarriedOut) or not isinstance(outcome, BrokerUnclear):
                part.was_sent = False
            if not part.was_sent or part.publication.key:
                delivery.trouble = outcome
                self._again(part, outcome)
                return
        now = delivery.answered_at = asyncio.get_running_loop().time()
        delivery.take(part, outcome)
        if delivery.left:
            return
        if self._view.covers(now):
            self._tell(delivery)
        else:
            self._unconfirmed.append(delivery)
            self._view.is_young(now)  # has it read

    def _again(self, part: Part, outcome: BrokerUnavailable) -> None:
        """Have a part sent again."""
        redirect = outcome.redirect if isinstance(outcome, NotCarriedOut) else None
        place = None if redirect is None or redirect.asking else redirect.place
        self._watch.refresh_soon(place)
        self._routes.again(part, place)

    def _tell(self, delivery: Delivery) -> None:
        delivery.tell()
        queue = self._open
        while queue and queue[0].has_outcome:
            queue.popleft()

    # ---- the registry

    def take_view(self, new: tuple[bytes, ...]) -> None:
        """Follow a new view: project what has no outcome by new shapes, and send what waited for the view."""
        parts: list[Part] = []
        if new and self._project:
            for delivery in self._open:
                if not delivery.has_outcome and delivery.parts:
                    parts += self._owed(delivery, new)
        held, self._held = self._held, deque()
        for delivery in held:
            if not delivery.done():
                parts += self._parts(delivery)
        self._routes.send_all(parts)
        unconfirmed, self._unconfirmed = self._unconfirmed, deque()
        for delivery in unconfirmed:
            if delivery.has_outcome or delivery.left:
                continue  # late, or projected once more
            if self._view.covers(delivery.answered_at):
                self._tell(delivery)
            else:
                self._unconfirmed.append(delivery)

    def _owed(self, delivery: Delivery, new: tuple[bytes, ...]) -> list[Part]:
        """Return the projections of a delivery by new shapes."""
        shapes = tuple(shape for shape in new if shape not in delivery.shapes)
        delivery.shapes += shapes
        projections = projections_with_keys(delivery.publication, shapes)
        if not projections:
            return []
        self._counts.add(projections, later=len(delivery.parts) > 1)
        parts = [Part(delivery, one, slot_of(one.channel)) for one in projections]
        delivery.parts += parts
        delivery.left += len(parts)
        return parts

    def refuse_held(self, error: BrokerRefused) -> None:
        """Fail what waits for the registry, which may not be read."""
        for queue in (self._held, self._unconfirmed):
            while queue:
                delivery = queue.popleft()
                if not delivery.has_outcome:
                    delivery.fail(error, self._errors)

    # ---- time

    def _next_due(self) -> float | None:
        return next((delivery.deadline for delivery in self._open if not delivery.has_outcome), None)

    def _fail_late(self, now: float) -> None:
        late: list[Part] = []
        while self._open and (self._open[0].has_outcome or self._open[0].deadline <= now):
            delivery = self._open.popleft()
            if not delivery.has_outcome:
                delivery.fail(self._late(delivery.trouble), self._errors)
                late += delivery.parts
        self._routes.drop(late)
        for queue in (self._held, self._unconfirmed):  # there may be no view for long
            while queue and queue[0].has_outcome:
                queue.popleft()
