"""A publisher's connection whose messages are projected by shapes, also by those that become known meanwhile.

Each message is followed by its projections. When a shape becomes known, the messages that have no reply yet are
projected by it at once. A message has its outcome when all replies to it and to its projections are there.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis

from realizehit.broker.chunks import Chunk
from realizehit.broker.projections import projections_of, with_projections
from realizehit.broker.publication import Outcome
from realizehit.broker.publisher import Pipeline
from realizehit.broker.resp import CommandConnection, pack_publish
from realizehit.broker.scripted_chunks import ScriptedChunk
from realizehit.broker.shapes.expected import Book, Part, Reply, ScriptedBook
from realizehit.errors import BrokerError


class ProjectingPipeline(Pipeline):
    """A `Pipeline` that projects its messages. A subclass says by which shapes, and takes pushes.

    Args:
        *args, **options: those of `Pipeline`.

    Attributes:
        shapes: those that messages are projected by at the moment.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.shapes = ()
        self._expected: deque[Chunk | Reply | Part] = deque()  # a chunk stands for its messages, a reply for each
        self._books: dict[Chunk, Book] = {}

    def _forget(self) -> None:
        """Forget what was expected of a connection."""
        self.shapes = ()
        self._expected.clear()
        self._books.clear()

    # ---- new shapes

    def _catch_up(self, connection: CommandConnection, new: Sequence[bytes]) -> None:
        """Project by new shapes what was carried out after their registration: whatever has no reply yet."""
        commands: list[bytes] = []
        owing: list[Part] = []
        for index, part in enumerate(self._expected):
            if isinstance(part, Chunk):
                chunk, unanswered = part, range(len(part.replies), part.count)
            elif isinstance(part, Part) and part.originals:
                chunk, unanswered = part.chunk, part.unanswered()
            else:
                continue
            known = chunk.shapes
            shapes = tuple(shape for shape in new if shape not in known)
            chunk.shapes += shapes
            if not shapes or not chunk.publications:
                continue
            places: list[int] = []
            for place in unanswered:
                owed, count = self._owed_by(chunk, place, shapes, known)
                if count:
                    commands.append(owed)
                    places += [place] * count
            if places:
                if part is chunk:
                    self._expected[index] = self._keep_book(chunk, range(chunk.count))
                self._books[chunk].parts += 1
                self._add(chunk, places)
                owing.append(Part(chunk, places, originals=False))
        if commands:
            self._write_owed(connection, owing, b"".join(commands))

    def _write_owed(self, connection: CommandConnection, owing: list[Part], commands: bytes) -> None:
        """Send projections that were owed, and expect their replies."""
        self._expected.extend(owing)
        connection.write(commands)

    def _owed_by(
        self, chunk: Chunk, place: int, shapes: tuple[bytes, ...], known: tuple[bytes, ...]
    ) -> tuple[bytes, int]:
        """Return the commands for a message's projections by new shapes, and how many commands these are."""
        publication = chunk.publications[place]
        projections = projections_of(publication, shapes)
        if not projections:
            return b"", 0
        self.projected.add(projections, later=bool(projections_of(publication, known)))
        if isinstance(chunk, ScriptedChunk):
            if publication.key:
                return chunk.script.pack_again(publication, chunk.shapes), 1
            chunk.note_projected(place, shapes)
            return chunk.script.pack_projections(publication, projections), 1
        return pack_publish(projections), len(projections)

    # ---- the queue and the replies

    def _pack(self, chunk: Chunk) -> bytes:
        chunk.shapes = self.shapes
        if isinstance(chunk, ScriptedChunk):
            self._expected.append(self._keep_book(chunk, range(chunk.count)))
            return chunk.pack(self.shapes, self.projected)
        if self.shapes and chunk.publications:
            commands, places = with_projections(chunk.publications, self.shapes, self.projected)
            if len(places) > chunk.count:
                self._expected.append(self._keep_book(chunk, places))
                self._add(chunk, [place for at, place in enumerate(places) if at and places[at - 1] == place])
                return pack_publish(commands)
        self._expected.append(chunk)
        return super()._pack(chunk)

    def _keep_book(self, chunk: Chunk, places: Sequence[int]) -> Part:
        """Count the replies of each message from here on; return what stands for the chunk among what is expected."""
        self._books[chunk] = ScriptedBook(chunk) if isinstance(chunk, ScriptedChunk) else Book(chunk)
        part = Part(chunk, places, originals=True)
        part.taken = len(chunk.replies)
        chunk.replies = []
        return part

    def _add(self, chunk: Chunk, places: Sequence[int]) -> None:
        """Expect a reply to a projection of each of these messages, too."""
        book = self._books[chunk]
        size = 0
        for place in places:
            book.left[place] += 1
            size += len(chunk.publications[place].payload)
        book.extra += len(places)
        book.extra_bytes += size
        self._messages_under_way += len(places)
        self._bytes_under_way += size

    @abstractmethod
    def _pushed(self, connection: CommandConnection, push: list[Any]) -> None:
        """Take a push, which is no reply and stands between them."""

    def _take(self, connection: CommandConnection, replies: list[Any]) -> int:
        """Take replies in their order, and the pushes that stand between them."""
        start = 0
        if hiredis.PushNotification in set(map(type, replies)):  # seldom; a loop to find out would cost more
            for index, reply in enumerate(replies):
                if type(reply) is hiredis.PushNotification:
                    start += self._take_replies(replies[start:index])
                    if start < index:
                        return start
                    self._pushed(connection, reply)
                    start = index + 1
        start += self._take_replies(replies[start:] if start else replies)
        while self._under_way and len(self._under_way[0].replies) == self._under_way[0].count:
            self._under_way.popleft()  # they may be complete in another order
        return start

    def _take_replies(self, replies: list[Any]) -> int:
        start = 0
        expected = self._expected
        while start < len(replies) and expected:
            part = expected[0]
            if type(part) is Chunk:
                if part.count == 1:  # most publications come alone, and slices would cost as much as the rest
                    part.replies.append(replies[start])
                    start += 1
                else:
                    taken = replies[start : start + part.count - len(part.replies)]
                    part.replies += taken
                    start += len(taken)
                if len(part.replies) == part.count:
                    expected.popleft()
                    self._finish(part, part.count, part.size)
            elif isinstance(part, Part):
                start += self._take_part(part, replies[start : start + len(part.places) - part.taken])
            elif isinstance(part, Reply):
                expected.popleft()
                part.take(replies[start])
                start += 1
        return start

    def _take_part(self, part: Part, replies: list[Any]) -> int:
        """Take replies, no more than there are to come; return how many."""
        chunk, book = part.chunk, self._books[part.chunk]
        end = part.taken + len(replies)
        for place, reply in zip(part.places[part.taken : end], replies, strict=True):
            book.take(place, reply)
        part.taken = end
        if end == len(part.places):
            self._expected.popleft()
            book.parts -= 1
            if not book.parts:
                del self._books[chunk]
                chunk.replies = book.totals
                self._finish(chunk, chunk.count + book.extra, chunk.size + book.extra_bytes)
        return len(replies)

    def _fail(self, chunk: Chunk, error: BrokerError, sent: bool) -> None:
        """Fail what of a chunk lacks a reply."""
        book = self._books.get(chunk)
        if book is None:
            super()._fail(chunk, error, sent)
            return
        chunk.fail(error)
        unclear = self._errors.unclear(error)
        chunk.replies = list(book.totals)
        outcomes: list[Outcome] = chunk.outcomes(self._errors)
        chunk.replies = []
        chunk.done.set_result([unclear if book.left[place] else outcome for place, outcome in enumerate(outcomes)])
