"""Chunks of publications that the script publishes: with idempotency keys, or into logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import hiredis

from realizehit.broker.chunks import Chunk
from realizehit.broker.projections import ProjectionCounts
from realizehit.broker.publication import Outcome, Publication
from realizehit.broker.publish_errors import PublishErrors
from realizehit.broker.publish_script import PublishScript, is_unknown_script, outcome_of
from realizehit.broker.resp import code_of
from realizehit.errors import BrokerError


class ScriptedChunk(Chunk):
    """Publications of which at least one needs the script; each is one command.

    If the broker lacks the script, nothing was done for those that needed it, and they are sent again.

    Args:
        publications: what to publish.
        size: bytes of their payloads.
        script: packs them.
        send_again: takes a chunk that is to be sent before anything that waits.

    Attributes:
        script: packs them.
        origin: the chunk that a caller holds, if this one takes its place.
        done_shapes: for each publication the shapes by which it was projected while it may not have been published
            itself; empty if there are none.
    """

    __slots__ = ("_send_again", "_sent_at", "done_shapes", "origin", "script")

    def __init__(
        self,
        publications: Sequence[Publication],
        size: int,
        script: PublishScript,
        send_again: Callable[[ScriptedChunk], None],
    ) -> None:
        super().__init__(publications, size)
        self.script = script
        self.origin: Chunk | None = None
        self.done_shapes: list[tuple[bytes, ...]] = []
        self._sent_at = 0.0
        self._send_again = send_again

    def pack(self, shapes: tuple[bytes, ...] = (), counts: ProjectionCounts | None = None) -> bytes:
        """Return its commands as bytes, and note that they are being sent.

        Args:
            shapes: those to project by.
            counts: counts the projections.
        """
        self._sent_at = time.perf_counter()
        return self.script.pack(self.publications, shapes, counts, self.done_shapes)

    def fail(self, error: BrokerError) -> None:
        """Note that the chunk failed as a whole, also for a caller that holds the one in whose place this is."""
        super().fail(error)
        if self.origin is not None:
            self.origin.fail(error)

    def note_projected(self, place: int, shapes: tuple[bytes, ...]) -> None:
        """Remember that a publication without a key was projected by some shapes after it was sent."""
        if not self.done_shapes:
            self.done_shapes = [()] * len(self.publications)
        self.done_shapes[place] += shapes

    def finish(self, errors: PublishErrors) -> None:
        """Report the outcomes, unless the broker lacked the script: then send again what it did not publish."""
        places = [place for place, reply in enumerate(self.replies) if is_unknown_script(reply)]
        if not places:
            if self.failure is None:
                self.script.durations.add(time.perf_counter() - self._sent_at)
            super().finish(errors)
            return
        self.script.loaded.clear()
        missing = [self.publications[place] for place in places]
        size = sum(len(publication.payload) for publication in missing)
        again = ScriptedChunk(missing, size, self.script, self._send_again)
        if self.done_shapes:
            again.done_shapes = [self.done_shapes[place] for place in places]
        again.deadline = self.deadline
        again.origin = self
        again.done = _Remaining(self, places, errors)
        self._send_again(again)

    def _outcome(self, reply: Any, errors: PublishErrors) -> Outcome:
        outcome = outcome_of(reply) if type(reply) is list else None
        if outcome is not None:
            return outcome
        if isinstance(reply, hiredis.ReplyError) and code_of(str(reply)) == "NOPERM":
            rights = dict.fromkeys(filter(None, map(self.script.rights_for, self.publications)))
            return errors.refused("; ".join((str(reply), *rights)))
        return super()._outcome(reply, errors)


class _Remaining:
    """Takes the place of a future of the outcomes of publications that were sent again.

    Args:
        chunk: the chunk that they were sent with first.
        places: theirs in that chunk.
        errors: builds the errors of the chunk.
    """

    __slots__ = ("_chunk", "_errors", "_places")

    def __init__(self, chunk: ScriptedChunk, places: list[int], errors: PublishErrors) -> None:
        self._chunk = chunk
        self._places = places
        self._errors = errors

    def done(self) -> bool:
        """Whether nobody waits for the outcomes."""
        return self._chunk.done.done()

    def set_result(self, outcomes: list[Outcome]) -> None:
        """Report the outcomes of the whole chunk."""
        all_outcomes = self._chunk.outcomes(self._errors)
        for place, outcome in zip(self._places, outcomes, strict=True):
            all_outcomes[place] = outcome
        self._chunk.done.set_result(all_outcomes)
