"""The publishing connection to one primary of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import hiredis

from realizehit.broker.chunks import Chunk, Completion
from realizehit.broker.cluster.address import Place
from realizehit.broker.cluster.redirects import Redirect, redirect_of
from realizehit.broker.history.log import LogPart
from realizehit.broker.idempotency import has_keys
from realizehit.broker.log_reads import LogReads
from realizehit.broker.publication import Outcome, Publication
from realizehit.broker.publish_errors import PublishErrors
from realizehit.broker.publish_script import PublishScript
from realizehit.broker.publisher import Pipeline
from realizehit.broker.resp import TRANSIENT, CommandConnection, code_of, pack, pack_spublish
from realizehit.broker.rules_reader import READ_RUN_ID, run_id_of
from realizehit.broker.scripted_chunks import ScriptedChunk
from realizehit.broker.url import Address
from realizehit.common.durations import Durations
from realizehit.common.position import Position
from realizehit.errors import BrokerError, BrokerUnavailable

SILENT_AFTER: Final = 1.0  # seconds without a reply after which nothing more is sent to a machine


class NotCarriedOut(BrokerUnavailable):
    """A machine of the cluster answered that it did nothing for a command, which may be sent again.

    Args:
        text: of the error.
        redirect: the machine that it names; None if the command may succeed at the same one.
    """

    def __init__(self, text: str, redirect: Redirect | None) -> None:
        super().__init__(text)
        self.redirect = redirect


class ShardErrors(PublishErrors):
    """Builds the errors of one machine; those by which nothing was done are `NotCarriedOut`."""

    def __init__(self, broker: Address, place: Place, timeout: float) -> None:
        super().__init__(broker, timeout)
        self._place = place

    def of_reply(self, text: str) -> BrokerError:
        """Return the error for an error reply."""
        redirect = redirect_of(text, self._place)
        error = super().of_reply(text)
        if redirect is not None or code_of(text) in TRANSIENT:
            return NotCarriedOut(str(error), redirect)
        return error


class SentCompletion(Completion, Protocol):
    """Gets the outcomes of publications, and learns when they are sent."""

    def sending(self) -> None:
        """Learn that they are written to the connection now."""


class Shard(Pipeline):
    """A `Pipeline` to one primary of a cluster, which publishes with ``SPUBLISH``.

    Args:
        broker: the machine.
        place: its host and port.
        registrations: the registration of each shape of wildcards.
        durations: counts how long scripts take.
        window: seconds for which the broker remembers idempotency keys.
        timeout: seconds for the answer to anything.
        **options: those of `Pipeline`.

    Attributes:
        place: host and port of the machine.
        script: packs the publications that need a script; it knows the rules.
    """

    def __init__(
        self,
        broker: Address,
        place: Place,
        *,
        registrations: Mapping[bytes, bytes],
        durations: Durations,
        window: float,
        timeout: float,
        **options: Any,
    ) -> None:
        self.script = PublishScript(window, project=False, registrations=registrations)
        self.script.durations = durations
        errors = ShardErrors(broker, place, timeout)
        super().__init__(broker, timeout=timeout, script=self.script, errors=errors, **options)
        self.place = place
        self._asking_logs = LogReads(self.ask_asking, self.script)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, so that what was handed over may have been sent."""
        return self._keeper.connection is not None

    def send(self, publications: Sequence[Publication], done: SentCompletion) -> None:
        """Publish messages, in order with those before; ``done`` gets the outcomes."""
        size = sum(len(publication.payload) for publication in publications)
        chunk: Chunk
        if has_keys(publications):
            chunk = ScriptedChunk(publications, size, self._script, self._send_again)
        else:
            chunk = Chunk(publications, size)
        chunk.done = done
        self._submit(chunk)

    async def ask_asking(self, *command: bytes | str) -> Any:
        """Send a command to the machine that a slot is on its way to. As `ask`."""
        chunk = Chunk((), 0, pack(("ASKING",)) + pack(command))
        chunk.count = 2
        outcome = (await self._awaited(chunk))[1]
        if isinstance(outcome, BrokerError):
            raise outcome
        return chunk.replies[1]

    async def read_log_here(
        self, channel: bytes, *, after: int | None, last: int | None, most: int, asking: bool
    ) -> LogPart:
        """Read the log of a channel at this machine. See `Bus.read_log`.

        Args:
            channel: under a rule.
            after: see `Bus.read_log`, as the next two.
            last: see there.
            most: see there.
            asking: whether the slot is on its way to this machine.
        """
        await self._connected_once()
        return await (self._asking_logs if asking else self._logs).read(channel, after=after, last=last, most=most)

    async def renew_log_here(self, channel: bytes, seen: Position, *, asking: bool) -> LogPart:
        """Begin a new epoch of a log at this machine. See `Bus.renew_log`."""
        await self._connected_once()
        return await (self._asking_logs if asking else self._logs).renew(channel, seen)

    async def _connected_once(self) -> None:
        if self._keeper.connection is None:
            await self.ping()  # the run id is read with each new connection

    async def retire(self, grace: float) -> None:
        """Wait for the last replies of a machine that is a primary no more, fail what is left, and disconnect."""
        loop = asyncio.get_running_loop()
        end = loop.time() + grace
        while not self.is_idle() and loop.time() < end:
            await asyncio.sleep(0.02)
        reason = "it is a primary no more"
        self._lose(self._errors.unavailable(reason), reason)
        await self.close()

    async def prepare(self, connection: CommandConnection) -> BrokerError | None:
        """Read the run id of the machine, which logs need. See `ConnectionUser.prepare`."""
        chunk = Chunk((), 0, pack(READ_RUN_ID))
        chunk.deadline = connection.loop.time() + self._timeout
        answered: asyncio.Future[list[Outcome]] = connection.loop.create_future()
        chunk.done = answered
        connection.write(self._start(chunk, connection))
        ends: tuple[asyncio.Future[Any], ...] = (answered, connection.closed)
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        reply = chunk.replies[0] if chunk.replies else None
        self._script.run_id = run_id_of(reply)
        if isinstance(reply, hiredis.ReplyError):
            error = self._errors.of_reply(str(reply))
            if isinstance(error, BrokerUnavailable):
                return error
        return None

    def _send(self) -> None:
        if self._under_way and asyncio.get_running_loop().time() - self._last_progress > SILENT_AFTER:
            self._send_handle = None  # what is not sent can go to another machine; the next reply sends it
            return
        super()._send()

    def _pack(self, chunk: Chunk) -> bytes:
        sending = getattr(chunk.done, "sending", None)
        if sending is not None:
            sending()
        return pack_spublish(chunk.publications) if type(chunk) is Chunk and chunk.publications else chunk.pack()
