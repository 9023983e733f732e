"""Publishing over one connection: PUBLISH commands out in large writes, their replies matched by order.

The rules of this file. Messages reach the broker in the order in which they were handed over. Nothing is ever sent
twice: when the connection breaks, all that is on it or waits for it fails, and whoever published decides what to do.
What has not been written yet when its time is up is never sent. A connection with nothing under way is probed with a
PING; until that is answered nothing else goes out, so that nothing is lost on a connection that a router in between has
forgotten. At most `WINDOW_MESSAGES` and `WINDOW_BYTES` are under
way; the rest waits here, so that the broker's memory is not the queue.

A library's pipeline costs ten times as much for each message, because it builds a command object, an encoder's list and
a parser's await for each.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain, takewhile
from typing import Any, Final, Protocol

import hiredis

from realizehit.broker.publication import PUBLISHED, Outcome, Publication, Published, published
from realizehit.broker.resp import PING, TRANSIENT, CommandConnection, code_of, pack_publish
from realizehit.common.causes import reason_of
from realizehit.common.upkeep import Failures
from realizehit.errors import BrokerError, BrokerRefused, BrokerUnavailable, PublishUnclear

CHUNK_MESSAGES: Final = 512  # of `publish_many` that are handed over as one
CHUNK_BYTES: Final = 1 << 20  # of payload in a chunk; one message may be larger
CHUNKS: Final = 4  # of one `publish_many` under way, so that others come in between
WINDOW_MESSAGES: Final = 8192
WINDOW_BYTES: Final = 4 << 20  # of commands under way; one chunk may exceed it

PROBE_AFTER: Final = 1.0  # seconds; also what keeps a router from forgetting a connection that nothing is published on
PROBE_TIMEOUT: Final = 1.0  # seconds; little, since a connection with nothing under way is given up without a loss

_LAST_LOOK: Final = 0.02
"""Seconds between the end of a time and the verdict. A loop that was held up may run its timers before it reads what
has long arrived; this lets it read first."""


class Broker(Protocol):
    """Where to publish and how to get in; its ``str`` is for people and holds no secret."""

    def login(self) -> list[str]:
        """Return the arguments of AUTH, an empty list for none."""

    async def connect(self, factory: Callable[[], asyncio.Protocol]) -> str:
        """Open one connection and return where it leads; an `OSError` says that the broker cannot be reached."""

    def scrub(self, text: str) -> str:
        """Return a text of the broker's without secrets."""


class Pipeline:
    """Publishes over one connection, which is made when it is needed and made again after it was lost.

    Args:
        broker: where to connect.
        timeout: seconds until a publication fails.
        name: how the connection is called in the broker's ``CLIENT LIST``.
        probe_after: seconds without a reply after which an idle connection is probed.
        probe_timeout: seconds for the answer to that, after which the connection is made anew.
        on_up: called when the broker has answered: at each login, and after it had been silent.
        on_down: called when the broker could not be reached, was silent, or the connection was lost.

    Reentrancy: for one event loop's thread. Whoever is told of an outcome may publish.

    Attributes:
        connects: how often a connection was made.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        timeout: float = 5.0,
        name: str = "realizehit-publisher",
        probe_after: float = PROBE_AFTER,
        probe_timeout: float = PROBE_TIMEOUT,
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[], None] = lambda: None,
    ) -> None:
        self.connects = 0
        self._broker = broker
        self._timeout = timeout
        self._name = name
        self._probe_after = probe_after
        self._probe_timeout = min(probe_timeout, timeout / 2)
        self._probe: Chunk | None = None  # the PING that is under way, and nothing else then
        self._probe_timer: asyncio.TimerHandle | None = None
        self._last_reply = 0.0
        self._on_up = on_up
        self._on_down = on_down
        self._closed = False
        self._refusing = False  # a publication after `close` is being refused
        self._connection: CommandConnection | None = None  # only while it is ready
        self._connecting: asyncio.Task[None] | None = None
        self._place = ""  # where the connection leads
        self._waiting: deque[Chunk] = deque()
        self._under_way: deque[Chunk] = deque()
        self._messages_under_way = 0
        self._bytes_under_way = 0
        self._last_progress = 0.0
        self._silent = False
        self._defects = Failures("the connection for publishing")
        self._send_handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None

    # ---- what callers do

    async def publish(self, publication: Publication) -> Published:
        """Publish one message; what is published in one turn of the loop goes out in one write.

        Raises:
            BrokerUnavailable: the broker cannot be reached, or did not answer in time; as `PublishUnclear` where it
                may have taken the message.
            BrokerRefused: it answered with an error.
        """
        outcome = (await self._awaited(Chunk((publication,), len(publication.payload))))[0]
        if isinstance(outcome, BrokerError):
            raise outcome
        return outcome

    def publish_soon(self, publication: Publication, done: Callable[[Outcome], None]) -> None:
        """Publish one message as `publish` does; ``done`` is called once with what that would return or raise."""
        chunk = Chunk((publication,), len(publication.payload))
        chunk.done = CallbackCompletion(done, asyncio.get_running_loop())
        self._submit(chunk)

    async def publish_many(self, publications: Sequence[Publication]) -> list[Outcome]:
        """Publish messages in order, in chunks that each have the whole ``timeout``.

        Returns:
            For each message what `publish` would have returned or raised, in the same order. Where a chunk fails as a
            whole, what follows is not sent, and has that failure as its outcome.
        """
        outcomes: list[Outcome] = []
        pending: deque[tuple[asyncio.Future[list[Outcome]], Chunk]] = deque()
        end = 0
        failure: BrokerError | None = None
        try:
            while pending or (end < len(publications) and failure is None):
                if end < len(publications) and failure is None and len(pending) < CHUNKS:
                    chunk = _chunk(publications, end)
                    end += chunk.count
                    pending.append((self._awaited(chunk), chunk))
                    continue
                replies, chunk = pending.popleft()
                outcomes += await replies
                failure = failure or chunk.failure
        finally:
            for replies, _ in pending:  # whoever published was cancelled: what has not been sent shall not be
                replies.cancel()
        return outcomes if failure is None else [*outcomes, *[failure] * (len(publications) - end)]

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

    def leave(self, place: str) -> None:
        """Learn that the broker is at ``place`` now; a connection to another one is given up."""
        if self._connection is not None and self._place != place:
            reason = f"it is no longer the master, which is {place} now"
            self._lose(self._unavailable(reason), reason)

    async def close(self) -> None:
        """Fail what is under way, and disconnect; calling it again does nothing."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
        self._fail_all(self._is_closed())
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop("closed by this side")
            await connection.closed

    # ---- the queue

    def _awaited(self, chunk: Chunk) -> asyncio.Future[list[Outcome]]:
        """Take a chunk; return what its outcomes will be in."""
        chunk.done = future = asyncio.get_running_loop().create_future()
        self._submit(chunk)
        return future

    def _submit(self, chunk: Chunk) -> None:
        loop = asyncio.get_running_loop()
        if self._closed:
            if self._refusing:  # whoever was just told publishes again, and would be told in ever deeper calls
                loop.call_soon(self._refuse, chunk)
            else:
                self._refuse(chunk)
            return
        chunk.deadline = loop.time() + self._timeout
        self._waiting.append(chunk)
        if self._connection is None:
            if self._connecting is None:
                self._connecting = loop.create_task(self._connect(), name="realizehit publisher")
        elif self._send_handle is None:
            self._send_handle = loop.call_soon(self._send)
        if self._timer is None:
            self._timer = loop.call_later(self._timeout, self._expire)

    def _refuse(self, chunk: Chunk) -> None:
        if chunk.done.done():
            return
        self._refusing = True
        try:
            self._fail(chunk, self._is_closed(), sent=False)
        finally:
            self._refusing = False

    def _send(self) -> None:
        """Write what waits, as far as the window has room."""
        self._send_handle = None
        connection = self._connection
        if connection is None or self._probe is not None:
            return
        parts: list[bytes] = []
        while self._waiting and self._messages_under_way < WINDOW_MESSAGES and self._bytes_under_way < WINDOW_BYTES:
            chunk = self._waiting.popleft()
            if chunk.done.done():
                continue  # its publisher gave up before it was sent
            if not self._under_way:
                self._last_progress = connection.loop.time()
            parts.append(self._pack(chunk))
            self._under_way.append(chunk)
            self._messages_under_way += chunk.count
            self._bytes_under_way += chunk.size
        if parts:
            connection.write(b"".join(parts))

    def _pack(self, chunk: Chunk) -> bytes:
        """Return the commands of a chunk that is about to be sent."""
        return pack_publish(chunk.publications) or PING

    def replied(self, connection: CommandConnection, replies: list[Any]) -> None:
        """Take the replies of one read, in their order."""
        if self._silent:
            self._silent = False
            self._on_up()
        self._last_progress = self._last_reply = connection.loop.time()
        start = 0
        while start < len(replies) and self._under_way:
            chunk = self._under_way[0]
            taken = replies[start : start + chunk.count - len(chunk.replies)]
            chunk.replies += taken
            start += len(taken)
            if len(chunk.replies) == chunk.count:
                self._under_way.popleft()
                self._messages_under_way -= chunk.count
                self._bytes_under_way -= chunk.size
                if chunk is self._probe:
                    self._probe = None
                if not chunk.done.done():
                    chunk.done.set_result(self._outcomes(chunk))
        if start < len(replies):
            connection.drop(f"a reply that nothing asked for: {str(replies[start])[:100]}")
        elif self._waiting and self._send_handle is None:
            self._send_handle = connection.loop.call_soon(self._send)

    def _outcomes(self, chunk: Chunk) -> list[Outcome]:
        """Turn replies into outcomes."""
        try:
            return list(map(PUBLISHED.__getitem__, chunk.replies))
        except (KeyError, TypeError):  # TypeError: a list cannot be looked up
            return [self._outcome(chunk, reply) for reply in chunk.replies]

    def _outcome(self, chunk: Chunk, reply: Any) -> Outcome:
        if type(reply) is int:
            return published(reply)
        if isinstance(reply, hiredis.ReplyError):
            chunk.refusal = str(reply)
            return self._error_of(chunk.refusal)
        if not chunk.publications:
            return published(0)  # PONG
        shown = self._broker.scrub(str(reply))[:100]
        return BrokerRefused(f"broker {self._broker}: PUBLISH answered {shown}")

    def _expire(self, looked_again: bool = False) -> None:
        """Fail what has had its time; end a connection on which nothing has come back for as long."""
        loop = asyncio.get_running_loop()
        if not looked_again:
            self._timer = loop.call_later(_LAST_LOOK, self._expire, True)
            return
        self._timer = None
        try:
            self._fail_late(loop.time())
        finally:  # also where telling of a failure failed
            due = [chunk.deadline for chunk in chain(self._under_way, self._waiting) if not chunk.done.done()][:1]
            if self._under_way:  # also where nobody waits for these any more: they tell whether the broker is there
                due.append(self._last_progress + self._timeout)
            if self._timer is not None:  # set for what was published meanwhile
                self._timer.cancel()
                self._timer = None
            if due:
                self._timer = loop.call_at(max(min(due), loop.time() + _LAST_LOOK), self._expire)

    def _fail_late(self, now: float) -> None:
        late = False
        for queue, sent in ((self._under_way, True), (self._waiting, False)):
            # Whoever is told may publish, which changes the queues.
            for chunk in list(takewhile(lambda chunk: chunk.deadline <= now, queue)):
                if not chunk.done.done():
                    self._fail(chunk, self._is_late(), sent)
                    late = True
        if self._under_way and now - self._last_progress >= self._timeout:
            self._lose(self._is_late(), "it does not answer")
        elif late:
            self._silent = True
            self._on_down()
        while self._waiting and self._waiting[0].done.done():
            self._waiting.popleft()

    def _fail(self, chunk: Chunk, error: BrokerError, sent: bool) -> None:
        """Fail what of a chunk has no reply yet."""
        chunk.failure = error
        known = self._outcomes(chunk)
        missing = chunk.count - len(known)
        chunk.done.set_result([*known, *[self._unclear(error) if sent else error] * missing])

    def _fail_all(self, error: BrokerError) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Whoever is told may publish: that stands in new queues.
        under_way, self._under_way = self._under_way, deque()
        waiting, self._waiting = self._waiting, deque()
        self._forget_under_way()
        for queue, sent in ((under_way, True), (waiting, False)):
            for chunk in queue:
                if not chunk.done.done():
                    self._fail(chunk, error, sent)

    # ---- the probe

    def _forget_under_way(self) -> None:
        """Start over, without anything under way and without a probe."""
        self._under_way.clear()
        self._messages_under_way = self._bytes_under_way = 0
        self._probe = None
        if self._probe_timer is not None:
            self._probe_timer.cancel()
            self._probe_timer = None

    def _watch(self) -> None:
        """Probe the connection where it is idle; make it anew where that is not answered."""
        connection = self._connection
        if connection is None:
            return
        try:
            self._look(connection)
        except Exception as error:  # noqa: BLE001 - a new connection has a probe again
            self._defects.note(error)
            connection.drop(f"the probe failed: {error!r}")

    def _look(self, connection: CommandConnection) -> None:
        loop = connection.loop
        if self._probe is not None:
            self._probe_timer = loop.call_later(_LAST_LOOK, self._judge, self._probe)
            return
        due = self._last_reply + self._probe_after
        if self._under_way or self._waiting or loop.time() < due:
            # What is under way has a time of its own, and its replies tell as much.
            self._probe_timer = loop.call_at(max(due, loop.time() + self._probe_after / 2), self._watch)
            return
        self._probe = probe = Chunk((), 0)
        probe.done = CallbackCompletion(lambda outcome: None, loop)
        probe.deadline = loop.time() + self._timeout
        self._under_way.append(probe)
        self._messages_under_way += probe.count
        self._last_progress = loop.time()
        connection.write(PING)
        self._probe_timer = loop.call_later(self._probe_timeout, self._watch)

    def _judge(self, probe: Chunk) -> None:
        connection = self._connection
        if connection is None:
            return
        if self._probe is not probe:
            self._watch()
            return
        self._replace(connection)
        connection.drop(f"no answer to a PING within {self._probe_timeout:g} seconds")

    def _replace(self, connection: CommandConnection) -> None:
        """Give up a connection that has nothing but a probe under way; what waits goes over the next one."""
        self._connection = None
        self._forget_under_way()
        if self._connecting is None:
            self._connecting = connection.loop.create_task(self._connect(), name="realizehit publisher")

    # ---- the connection

    async def _connect(self) -> None:
        connection = CommandConnection(self, self._broker.login(), self._name)
        try:
            failure = await self._open(connection)
        except BaseException:
            connection.drop("given up")
            raise
        finally:
            self._connecting = None
        if failure is None and connection.closed.done():
            failure = self._unavailable(self._broker.scrub(connection.closed.result()))
        if failure is None:
            self.connects += 1
            self._connection = connection
            self._silent = False
            self._last_reply = connection.loop.time()
            self._probe_timer = connection.loop.call_later(self._probe_after, self._watch)
            self._on_up()
            self._send()
        else:
            connection.drop("given up")
            self._lose(failure, "")

    async def _open(self, connection: CommandConnection) -> BrokerError | None:
        try:
            async with asyncio.timeout(self._timeout):
                self._place = await self._broker.connect(lambda: connection)
                await connection.ready
        except TimeoutError:
            return self._is_late()
        except ssl.SSLCertVerificationError as error:
            return BrokerRefused(f"broker {self._broker}: its certificate is not accepted: {error}")
        except BrokerRefused as error:
            return BrokerRefused(f"broker {self._broker} refused the login: {self._broker.scrub(str(error))}")
        except OSError as error:  # BrokerUnavailable is one
            return self._unavailable(self._broker.scrub(reason_of(error)))
        except Exception as error:  # noqa: BLE001 - nobody awaits this task: what waits for the connection has to fail
            self._defects.note(error)
            return self._unavailable(f"connecting failed: {type(error).__name__}")
        return None

    def lost(self, connection: CommandConnection, reason: str) -> None:
        """Learn that the connection is gone."""
        if self._connection is not connection:
            return
        if self._probe is not None and self._waiting:
            self._replace(connection)  # the probe found out in time: nothing of what waits was sent
        else:
            self._lose(self._unavailable(self._broker.scrub(reason)), "")

    def _lose(self, error: BrokerError, reason: str) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and reason:
            connection.drop(reason)
        self._on_down()
        self._fail_all(error)

    # ---- what failures mean

    def _error_of(self, text: str) -> BrokerError:
        shown = self._broker.scrub(text)
        return self._unavailable(shown) if code_of(text) in TRANSIENT else self._refused(shown)

    def _refused(self, text: str) -> BrokerRefused:
        return BrokerRefused(f"broker {self._broker} refused: {text}")

    def _unavailable(self, text: str) -> BrokerUnavailable:
        return BrokerUnavailable(f"broker {self._broker}: {text}")

    def _unclear(self, error: BrokerError) -> BrokerError:
        """Say that what was sent already may have been taken."""
        return (
            PublishUnclear(f"{error}; it may have taken the message") if isinstance(error, BrokerUnavailable) else error
        )

    def _is_late(self) -> BrokerUnavailable:
        return self._unavailable(f"no answer within {self._timeout:g} seconds")

    def _is_closed(self) -> BrokerUnavailable:
        return self._unavailable("this side is closed")


class CallbackCompletion:
    """What takes a future's place where nobody awaits: no task has to wake up for the outcome."""

    __slots__ = ("_loop", "_tell")

    def __init__(self, tell: Callable[[Outcome], None], loop: asyncio.AbstractEventLoop) -> None:
        self._tell: Callable[[Outcome], None] | None = tell
        self._loop = loop

    def done(self) -> bool:
        """Whether there is an outcome."""
        return self._tell is None

    def set_result(self, outcomes: list[Outcome]) -> None:
        """Tell the only message's."""
        tell, self._tell = self._tell, None
        try:
            if tell is not None:
                tell(outcomes[0])
        except Exception as error:  # noqa: BLE001 - the other replies are for others
            self._loop.call_exception_handler({"message": "telling of a publication failed", "exception": error})


class Chunk:
    """Publications that are answered together; none at all stands for a PING."""

    __slots__ = ("count", "deadline", "done", "failure", "publications", "refusal", "replies", "shapes", "size")

    done: asyncio.Future[list[Outcome]] | CallbackCompletion
    shapes: tuple[bytes, ...]  # only where messages are projected: those that there were when it was sent

    def __init__(self, publications: Sequence[Publication], size: int) -> None:
        self.publications = publications
        self.size = size  # bytes of payload
        self.count = len(publications) or 1  # replies that it takes
        self.deadline = 0.0
        self.replies: list[Any] = []
        self.refusal = ""
        self.failure: BrokerError | None = None  # of the chunk as a whole


def _chunk(publications: Sequence[Publication], start: int) -> Chunk:
    end, size = start, 0
    while end < len(publications) and end - start < CHUNK_MESSAGES and size < CHUNK_BYTES:
        size += len(publications[end].payload)
        end += 1
    return Chunk(publications[start:end], size)
