"""What a publisher that projects its messages expects from the broker: replies, in the order of the commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from realizehit.broker.chunks import Chunk
from realizehit.broker.publish_script import added, combined, is_unknown_script


class Reply:
    """A reply that is awaited and answers no message."""

    __slots__ = ("take",)

    def __init__(self, take: Callable[[Any], None]) -> None:
        self.take = take


class Part:
    """Commands that stand one behind the other and belong to one chunk.

    Attributes:
        places: for each command the index of its message.
        taken: how many of them have their reply.
        originals: whether the messages themselves are among them; else these are projections that were owed.
    """

    __slots__ = ("chunk", "originals", "places", "taken")

    def __init__(self, chunk: Chunk, places: Sequence[int], *, originals: bool) -> None:
        self.chunk = chunk
        self.places = places
        self.originals = originals
        self.taken = 0

    def unanswered(self) -> range:
        """Return the indexes of the messages whose own reply, which says that they were carried out, is to come."""
        first = self.places[self.taken] if self.taken < len(self.places) else self.chunk.count
        if self.taken and self.places[self.taken - 1] == first:
            first += 1  # its own reply is the first of those that it has
        return range(first, self.chunk.count)


class Book:
    """What is known of a chunk under way that has projections; of others the chunk itself knows it.

    Attributes:
        parts: how many of its parts are not answered.
        extra: how many commands it has beyond its messages.
        extra_bytes: of payload in these.
        left: for each message how many replies are to come.
        totals: for each message the sum of its replies, or the first that is no number.
    """

    __slots__ = ("extra", "extra_bytes", "left", "parts", "totals")

    def __init__(self, chunk: Chunk) -> None:
        known = len(chunk.replies)
        self.parts = 1
        self.extra = self.extra_bytes = 0
        self.left = [0] * known + [1] * (chunk.count - known)
        self.totals: list[Any] = [*chunk.replies, *[0] * (chunk.count - known)]

    def take(self, place: int, reply: Any) -> None:
        """Take a reply."""
        self.left[place] -= 1
        total = self.totals[place]
        if type(total) is int:
            self.totals[place] = total + reply if type(reply) is int else reply


class ScriptedBook(Book):
    """What is known of a chunk that the script publishes: each message has one reply, and one for each repetition."""

    __slots__ = ("_publications",)

    def __init__(self, chunk: Chunk) -> None:
        super().__init__(chunk)
        known = len(chunk.replies)
        self.totals[known:] = [None] * (chunk.count - known)
        self._publications = chunk.publications

    def take(self, place: int, reply: Any) -> None:
        """Take a reply: about all that was published by a key, or only about further projections."""
        self.left[place] -= 1
        total = self.totals[place]
        if total is None:
            self.totals[place] = reply
        elif self._publications[place].key:
            self.totals[place] = combined(total, reply)
        elif not is_unknown_script(total):  # else the message itself is sent again
            self.totals[place] = added(total, reply)
