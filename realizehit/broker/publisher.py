"""Publishing over one connection: PUBLISH commands out in large writes, their replies matched by order.

The rules of this file. Messages reach the broker in the order in which they were handed over. Nothing is ever sent
twice: when the connection breaks, everything that is on it or waits for it fails, and the caller decides what to do.
Publications that need the script are the exception: if the broker has lost the script, nothing was done for them, and
they are sent again in their order, though after plain publications that were sent meanwhile. What has not been written
when its time is up is never sent. At most `WINDOW_MESSAGES` and `WINDOW_BYTES` are under way; the rest waits here, so
that the broker's memory is not the queue.

A library's pipeline costs ten times as much for each message, because it builds a command object, an encoder's list and
a parser's await for each.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import chain, takewhile
from typing import Any, Final

from realizehit.broker.chunks import CallbackCompletion, Chunk
from realizehit.broker.deadlines import Deadlines
from realizehit.broker.history.log import LogPart
from realizehit.broker.history.rules import NO_RULES
from realizehit.broker.idempotency import WINDOW
from realizehit.broker.idle_probe import PROBE_AFTER, PROBE_TIMEOUT, IdleProbe
from realizehit.broker.keeper import Broker, ConnectionKeeper
from realizehit.broker.log_reads import LogReads
from realizehit.broker.projections import ProjectionCounts
from realizehit.broker.publish_calls import PublishCalls
from realizehit.broker.publish_errors import PublishErrors
from realizehit.broker.publish_script import PublishScript
from realizehit.broker.resp import CommandConnection
from realizehit.broker.scripted_chunks import ScriptedChunk
from realizehit.common.position import Position
from realizehit.errors import BrokerError

WINDOW_MESSAGES: Final = 8192
WINDOW_BYTES: Final = 4 << 20  # of payload under way; one chunk may exceed it


class Pipeline(PublishCalls):
    """Publishes over one connection, which is made when it is needed and made again after it was lost.

    Args:
        broker: where to connect.
        timeout: seconds until a publication fails.
        name: how the connection is called in the broker's ``CLIENT LIST``.
        probe_after: seconds without a reply after which an idle connection is probed.
        probe_timeout: seconds for the answer to that, after which the connection is made anew.
        idempotency_window: seconds for which the broker remembers idempotency keys.
        script: packs the publications that need a script; one for a single broker by default.
        errors: builds the errors; those of `PublishErrors` by default.
        on_up: called when the broker has answered: at each login, and after it had been silent.
        on_down: called when the broker could not be reached, was silent, or the connection was lost.

    Reentrancy: for one event loop's thread. A callback that is told of an outcome may publish.

    Attributes:
        registered: shapes of wildcard subscriptions that are in use; empty here, see `FollowingPipeline`.
        shapes: those that messages are projected by; empty here.
        projected: counts projections.
    """

    registered: tuple[bytes, ...] = ()
    shapes: tuple[bytes, ...] = ()
    projects = False
    """Whether messages may have projections."""

    def __init__(
        self,
        broker: Broker,
        *,
        timeout: float = 5.0,
        name: str = "realizehit-publisher",
        probe_after: float = PROBE_AFTER,
        probe_timeout: float = PROBE_TIMEOUT,
        idempotency_window: float = WINDOW,
        script: PublishScript | None = None,
        errors: PublishErrors | None = None,
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[], None] = lambda: None,
    ) -> None:
        self._broker = broker
        self._timeout = timeout
        self._on_up = on_up
        self._on_down = on_down
        self.projected = ProjectionCounts()
        super().__init__(script or PublishScript(idempotency_window, project=self.projects))
        self._logs = LogReads(self.ask, self._script)
        self._errors = errors or PublishErrors(broker, timeout)
        self._keeper = ConnectionKeeper(broker, self, self._errors, timeout=timeout, name=name)
        self._probe = IdleProbe(self, probe_after, min(probe_timeout, timeout / 2))
        self._closed = False
        self._waiting: deque[Chunk] = deque()
        self._sent_again = 0  # chunks at the front of what waits that were sent before
        self._under_way: deque[Chunk] = deque()
        self._messages_under_way = 0
        self._bytes_under_way = 0
        self._last_progress = 0.0
        self._silent = False
        self._send_handle: asyncio.Handle | None = None
        self._deadlines = Deadlines(self._fail_late, self._next_due)

    @property
    def connects(self) -> int:
        """How often a connection was made."""
        return self._keeper.connects

    # ---- what callers do, besides publishing

    async def read_log(self, channel: bytes, *, after: int | None, last: int | None, most: int) -> LogPart:
        """Read the log of a channel. See `Bus.read_log`."""
        if self._keeper.connection is None:
            await self.ping()  # the rules are read with each new connection
        return await self._logs.read(channel, after=after, last=last, most=most)

    async def renew_log(self, channel: bytes, seen: Position) -> LogPart:
        """Begin a new epoch of a log that lacks a message. See `Bus.renew_log`."""
        if self._keeper.connection is None:
            await self.ping()
        return await self._logs.renew(channel, seen)

    def leave(self, place: str) -> None:
        """Learn that the broker is at ``place`` now; a connection to another one is given up."""
        if self._keeper.leads_elsewhere(place):
            reason = f"it is no longer the master, which is {place} now"
            self._lose(self._errors.unavailable(reason), reason)

    async def close(self) -> None:
        """Fail what is under way, and disconnect; calling it again does nothing."""
        self._closed = True
        await self._keeper.stop_connecting()
        self._fail_all(self._errors.closed())
        connection = self._keeper.take()
        if connection is not None:
            connection.drop("closed by this side")
            await connection.closed

    # ---- the queue

    def _send_again(self, chunk: ScriptedChunk) -> None:
        """Send a chunk before what waits; its deadline stays, so it is earlier than those of the others."""
        self._waiting.insert(self._sent_again, chunk)
        self._sent_again += 1
        if self._keeper.connection is not None and self._send_handle is None:
            self._send_handle = asyncio.get_running_loop().call_soon(self._send)

    def _submit(self, chunk: Chunk) -> None:
        loop = asyncio.get_running_loop()
        if self._closed:
            loop.call_soon(self._refuse, chunk)  # not now: a callback that publishes again would be called ever deeper
            return
        chunk.deadline = loop.time() + self._timeout
        self._waiting.append(chunk)
        if self._keeper.connection is None:
            self._keeper.connect()
        elif self._send_handle is None:
            self._send_handle = loop.call_soon(self._send)
        self._deadlines.start(self._timeout)

    def _refuse(self, chunk: Chunk) -> None:
        if not chunk.done.done():
            self._fail(chunk, self._errors.closed(), sent=False)

    def _send(self) -> None:
        """Write what waits, as far as the window has room."""
        self._send_handle = None
        connection = self._keeper.connection
        if connection is None or self._probe.under_way is not None:
            return
        if self._sent_again:
            if self._under_way:
                return  # the broker may have lacked the script for these too, and they keep their order
            self._sent_again = 0
        has_rules = self._script.rules is not NO_RULES
        parts: list[bytes] = []
        while self._waiting and self._messages_under_way < WINDOW_MESSAGES and self._bytes_under_way < WINDOW_BYTES:
            chunk = self._waiting.popleft()
            if not chunk.done.done():  # else its publisher gave up before it was sent
                if has_rules:
                    chunk = self._with_logs(chunk)
                parts.append(self._start(chunk, connection))
        if parts:
            connection.write(b"".join(parts))

    def _start(self, chunk: Chunk, connection: CommandConnection) -> bytes:
        """Count a chunk that is about to be sent as under way; return its commands."""
        if not self._under_way:
            self._last_progress = connection.loop.time()
        commands = self._pack(chunk)
        self._under_way.append(chunk)
        self._messages_under_way += chunk.count
        self._bytes_under_way += chunk.size
        return commands

    def _pack(self, chunk: Chunk) -> bytes:
        """Return the commands of a chunk that is about to be sent."""
        return chunk.pack()

    def replied(self, connection: CommandConnection, replies: list[Any]) -> None:
        """Take the replies of one read, in their order."""
        if self._silent:
            self._silent = False
            self._on_up()
        self._last_progress = self._probe.last_reply = connection.loop.time()
        taken = self._take(connection, replies)
        if taken < len(replies):
            connection.drop(f"a reply that nothing asked for: {str(replies[taken])[:100]}")
        elif self._waiting and self._send_handle is None and connection is self._keeper.connection:
            self._send_handle = connection.loop.call_soon(self._send)

    def _take(self, connection: CommandConnection, replies: list[Any]) -> int:
        """Take replies; return how many of them something under way had asked for."""
        start = 0
        while start < len(replies) and self._under_way:
            chunk = self._under_way[0]
            taken = replies[start : start + chunk.count - len(chunk.replies)]
            chunk.replies += taken
            start += len(taken)
            if len(chunk.replies) == chunk.count:
                self._under_way.popleft()
                self._finish(chunk, chunk.count, chunk.size)
        return start

    def _finish(self, chunk: Chunk, commands: int, size: int) -> None:
        """Report the outcomes of a chunk that is answered.

        Args:
            chunk: the chunk.
            commands: how many it counted in the window.
            size: how many bytes of payload it counted in the window.
        """
        self._messages_under_way -= commands
        self._bytes_under_way -= size
        if chunk is self._probe.under_way:
            self._probe.under_way = None
        if not chunk.done.done():
            chunk.finish(self._errors)

    # ---- failures

    def _next_due(self) -> float | None:
        """Return when the next chunk has had its time, or the broker its time for an answer."""
        due = [chunk.deadline for chunk in chain(self._under_way, self._waiting) if not chunk.done.done()][:1]
        if self._under_way:  # also those that were given up: their replies tell whether the broker is there
            due.append(self._last_progress + self._timeout)
        return min(due, default=None)

    def _fail_late(self, now: float) -> None:
        """Fail what has had its time; end a connection on which nothing has come back for as long."""
        late = False
        for queue, sent in ((self._under_way, True), (self._waiting, False)):
            # A callback may publish, which changes the queues.
            for chunk in list(takewhile(lambda chunk: chunk.deadline <= now, queue)):
                if not chunk.done.done():
                    self._fail(chunk, self._errors.late(), sent)
                    late = True
        if self._under_way and now - self._last_progress >= self._timeout:
            self._lose(self._errors.late(), "it does not answer")
        elif late:
            self._silent = True
            self._on_down()
        while self._waiting and self._waiting[0].done.done():
            self._waiting.popleft()
            self._sent_again = max(0, self._sent_again - 1)

    def _fail(self, chunk: Chunk, error: BrokerError, sent: bool) -> None:
        """Fail what of a chunk has no reply yet."""
        chunk.fail(error)
        known = chunk.outcomes(self._errors)
        missing = chunk.count - len(known)
        sent = sent or (isinstance(chunk, ScriptedChunk) and bool(chunk.done_shapes))
        chunk.done.set_result([*known, *[self._errors.unclear(error) if sent else error] * missing])

    def _fail_all(self, error: BrokerError) -> None:
        self._deadlines.stop()
        # A callback may publish, which goes into new queues.
        under_way, self._under_way = self._under_way, deque()
        waiting, self._waiting = self._waiting, deque()
        self._sent_again = 0
        self._forget_under_way()
        for queue, sent in ((under_way, True), (waiting, False)):
            for chunk in queue:
                if not chunk.done.done():
                    self._fail(chunk, error, sent)

    def _forget_under_way(self) -> None:
        """Start over, without anything under way and without a probe."""
        self._under_way.clear()
        self._messages_under_way = self._bytes_under_way = 0
        self._probe.stop()

    # ---- the connection and its probe

    async def prepare(self, connection: CommandConnection) -> BrokerError | None:
        """Have a new connection used at once. See `ConnectionUser.prepare`."""
        return None

    def connected(self, connection: CommandConnection) -> None:
        """Send what waits. See `ConnectionUser.connected`."""
        self._silent = False
        self._script.loaded.clear()
        self._probe.start(connection)
        self._on_up()
        self._send()

    def failed(self, error: BrokerError) -> None:
        """Fail what waits. See `ConnectionUser.failed`."""
        self._lose(error, "")

    def lost(self, connection: CommandConnection, reason: str) -> None:
        """Learn that the connection is gone."""
        if self._keeper.connection is not connection:
            return
        if self._probe.under_way is not None and self._waiting:
            self._replace()  # the probe found out in time: nothing of what waits was sent
        else:
            self._lose(self._errors.lost(reason), "")

    def _lose(self, error: BrokerError, reason: str) -> None:
        connection = self._keeper.take()
        if connection is not None and reason:
            connection.drop(reason)
        self._on_down()
        self._fail_all(error)

    def _replace(self) -> None:
        """Make a new connection in place of one that has nothing but a probe under way; what waits goes over that."""
        self._keeper.take()
        self._forget_under_way()
        self._keeper.connect()

    def is_idle(self) -> bool:
        """Whether nothing is under way and nothing waits."""
        return not self._under_way and not self._waiting

    def send_probe(self, connection: CommandConnection) -> Chunk:
        """Send a PING. See `Probed.send_probe`."""
        probe = Chunk((), 0)
        probe.done = CallbackCompletion(lambda outcome: None, connection.loop)
        probe.deadline = connection.loop.time() + self._timeout
        connection.write(self._start(probe, connection))
        return probe

    def give_up(self, connection: CommandConnection, reason: str) -> None:
        """Replace a connection that did not answer. See `Probed.give_up`."""
        self._replace()
        connection.drop(reason)
