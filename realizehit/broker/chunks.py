"""Commands that are sent and answered together, and the publications of a batch cut into such chunks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import hiredis

from realizehit.broker.publication import PUBLISHED, Outcome, Publication, published
from realizehit.broker.publish_errors import PublishErrors
from realizehit.broker.resp import PING, pack_publish
from realizehit.errors import BrokerError

CHUNK_MESSAGES: Final = 512  # publications of a batch in one chunk
CHUNK_BYTES: Final = 1 << 20  # of payload in a chunk; one message may be larger
CHUNKS: Final = 4  # of one batch under way, so that others come in between


class Completion(Protocol):
    """Gets the outcomes of a chunk; a future is one."""

    def done(self) -> bool:
        """Whether nobody waits for the outcomes any more."""

    def set_result(self, outcomes: list[Outcome], /) -> None:
        """Take the outcomes of all publications of the chunk."""


class CallbackCompletion:
    """Takes the place of a future where no task awaits: it calls back, so that no task has to wake up."""

    __slots__ = ("_callback", "_loop")

    def __init__(self, callback: Callable[[Outcome], None], loop: asyncio.AbstractEventLoop) -> None:
        self._callback: Callable[[Outcome], None] | None = callback
        self._loop = loop

    def done(self) -> bool:
        """Whether there is an outcome."""
        return self._callback is None

    def set_result(self, outcomes: list[Outcome]) -> None:
        """Call back with the outcome of the only command."""
        callback, self._callback = self._callback, None
        try:
            if callback is not None:
                callback(outcomes[0])
        except Exception as error:  # noqa: BLE001 - the other replies are for others
            self._loop.call_exception_handler({"message": "telling of a publication failed", "exception": error})


class Chunk:
    """Publications that are answered together, or one other command.

    Args:
        publications: what to publish; empty for another command.
        size: bytes of their payloads.
        command: packed; what is sent where nothing is published.

    Attributes:
        count: replies that it takes.
        deadline: time of the loop at which it fails.
        done: gets the outcomes; where a caller gave up, it is done before.
        replies: as they came.
        refusal: the last error reply.
        failure: the error of the chunk as a whole, such as a lost connection.
        shapes: only where messages are projected: those that there were when it was sent.
    """

    __slots__ = (
        "command",
        "count",
        "deadline",
        "done",
        "failure",
        "publications",
        "refusal",
        "replies",
        "shapes",
        "size",
    )

    done: Completion
    shapes: tuple[bytes, ...]

    def __init__(self, publications: Sequence[Publication], size: int, command: bytes = PING) -> None:
        self.publications = publications
        self.size = size
        self.command = command
        self.count = len(publications) or 1
        self.deadline = 0.0
        self.replies: list[Any] = []
        self.refusal = ""
        self.failure: BrokerError | None = None

    def pack(self) -> bytes:
        """Return its commands as bytes."""
        return pack_publish(self.publications) if self.publications else self.command

    def fail(self, error: BrokerError) -> None:
        """Note that the chunk failed as a whole."""
        self.failure = error

    def finish(self, errors: PublishErrors) -> None:
        """Report the outcomes once all replies are there."""
        self.done.set_result(self.outcomes(errors))

    def outcomes(self, errors: PublishErrors) -> list[Outcome]:
        """Return the outcomes for the replies that it has."""
        replies = self.replies
        try:
            if len(replies) == 1:  # most publications come alone
                return [PUBLISHED[replies[0]]]
            return list(map(PUBLISHED.__getitem__, replies))
        except (KeyError, TypeError):  # TypeError: a list cannot be looked up
            return [self._outcome(reply, errors) for reply in replies]

    def _outcome(self, reply: Any, errors: PublishErrors) -> Outcome:
        if type(reply) is int:
            return published(reply)
        if isinstance(reply, hiredis.ReplyError):
            self.refusal = str(reply)
            return errors.of_reply(self.refusal)
        return errors.unexpected(reply) if self.publications else published(0)


def next_chunk(publications: Sequence[Publication], start: int) -> Chunk:
    """Return the chunk that begins with the publication at ``start``."""
    end, size = chunk_end(publications, start)
    return Chunk(publications[start:end], size)


def chunk_end(publications: Sequence[Publication], start: int) -> tuple[int, int]:
    """Return the end of the chunk that begins with the publication at ``start``, and the bytes of its payloads."""
    end, size = start, 0
    while end < len(publications) and end - start < CHUNK_MESSAGES and size < CHUNK_BYTES:
        size += len(publications[end].payload)
        end += 1
    return end, size


async def in_chunks(
    publications: Sequence[Publication],
    submit: Callable[[Chunk], asyncio.Future[list[Outcome]]],
    cut: Callable[[Sequence[Publication], int], Chunk] = next_chunk,
) -> list[Outcome]:
    """Submit publications in chunks, a few at a time, and collect their outcomes.

    Args:
        publications: in order.
        submit: takes a chunk and returns the future of its outcomes.
        cut: returns the chunk that begins with the publication at an index.

    Returns:
        The outcome of each publication. Where a chunk fails as a whole, what follows is not submitted, and has that
        failure as its outcome.
    """
    outcomes: list[Outcome] = []
    pending: deque[tuple[asyncio.Future[list[Outcome]], Chunk]] = deque()
    end = 0
    failure: BrokerError | None = None
    try:
        while pending or (end < len(publications) and failure is None):
            if end < len(publications) and failure is None and len(pending) < CHUNKS:
                chunk = cut(publications, end)
                end += chunk.count
                pending.append((submit(chunk), chunk))
                continue
            replies, chunk = pending.popleft()
            outcomes += await replies
            failure = failure or chunk.failure
    finally:
        for replies, _ in pending:  # the caller was cancelled: what has not been sent shall not be
            replies.cancel()
    return outcomes if failure is None else [*outcomes, *[failure] * (len(publications) - end)]
