"""The bridge: publishes projections for publishers that know nothing of shapes.

One bridge runs in a deployment; a lease in the registry says which. It listens by one ``PSUBSCRIBE`` for each shape. A
glob may match too much; the projection decides. While it runs, the publishers that follow the registry leave all
projections to it, so that nothing comes twice.

Everything happens on one connection (RESP3), so that replies and messages come in the order in which the broker carried
things out. What has to hold:

- It begins with the reply that gives it the lease: what came before was published with projections, what comes after is
  projected here. It listens for each shape before, or it is not given the lease.
- A publisher that was writing at that moment has published some projections itself. So for `SETTLE` seconds each
  projection waits for `HELD` seconds, and is dropped where the publisher's own one comes by.
- A new shape counts as registered once the bridge listens for it.
- Before it ends by itself it projects all that was published before the end, and then says that it is done. One that
  dies had a gap, also after the end if it was not done. The scripts of the registry note that, and nodes tell their
  clients. The broker may close the connection of a bridge that reads too slowly, at any time.
- A gap begins where the projections end that the broker has certainly carried out. So each renewal tells up to when
  everything was projected that was published: up to the reply to the renewal before.
- It follows the rules of history. The projection of a message to a channel under a rule is also written into its log.
- A connection that is lost is the end of this bridge; the next one has another id, so that the gap is noted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, Final

import hiredis

from realizehit.broker.history.rules import CHANGED
from realizehit.broker.history.scripts import without_position
from realizehit.broker.idempotency import WINDOW
from realizehit.broker.keeper import Broker
from realizehit.broker.projections import origin_of, projections_of
from realizehit.broker.publication import Publication
from realizehit.broker.publish_script import PublishScript, is_unknown_script
from realizehit.broker.resp import CommandConnection, pack, pack_publish
from realizehit.broker.rules_reader import READ_RULES, READ_RUN_ID, RulesReader, run_id_of
from realizehit.broker.shapes.globs import Globs
from realizehit.broker.shapes.held import HeldProjections
from realizehit.broker.shapes.registry import (
    ANOTHER,
    BRIDGE,
    BRIDGE_DONE,
    BRIDGE_INTERVAL,
    BRIDGE_LAPSED,
    BRIDGE_LEASE,
    CONTROL,
    MOST_SHAPES,
    RUNS,
    TAKEN,
    done,
    end,
    hold,
    is_shape,
    listens,
    read,
)
from realizehit.common.seldom import LOG_INTERVAL, Seldom, more
from realizehit.errors import BrokerError, BrokerRefused, BrokerUnavailable
from realizehit.pattern import is_wildcard, shape_of

logger: Final = logging.getLogger(__name__)

SETTLE: Final = 3.0  # seconds after the beginning in which publishers may have published projections themselves
HELD: Final = 0.3  # seconds that a projection waits for the publisher's own in that time
BACKOFF_MOST: Final = 1.0  # seconds
TIMEOUT: Final = 5.0  # seconds within which the broker must answer

_RIGHTS: Final = (
    "a bridge needs the rights to HELLO, EVAL, SUBSCRIBE, PSUBSCRIBE to all channels, and PUBLISH, and to the keys "
    "realizehit:shapes, realizehit:bridge and realizehit:bridged; for history also what docs/access.md lists"
)


class Bridge:
    """Becomes the bridge of a deployment where no other is, and stays it.

    Args:
        broker: where to connect.
        name: how the connection is called in the broker's ``CLIENT LIST``.

    Attributes:
        runs: whether this is the bridge at the moment.
        projected: how many projections it has published.
    """

    def __init__(self, broker: Broker, *, name: str = "realizehit-bridge") -> None:
        self.runs = False
        self.projected = 0
        self._broker = broker
        self._name = name
        self._connection: CommandConnection | None = None
        self._rules = RulesReader(broker)
        self._script = PublishScript(WINDOW, project=False)
        self._place = ""
        self._id = ""
        self._expected: deque[tuple[int, Callable[[Any], None] | None]] = deque()
        self._globs = Globs()
        self._certain = 0.0  # when the renewal was sent that was answered last
        self._answered_at = 0  # the broker's time of that answer, in milliseconds
        self._answered_due = 0.0  # when the last projection was due that waited at that answer
        self._projected_to = 0  # the broker's time up to which everything was projected, in milliseconds
        self._settled_at = 0.0
        self._held = HeldProjections()
        self._release: asyncio.TimerHandle | None = None
        self._seldom = Seldom(LOG_INTERVAL)
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()  # set when another bridge has ended

    def start(self) -> None:
        """Begin to try, in the background."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="realizehit bridge")

    async def close(self) -> None:
        """Project all that was published so far, and leave projections to the publishers."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        connection = self._connection
        if connection is not None:
            if self.runs:
                try:
                    await self._call(connection, end(self._id, self._projected_until()), self._ended)
                    self._publish(self._held.take_due(float("inf")))
                    await self._call(connection, done(self._id))
                except (BrokerError, TimeoutError) as error:
                    reason = str(error) or "the broker did not answer in time"
                    self._report(f"it ends with a gap: {self._broker.scrub(reason)}")
            self._disconnected()
            connection.drop("closed by this side")
            await connection.closed

    def _ended(self, reply: Any) -> None:
        self.runs = False  # what follows on the connection is projected by the publishers

    def move_to(self, place: str) -> None:
        """Learn that the broker is at ``place`` now; a connection to another one is given up."""
        if self._connection is not None and self._place != place:
            self._connection.drop(f"it is no longer the master, which is {place} now")

    # ---- the loop

    async def _run(self) -> None:
        while True:
            try:
                connection = await self._open()
                while True:
                    self._wake.clear()
                    await self._renew(connection)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(BRIDGE_INTERVAL):
                            await self._wake.wait()
            except (BrokerError, OSError) as error:  # TimeoutError is an OSError
                self._report(self._broker.scrub(str(error) or type(error).__name__))
            except Exception as error:  # a defect must not end the bridge for good
                logger.exception("the bridge failed and goes on")
                self._report(repr(error))
            connection_or_none, self._connection = self._connection, None
            if connection_or_none is not None:
                connection_or_none.drop("given up")
            self._disconnected()
            await asyncio.sleep(random.uniform(0.1, BACKOFF_MOST))  # noqa: S311 - no secret

    async def _open(self) -> CommandConnection:
        connection = CommandConnection(self, self._broker.login(), self._name)
        self._id = secrets.token_hex(8)
        try:
            async with asyncio.timeout(TIMEOUT):
                self._place = await self._broker.connect(lambda: connection)
                await connection.ready
        except BaseException:
            connection.drop("given up")
            raise
        if connection.closed.done():
            raise BrokerUnavailable(connection.closed.result())
        self._connection = connection
        await self._call(connection, ("HELLO", "3"))
        connection.write(pack(("SUBSCRIBE", CONTROL)))  # confirmed by a push
        self._script.loaded.clear()
        self._read_rules(connection)
        return connection

    def _read_rules(self, connection: CommandConnection) -> None:
        """Read the rules of history; what is projected after the reply follows them."""

        def has_rules(reply: Any) -> None:
            self._script.rules = self._rules.take(reply)

        def has_run_id(reply: Any) -> None:
            self._script.run_id = run_id_of(reply)

        self._expected.extend(((1, has_rules), (1, has_run_id)))
        connection.write(pack(READ_RULES) + pack(READ_RUN_ID))

    async def _renew(self, connection: CommandConnection) -> None:
        """Take the lease if it is free, or renew it if this bridge holds it."""
        if self.runs:
            await self._forget_lapsed(connection)
        outcome = await self._hold(connection)
        while outcome not in (RUNS, TAKEN, ANOTHER):
            for member in await self._read(connection):
                self._listen(connection, member)
            outcome = await self._hold(connection)
        if outcome == ANOTHER:
            if self.runs:
                raise BrokerUnavailable("another bridge has taken over")
            unheard = [self._globs.remove(member) for member in list(self._globs.members)]
            self._unsubscribe(connection, [glob for glob in unheard if glob is not None])

    async def _hold(self, connection: CommandConnection) -> int:
        sent = connection.loop.time()

        def answered(reply: Any) -> None:
            # Here and not in the task, since the messages that follow in this read must be projected already.
            outcome, now = reply
            if outcome in (RUNS, TAKEN):
                self._certain = sent
                self._answered_at = now
                self._answered_due = self._held.last_due if self._held else 0.0
            if outcome == TAKEN:
                self.runs = True
                self._projected_to = now
                self._settled_at = connection.loop.time() + SETTLE
                logger.info("broker %s: this is the bridge now, for %d shapes", self._broker, len(self._globs.members))

        command = hold(self._id, self._projected_until(), list(self._globs.members))
        outcome, _ = await self._call(connection, command, answered)
        return int(outcome)

    def _projected_until(self) -> int:
        """Return the broker's time up to which everything that was published is projected, in milliseconds.

        All that came before the last answer is, unless some projections of it wait yet.
        """
        if not self._held or self._held.next_due > self._answered_due:
            self._projected_to = self._answered_at
        return self._projected_to

    async def _read(self, connection: CommandConnection) -> list[bytes]:
        members = await self._call(connection, read())
        return [member for member in members if member != BRIDGE][:MOST_SHAPES]

    async def _forget_lapsed(self, connection: CommandConnection) -> None:
        lapsed: list[bytes] = []
        unheard: list[bytes] = []

        def answered(reply: Any) -> None:
            # Here and not in the task: a shape that is announced behind this reply in the same read is a new one. To
            # take it for one that lapsed would lose its messages.
            in_force = set(reply)
            lapsed.extend([member for member in self._globs.members if member not in in_force])
            unheard.extend([glob for member in lapsed if (glob := self._globs.remove(member)) is not None])

        await self._call(connection, read(), answered)
        if lapsed:
            # From here on a node that registers one of them again waits until this bridge listens for it again.
            await self._hold(connection)
            self._unsubscribe(connection, [glob for glob in unheard if not self._globs.shapes_of(glob)])

    def _listen(self, connection: CommandConnection, shape: bytes) -> None:
        """Listen for a shape; what follows on the connection is carried out after that."""
        glob = self._globs.add(shape)
        if glob is not None:
            connection.write(pack(("PSUBSCRIBE", glob)))

    def _unsubscribe(self, connection: CommandConnection, globs: Iterable[bytes]) -> None:
        for glob in globs:
            connection.write(pack(("PUNSUBSCRIBE", glob)))

    # ---- commands and replies

    async def _call(
        self,
        connection: CommandConnection,
        command: tuple[bytes | str, ...],
        answered: Callable[[Any], None] | None = None,
    ) -> Any:
        """Send a command and return its reply; `answered` is called with it among the messages, in their order."""
        future: asyncio.Future[Any] = connection.loop.create_future()

        def take(reply: Any) -> None:
            if answered is not None and not isinstance(reply, hiredis.ReplyError):
                answered(reply)
            if not future.done():
                future.set_result(reply)

        self._expected.append((1, take))
        connection.write(pack(command))
        async with asyncio.timeout(TIMEOUT):
            await asyncio.wait({future, connection.closed}, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            raise BrokerUnavailable(connection.closed.result())
        reply = future.result()
        if isinstance(reply, hiredis.ReplyError):
            raise BrokerRefused(f"{reply}; {_RIGHTS}")
        return reply

    def replied(self, connection: CommandConnection, replies: list[Any]) -> None:
        """Take the replies and the messages of one read, in their order."""
        if self.runs and connection.loop.time() - self._certain > BRIDGE_LEASE:
            connection.drop("this bridge was held up for longer than its lease")  # another may have taken over
            return
        projections: list[Publication] = []
        for reply in replies:
            if type(reply) is hiredis.PushNotification:
                self._take_push(connection, reply, projections)
                continue
            if not self._expected:
                connection.drop(f"a reply that nothing asked for: {str(reply)[:100]}")
                return
            count, take = self._expected[0]
            if count > 1:
                self._expected[0] = count - 1, take
            else:
                self._expected.popleft()
            if take is not None:
                take(reply)
            elif isinstance(reply, hiredis.ReplyError):
                self._report(f"a projection was refused: {self._broker.scrub(str(reply))}")
        self._publish(projections)

    def lost(self, connection: CommandConnection, reason: str) -> None:
        """Learn that the connection is gone; the loop makes another one."""
        if self._connection is connection:
            self._disconnected()

    def _disconnected(self) -> None:
        self.runs = False
        self._connection = None
        self._expected.clear()
        self._globs.clear()
        self._held.clear()
        if self._release is not None:
            self._release.cancel()
            self._release = None

    # ---- messages

    def _take_push(self, connection: CommandConnection, push: Sequence[Any], projections: list[Publication]) -> None:
        if push[0] == b"pmessage":
            if self.runs:
                self._take_message(connection, push[1], push[2], push[3], projections)
        elif push[0] != b"message" or push[1] != CONTROL:
            return
        elif push[2] in (BRIDGE_DONE, BRIDGE_LAPSED):
            self._wake.set()
        elif push[2] == CHANGED.encode():
            self._read_rules(connection)
        elif self.runs and is_shape(push[2]):
            self._listen(connection, push[2])
            self._expected.append((1, lambda reply: None))
            connection.write(pack(listens(self._id, [push[2]])))

    def _take_message(
        self, connection: CommandConnection, glob: bytes, channel: bytes, payload: bytes, projections: list[Publication]
    ) -> None:
        shapes = self._globs.shapes_of(glob)
        payload = without_position(payload)
        settling = bool(self._held) or connection.loop.time() < self._settled_at
        try:
            if is_wildcard(channel):
                if settling and shape_of(channel) in shapes:
                    self._held.came_by(channel, payload)
                return
            found = projections_of(Publication(channel, payload), shapes)
        except ValueError:
            return  # no channel of ours: anybody may publish anything at a broker
        if not settling:
            projections += found
            return
        now = connection.loop.time()
        # After that time a projection waits no longer than those before it, whose order it keeps.
        due = now + HELD if now < self._settled_at else max(now, self._held.last_due)
        for projection in found:
            self._held.hold(projection, due)
        if self._held and self._release is None:
            self._release = connection.loop.call_at(due, self._release_held)

    def _release_held(self) -> None:
        self._release = None
        connection = self._connection
        if connection is None:
            return
        self._publish(self._held.take_due(connection.loop.time()))
        if self._held:
            self._release = connection.loop.call_at(self._held.next_due, self._release_held)
        elif connection.loop.time() >= self._settled_at:
            self._held.clear()

    def _publish(self, projections: list[Publication]) -> None:
        if not projections or self._connection is None:
            return
        self.projected += len(projections)
        for logged, run in groupby(projections, lambda projection: self._script.has_log(projection.channel)):
            group = list(run)
            if logged:
                for projection in group:
                    self._write_logged(self._connection, projection)
            else:
                self._expected.append((len(group), None))
                self._connection.write(pack_publish(group))

    def _write_logged(self, connection: CommandConnection, projection: Publication) -> None:
        """Publish a projection that is also written into a log; again if the broker lacks the script."""

        def answered(reply: Any) -> None:
            if is_unknown_script(reply):
                self._script.loaded.clear()
                self._write_logged(connection, projection)
            elif isinstance(reply, hiredis.ReplyError):
                self._report(f"a projection was refused: {self._broker.scrub(str(reply))}")

        self._expected.append((1, answered))
        connection.write(self._script.pack_projections(origin_of(projection), [projection], bring=False))

    def _report(self, trouble: str) -> None:
        if (left_out := self._seldom.passes("trouble")) is not None:
            logger.warning("broker %s: the bridge does not run here: %s%s", self._broker, trouble, more(left_out))
