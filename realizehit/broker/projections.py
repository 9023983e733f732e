"""Projections: what is published, beside a publication itself, to reach the wildcard subscriptions that it matches.

Source: docs/patterns.md says what the projection of a publication by a shape is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from realizehit.broker.publication import Outcome, Publication, Published, published, split_channel, with_channel
from realizehit.pattern import projections as projected_channels
from realizehit.pattern import shape_of

COUNTED_SHAPES: Final = 64
"""Shapes whose projections are counted one by one."""

OTHER: Final = b"other"
"""Stands for all shapes beyond those that are counted one by one."""


def labelled(publication: Publication) -> bytes:
    """Return the payload of a projection: it names the channel, since the subscription leaves some of it open."""
    return with_channel(publication.payload, publication.channel)


def origin_of(projection: Publication) -> Publication:
    """Return the publication of a projection."""
    return Publication(*split_channel(projection.payload))


def projections_of(publication: Publication, shapes: tuple[bytes, ...]) -> Sequence[Publication]:
    """Return the projections of a publication by those shapes that apply to it, in the order of the shapes."""
    channels = projected_channels(publication.channel, shapes)
    if not channels:
        return ()
    payload = labelled(publication)
    return [Publication(channel, payload) for channel in channels]


class ProjectionCounts:
    """How many projections a connection or a bus has published.

    Args:
        most: how many shapes are counted one by one, so that the figures have a bound.

    Attributes:
        publications: that had at least one projection.
        by_shape: projections by shape, `OTHER` for the rest.
        malformed: how many members of the registry and messages about it were ignored, since they are no shapes.
    """

    __slots__ = ("_by_shape", "_most", "malformed", "publications")

    def __init__(self, most: int = COUNTED_SHAPES) -> None:
        self.publications = self.malformed = 0
        self._most = most
        self._by_shape: dict[bytes, int] = {}

    @property
    def by_shape(self) -> Mapping[bytes, int]:
        """Projections by shape."""
        return self._by_shape

    def add(self, projections: Sequence[Publication], *, later: bool = False) -> None:
        """Count the projections of one publication.

        Args:
            projections: at least one.
            later: whether others of the same publication were counted before.

        Cost: 0.1 us for each.
        """
        if not later:
            self.publications += 1
        counts = self._by_shape
        for projection in projections:
            shape = shape_of(projection.channel)
            if shape not in counts and len(counts) >= self._most:
                shape = OTHER
            counts[shape] = counts.get(shape, 0) + 1


def with_projections(
    publications: Sequence[Publication], shapes: tuple[bytes, ...], counts: ProjectionCounts
) -> tuple[list[Publication], list[int]]:
    """Return the messages to publish: each publication before its projections.

    Returns:
        What to publish, and for each item the index of the publication that it belongs to.
    """
    items: list[Publication] = []
    places: list[int] = []
    for place, publication in enumerate(publications):
        items.append(publication)
        places.append(place)
        projections = projections_of(publication, shapes)
        if projections:
            counts.add(projections)
            items += projections
            places += [place] * len(projections)
    return items, places


class OutcomeSums:
    """Adds up the outcomes of publications that were sent as several commands, one for each projection.

    Args:
        outcomes: what is known so far of each publication.

    Attributes:
        outcomes: for each publication the sum of its nodes, or its first error: one failure of several is the outcome.
    """

    __slots__ = ("outcomes",)

    def __init__(self, outcomes: list[Outcome]) -> None:
        self.outcomes = outcomes

    def add(self, place: int, outcome: Outcome) -> None:
        """Take the outcome of a command that belongs to the publication at ``place``."""
        total = self.outcomes[place]
        if isinstance(total, Published) and isinstance(outcome, Published):
            self.outcomes[place] = published(total.nodes + outcome.nodes)
        elif isinstance(total, Published):
            self.outcomes[place] = outcome
