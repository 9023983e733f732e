"""A node's side of the registry: registers the shapes of its subscriptions, and renews them while it has these.

The rules of this file. A shape is in force once the script that registered it on the present connection has been
answered. On a new connection everything is registered again, since it may lead to a broker that knows nothing of it;
and after `Registrar.again`, since the node's other connection may lead to one. A shape that was in
force, and that the broker did not have any more or that has lapsed meanwhile, had a gap: some publications may not have
been projected by it. One command registers and renews all that is due. In a cluster a shape is in force some time
later, since publishers may know an older state of the registry for a second.

Only one node finds that the broker lost a shape: the first that registers it again. So the registrar follows the
control channel, like a publisher, and learns of that at once. Without it the other nodes would not know of their gap,
since their renewals find the shape there.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from asyncio import FIRST_COMPLETED
from typing import Any, Final, Protocol

import hiredis

from realizehit.broker.keeper import Broker
from realizehit.broker.names import SINGLE, Names
from realizehit.broker.resp import MOVING, TRANSIENT, CommandConnection, code_of, pack
from realizehit.broker.shapes.registry import (
    ADDED,
    ADDED_NOT_BRIDGED,
    BRIDGE_GAP_EARLIER,
    FULL,
    LEASE,
    MAX_SHAPES,
    RENEW_INTERVAL,
    RENEWED_NOT_BRIDGED,
    register,
)
from realizehit.common.backoff import Backoff
from realizehit.errors import BrokerError, BrokerRefused, BrokerUnavailable, RegistryFull

logger: Final = logging.getLogger(__name__)

BACKOFF_FIRST: Final = 0.1  # seconds
BACKOFF_MOST: Final = 1.0  # seconds
BRIDGE_POLL_FIRST: Final = 0.02  # seconds until it is asked again whether the bridge listens for a new shape
BRIDGE_POLL_MOST: Final = 1.0  # seconds

CLOCKS_DIFFER: Final = 10.0  # seconds by which the clocks of a primary and of its replica may differ


def _rights(names: Names) -> str:
    return (
        f"to serve wildcard subscriptions a node needs the rights to HELLO, to {_subscribe(names)} to "
        f"{names.control.decode()}, and to EVAL with the keys {names.shapes}, {names.bridge}, {names.bridged} and "
        f"{names.registrations}; docs/access.md lists all. Grant them, or serve without wildcards (--no-wildcards)"
    )


def _subscribe(names: Names) -> str:
    return "SSUBSCRIBE" if names.sharded else "SUBSCRIBE"


class Listener(Protocol):
    """What a registrar reports to. None of these may raise."""

    def shape_registered(self, shape: bytes) -> None:
        """Learn that a shape is in force now: what is published from here on is projected by it."""

    def shape_refused(self, shape: bytes, error: BrokerError) -> None:
        """Learn that a shape is not in force and will not be; the registrar has forgotten it.

        The error is a `RegistryFull` where there is no room for it.
        """

    def bridge_had_gap(self, seconds: float) -> None:
        """Learn that the bridge was not there for some time within these seconds up to now."""

    def shape_lapsed(self, shape: bytes, seconds: float) -> None:
        """Learn that a shape is in force again, and was not for some time within these seconds up to now."""


class Registrar:
    """Keeps the shapes of one node registered. It connects when there is a first one.

    Args:
        broker: where to connect.
        listener: told of the outcomes.
        lease: seconds that a registration holds.
        renew_interval: seconds between two renewals, less than half of the lease.
        most: how many shapes the registry may hold.
        timeout: seconds within which the broker must answer.
        name: how the connection is called in the broker's ``CLIENT LIST``.
        names: those of the broker.
        settle: seconds for which publishers may not know of a registration. So much later it is in force.

    Reentrancy: for one event loop's thread.

    Attributes:
        connects: how often a connection was made.
    """

    def __init__(
        self,
        broker: Broker,
        listener: Listener,
        *,
        lease: float = LEASE,
        renew_interval: float = RENEW_INTERVAL,
        most: int = MAX_SHAPES,
        timeout: float = 5.0,
        name: str = "realizehit-registrar",
        names: Names = SINGLE,
        settle: float = 0.0,
    ) -> None:
        if not 0 < renew_interval < lease / 2:
            raise ValueError(
                f"a renew_interval of {renew_interval:g} seconds is not less than half of {lease:g}, the lease"
            )
        self.connects = 0
        self._broker = broker
        self._listener = listener
        self._lease = lease
        self._renew_interval = renew_interval
        self._most = most
        self._timeout = timeout
        self._name = name
        self._names = names
        self._settle = settle
        self._known_at: dict[bytes, float] = {}  # when all publishers know of shapes that are not in force yet
        self._wanted: dict[bytes, float | None] = {}  # when each was certainly in force; None for not yet
        self._began: dict[bytes, int] = {}  # of shapes, as the broker told last; none after news of a registration
        self._in_force: set[bytes] = set()  # registered on the present connection, and since `again`
        self._round = 0  # counts the calls of `again`; answers to what was sent before the last one are not enough
        self._lapsed: dict[bytes, float] = {}  # shapes that had a gap, which is yet to be reported, and since when
        self._awaits_bridge = False  # the bridge does not listen for each shape yet
        self._bridge_gaps: int | None = None  # how many gaps bridges have had so far; None before the first answer
        self._answered = 0.0  # when the registration was sent that was answered last
        self._under_way: set[bytes] = set()  # shapes in the command that is not answered yet
        self._place = ""  # where the connection leads
        self._renew_at = 0.0
        self._connection: CommandConnection | None = None
        self._answer: asyncio.Future[Any] | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._trouble = ""

    def register(self, shape: bytes) -> bool:
        """Have a shape registered, and renewed from then on.

        Returns:
            Whether it is in force already. Otherwise the listener hears of the outcome.
        """
        self._wanted.setdefault(shape, None)
        if shape in self._in_force:
            return True
        self._wake.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="realizehit registrar")
            self._task.add_done_callback(_report_defect)
        return False

    def leave(self, shape: bytes) -> None:
        """Renew a shape no more; it lapses by itself."""
        self._wanted.pop(shape, None)
        self._in_force.discard(shape)
        self._lapsed.pop(shape, None)
        self._began.pop(shape, None)
        self._known_at.pop(shape, None)

    def is_registered(self, shape: bytes) -> bool:
        """Tell whether a shape is in force."""
        return shape in self._in_force

    def again(self) -> None:
        """Register everything again: the broker may be another one. Nothing is in force until that is answered."""
        self._round += 1
        self._in_force.clear()
        if self._wanted:
            self._wake.set()

    def move_to(self, place: str) -> None:
        """Learn that the broker is at ``place`` now; a connection to another one is given up."""
        if self._connection is not None and self._place != place:
            self._connection.drop(f"it is no longer the master, which is {place} now")

    async def close(self) -> None:
        """Renew nothing any more, and disconnect; calling it again does nothing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        self._wanted.clear()
        connection = self._connection
        self._disconnected()
        if connection is not None:
            connection.drop("closed by this side")
            await connection.closed

    # ---- the loop

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(BACKOFF_FIRST, BACKOFF_MOST)
        pause = BRIDGE_POLL_FIRST
        while True:
            self._wake.clear()
            due = self._due(loop.time())
            if not due:
                await self._sleep(self._renew_at - loop.time() if self._wanted else None)
                continue
            try:
                if self._connection is None:
                    self._connection = await self._open()
                    self.connects += self._connection is not None
                    continue  # what was in force is due now
                await self._register(self._connection, due)
            except (BrokerError, OSError) as error:  # TimeoutError is an OSError
                self._report(self._broker.scrub(str(error) or type(error).__name__))
                if self._connection is not None:
                    self._connection.drop("given up")
                self._disconnected()
                await asyncio.sleep(backoff.next())
            else:
                backoff.reset()
                if self._awaits_bridge:
                    await asyncio.sleep(pause)
                    pause = min(BRIDGE_POLL_MOST, 2 * pause)
                elif self._known_at:
                    await self._sleep(min(self._known_at.values()) - loop.time())
                else:
                    pause = BRIDGE_POLL_FIRST
                if self._trouble:
                    logger.info("broker %s is back, %d shapes are registered", self._broker, len(self._in_force))
                    self._trouble = ""

    def _due(self, now: float) -> list[bytes]:
        if now >= self._renew_at:
            return list(self._wanted)
        return [shape for shape in self._wanted if shape not in self._in_force]

    async def _sleep(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _register(self, connection: CommandConnection, shapes: list[bytes]) -> None:
        sent, sent_in = connection.loop.time(), self._round
        self._under_way = set(shapes)
        if sent >= self._renew_at:
            self._renew_at = sent + self._renew_interval
        try:
            reply = await self._ask(connection, register(shapes, self._lease, self._most, self._names))
        finally:
            self._under_way = set()
        if isinstance(reply, hiredis.ReplyError):
            self._take_refusal(str(reply), shapes)
        elif isinstance(reply, list) and len(reply) == 2 * len(shapes) + 3 and all(type(one) is int for one in reply):
            self._awaits_bridge = False
            bridge_had_gap = self._bridge_gaps is not None and self._bridge_gaps != reply[0]
            outcomes, times = reply[2 : 2 + len(shapes)], reply[2 + len(shapes) : -1]
            for shape, outcome, began in zip(shapes, outcomes, times, strict=True):
                if shape in self._wanted:  # not left meanwhile
                    if self._has_lapsed(shape, outcome, began, bridge_had_gap=bridge_had_gap):
                        self._lapsed.setdefault(shape, self._wanted[shape] or sent)
                    if self._settle and self._began.get(shape) != began:
                        self._wait_for_publishers(shape, (reply[-1] - began) / 1000)
                    self._began[shape] = began
                    self._take_outcome(shape, outcome, sent, is_enough=sent_in == self._round)
            self._take_bridge_gaps(reply[0], reply[1] / 1000, sent)
        else:
            raise BrokerUnavailable(f"not the answer to a registration: {str(reply)[:100]}")

    async def _ask(self, connection: CommandConnection, command: tuple[bytes | str, ...]) -> Any:
        """Send one command, and return the reply to it, an error reply too."""
        answer = self._answer = connection.loop.create_future()
        connection.write(pack(command))
        try:
            await asyncio.wait((answer, connection.closed), timeout=self._timeout, return_when=FIRST_COMPLETED)
        finally:
            self._answer = None
        if answer.done():
            return answer.result()
        if connection.closed.done():
            raise BrokerUnavailable("the connection was lost")
        raise BrokerUnavailable(f"no answer within {self._timeout:g} seconds")

    def _heard(self, shape: Any) -> None:
        """Learn that somebody added a shape to the registry: it was not there before."""
        if not isinstance(shape, bytes):
            return
        self._began.pop(shape, None)  # it is another one now
        last = self._wanted.get(shape)
        if last is None:
            return  # not of interest here, or the first registration here is under way
        self._lapsed.setdefault(shape, last)
        if self._settle:
            self._in_force.discard(shape)  # until all publishers know of it
            self._wake.set()
        elif shape not in self._under_way and shape in self._in_force:
            now = asyncio.get_running_loop().time()
            self._listener.shape_lapsed(shape, now - self._lapsed.pop(shape))

    def _has_lapsed(self, shape: bytes, outcome: int, began: int, *, bridge_had_gap: bool) -> bool:
        """Whether a shape that was in force was not so for some time, or may not have been."""
        last, known = self._wanted[shape], self._began.get(shape)
        if last is None or known == began:
            return False
        if outcome in (ADDED, ADDED_NOT_BRIDGED) or asyncio.get_running_loop().time() - last > self._lease:
            return True
        # A gap of a bridge counts as another registration too, and is reported apart. Without a known time the news of
        # the registration have come.
        return known is not None and not bridge_had_gap

    def _wait_for_publishers(self, shape: bytes, age: float) -> None:
        """Have a shape wait that was registered ``age`` seconds ago by the broker's clock, until publishers know it."""
        if age <= CLOCKS_DIFFER:
            self._known_at[shape] = asyncio.get_running_loop().time() + self._settle

    def _take_outcome(self, shape: bytes, outcome: int, sent: float, *, is_enough: bool) -> None:
        if outcome == FULL:
            error = RegistryFull(
                f"broker {self._broker}: its registry holds {self._most} shapes and has no room for another"
            )
            self.leave(shape)
            self._listener.shape_refused(shape, error)
            return
        news = shape not in self._in_force
        self._wanted[shape] = sent
        if outcome in (RENEWED_NOT_BRIDGED, ADDED_NOT_BRIDGED):
            self._awaits_bridge = True
            self._in_force.discard(shape)  # until the bridge listens for it, which takes a moment
            return
        if not is_enough:
            return
        if asyncio.get_running_loop().time() < self._known_at.get(shape, 0.0):
            self._in_force.discard(shape)
            return
        self._known_at.pop(shape, None)
        self._in_force.add(shape)
        since = self._lapsed.pop(shape, None)
        if since is not None:
            self._listener.shape_lapsed(shape, asyncio.get_running_loop().time() - since)
        elif news:
            self._listener.shape_registered(shape)

    def _take_bridge_gaps(self, gaps: int, seconds: float, sent: float) -> None:
        """Take how many gaps bridges have had so far, and how long ago the last one began."""
        known, self._bridge_gaps = self._bridge_gaps, gaps
        if known is None or gaps <= known:
            pass  # nothing, or another broker, whose registry is another one
        elif gaps == known + 1:
            self._listener.bridge_had_gap(seconds)
        else:  # only the beginning of the last one is known; none was counted before the last answer
            self._listener.bridge_had_gap(sent - self._answered + BRIDGE_GAP_EARLIER)
        self._answered = sent

    def _take_refusal(self, text: str, shapes: list[bytes]) -> None:
        """Take an error reply: it is the end of what was never in force, and a trouble for the rest."""
        shown = self._broker.scrub(text)
        if code_of(text) in TRANSIENT | MOVING:
            raise BrokerUnavailable(shown)
        hint = f"; {_rights(self._names)}" if code_of(text) == "NOPERM" else ""
        error = BrokerRefused(f"broker {self._broker} refused to register a shape: {shown}{hint}")
        for shape in shapes:
            if shape in self._wanted and self._wanted[shape] is None:
                self.leave(shape)
                self._listener.shape_refused(shape, error)
        if self._wanted:
            raise error

    # ---- the connection

    async def _open(self) -> CommandConnection | None:
        """Connect; return nothing where the broker refused something and all shapes were given up for that."""
        connection = CommandConnection(self, self._broker.login(), self._name)
        try:
            async with asyncio.timeout(self._timeout):
                self._place = await self._broker.connect(lambda: connection)
                await connection.ready
        except BaseException as error:
            connection.drop("given up")
            if isinstance(error, TimeoutError):
                raise BrokerUnavailable(f"no answer within {self._timeout:g} seconds") from None
            if isinstance(error, ssl.SSLCertVerificationError):
                raise BrokerRefused(f"its certificate is not accepted: {error}") from None
            raise
        if connection.closed.done():
            raise BrokerUnavailable(connection.closed.result())
        followed = False
        try:
            followed = await self._follow(connection)
        finally:
            if not followed:
                connection.drop("given up")
        return connection if followed else None

    async def _follow(self, connection: CommandConnection) -> bool:
        """Have the connection told of what is added to the registry, between its replies as RESP3 allows it."""
        commands: list[tuple[bytes | str, ...]] = [("HELLO", "3"), (_subscribe(self._names), self._names.control)]
        for command in commands:
            reply = await self._ask(connection, command)
            if isinstance(reply, hiredis.ReplyError):
                self._take_refusal(str(reply), list(self._wanted))
                return False
        return True

    def _disconnected(self) -> None:
        self._connection = None
        self._in_force.clear()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(BrokerUnavailable("the connection was lost"))

    def replied(self, connection: CommandConnection, replies: list[Any]) -> None:
        """Take the replies of one read."""
        for reply in replies:
            if type(reply) is hiredis.PushNotification and reply[:1] in ([b"message"], [b"smessage"]):
                self._heard(reply[-1])
                continue
            # The news that a subscription is in force is the answer to SUBSCRIBE.
            if self._answer is None or self._answer.done():
                connection.drop(f"a reply that nothing asked for: {str(reply)[:100]}")
                return
            self._answer.set_result(reply)

    def lost(self, connection: CommandConnection, reason: str) -> None:
        """Learn that the connection is gone; whatever is wanted is registered again on another one."""
        if self._connection is connection:
            self._report(self._broker.scrub(reason))
            self._disconnected()
            self._wake.set()

    def _report(self, trouble: str) -> None:
        """Log a trouble once, not at every attempt."""
        level = logging.DEBUG if trouble == self._trouble else logging.WARNING
        logger.log(level, "broker %s: shapes cannot be registered: %s; trying again", self._broker, trouble)
        self._trouble = trouble


def _report_defect(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("the registrar ended by a defect", exc_info=error)
