"""What callers do with a publisher's connection: publish, ask, and get the outcomes.

This part turns publications into chunks and chunks' outcomes into results. `realizehit.broker.publisher` sends them.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, cast

from realizehit.broker.chunks import CallbackCompletion, Chunk, chunk_end, in_chunks, next_chunk
from realizehit.broker.history.rules import Rules
from realizehit.broker.idempotency import has_keys
from realizehit.broker.publication import Outcome, Publication, Published
from realizehit.broker.publish_script import PublishScript
from realizehit.broker.resp import code_of, pack
from realizehit.broker.scripted_chunks import ScriptedChunk
from realizehit.common.durations import Durations
from realizehit.errors import BrokerError, BrokerRefused


class PublishCalls(ABC):
    """Publishes through chunks, which a subclass sends.

    Args:
        script: packs the publications that need one.
    """

    def __init__(self, script: PublishScript) -> None:
        self._script = script

    @property
    def script_durations(self) -> Durations:
        """How long the broker took for chunks of publications that need a script."""
        return self._script.durations

    @property
    def rules(self) -> Rules:
        """Which channels have a log, as far as it is known here."""
        return self._script.rules

    async def publish(self, publication: Publication) -> Published:
        """Publish one message; what is published in one turn of the loop goes out in one write.

        Raises:
            BrokerUnavailable: the broker cannot be reached, or did not answer in time; as `PublishUnclear` where it
                may have taken the message.
            BrokerRefused: it answered with an error.
        """
        outcome = (await self._awaited(self._chunk(publication)))[0]
        if isinstance(outcome, BrokerError):
            raise outcome
        return outcome

    def publish_soon(self, publication: Publication, done: Callable[[Outcome], None]) -> None:
        """Publish one message as `publish` does; ``done`` is called once with what that would return or raise."""
        chunk = self._chunk(publication)
        chunk.done = CallbackCompletion(done, asyncio.get_running_loop())
        self._submit(chunk)

    async def publish_many(self, publications: Sequence[Publication]) -> list[Outcome]:
        """Publish messages in order, in chunks that each have the whole ``timeout``.

        Returns:
            For each message what `publish` would have returned or raised, in the same order. Where a chunk fails as a
            whole, what follows is not sent, and has that failure as its outcome.
        """
        cut = self._cut if has_keys(publications) else next_chunk
        return await in_chunks(publications, self._awaited, cut)

    async def ask(self, *command: bytes | str) -> Any:
        """Send a command that publishes nothing, in order with the publications; return its reply.

        Raises:
            BrokerUnavailable: as `publish`.
            BrokerRefused: the broker answered with an error.
        """
        chunk = Chunk((), 0, pack(command))
        (outcome,) = await self._awaited(chunk)
        if isinstance(outcome, BrokerError):
            raise outcome
        return chunk.replies[0]

    async def ping(self) -> None:
        """Check that the broker answers.

        Raises:
            BrokerUnavailable: it does not.
            BrokerRefused: it refuses the login.
        """
        chunk = Chunk((), 0)
        (outcome,) = await self._awaited(chunk)
        if isinstance(outcome, BrokerRefused) and code_of(chunk.refusal) == "NOPERM":
            return  # an answer all the same
        if isinstance(outcome, BrokerError):
            raise outcome

    # ---- chunks

    def _chunk(self, publication: Publication) -> Chunk:
        """Return the chunk of one publication."""
        if publication.key:
            return ScriptedChunk((publication,), len(publication.payload), self._script, self._send_again)
        return Chunk((publication,), len(publication.payload))

    def _cut(self, publications: Sequence[Publication], start: int) -> Chunk:
        """Return the chunk that begins with the publication at ``start``: all of it has keys, or nothing of it."""
        end, size = chunk_end(publications, start)
        keyed = bool(publications[start].key)
        part = list(takewhile(lambda publication: bool(publication.key) is keyed, publications[start:end]))
        if len(part) < end - start:
            size = sum(len(publication.payload) for publication in part)
        return ScriptedChunk(part, size, self._script, self._send_again) if keyed else Chunk(part, size)

    def _with_logs(self, chunk: Chunk) -> Chunk:
        """Return a chunk that writes logs in place of a plain one, if a channel of it is under a rule.

        This is decided when the chunk is sent, since the rules are known only then.
        """
        needs = self._script.needed_for
        if type(chunk) is not Chunk or not any(map(needs, chunk.publications)):
            return chunk
        scripted = ScriptedChunk(chunk.publications, chunk.size, self._script, self._send_again)
        scripted.deadline, scripted.done, scripted.origin = chunk.deadline, chunk.done, chunk
        return scripted

    def _awaited(self, chunk: Chunk) -> asyncio.Future[list[Outcome]]:
        """Take a chunk; return the future of its outcomes."""
        chunk.done = future = asyncio.get_running_loop().create_future()
        self._submit(chunk)
        return cast("asyncio.Future[list[Outcome]]", future)

    @abstractmethod
    def _submit(self, chunk: Chunk) -> None:
        """Take a chunk that is to be sent, in the order of the calls."""

    @abstractmethod
    def _send_again(self, chunk: ScriptedChunk) -> None:
        """Take a chunk that is to be sent before those that wait."""
