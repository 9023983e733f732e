"""A publisher's connection that follows the registry: what is published reaches wildcard subscriptions too.

Each message is published to its own channel, then to its projection by each shape that is in use. What has to hold:
each message that the broker carries out after a shape was registered is projected by it, once, and projections keep the
order of their messages.

This follows from the order of one connection. It is subscribed to the channel on which new shapes are published (RESP3
lets it publish all the same), so the news of a shape stands among the replies exactly where the broker carried out the
registration. Messages whose reply came before it were carried out before it, and are not projected by it. Messages
whose reply is still to come were carried out after it: they are projected at once, before anything else is written.
What is written later is projected from the start. A publisher gets its answer when all of that is answered.

A message with an idempotency key and its projections are one command (`realizehit.broker.publish_script`). Projected at
once means for such a message: the command is sent again with the new projections, and publishes only these. A message
without a key whose channel has a log is also one command with its projections; new ones follow in a command of their
own.

While a bridge runs, nothing is projected here. Its beginning and its end are news as a shape is: what has no reply when
the news of its end comes was carried out after the end, and is projected once the bridge has published its last
projections, so that the order is kept. Until then nothing is sent.

The connection also follows the rules of history, by the same control channel: `realizehit.broker.history.rules`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

import hiredis

from realizehit.broker.history.rules import CHANGED, Rules
from realizehit.broker.mode import mode_of, wrong_mode
from realizehit.broker.resp import CommandConnection, pack
from realizehit.broker.rules_reader import READ_RULES
from realizehit.broker.shapes.expected import Part, Reply
from realizehit.broker.shapes.projecting import ProjectingPipeline
from realizehit.broker.shapes.registry import (
    BRIDGE,
    BRIDGE_BEGINS,
    BRIDGE_DONE,
    BRIDGE_ENDS,
    BRIDGE_LAPSED,
    CONTROL,
    KEY,
    MOST_SHAPES,
    READ_INTERVAL,
    is_shape,
    read,
)
from realizehit.broker.shapes.rules_follower import RulesFollower
from realizehit.common.seldom import REMINDER, Seldom, more
from realizehit.errors import BrokerError, BrokerRefused

logger: Final = logging.getLogger(__name__)

_RULES_CHANGED: Final = CHANGED.encode()

PAUSE: Final = 1.0  # seconds to wait at most for the last projections of a bridge that ended


_RIGHTS: Final = (
    "to reach wildcard subscriptions a publisher needs the rights to HELLO, to SUBSCRIBE to "
    f"{CONTROL.decode()}, and to EVAL, TIME and ZRANGEBYSCORE with the key {KEY}: grant them, or publish without "
    "wildcards (--no-wildcards; in Python wildcards=False)"
)


class FollowingPipeline(ProjectingPipeline):
    """A `Pipeline` whose messages reach wildcard subscriptions.

    The outcome of a message is how often the broker handed it to a node: a node that subscribed to its channel and to a
    wildcard counts twice. A message of which the broker refused any part has that refusal as its outcome, though the
    other parts were published.

    The broker's user needs the rights to HELLO, EVAL, TIME and ZRANGEBYSCORE, to the registry's key, to subscribe to
    `CONTROL` and to publish to the channels of wildcards. Without them all that is published is refused: a message that
    went out without its projections would be missing for some subscribers, and nothing would tell them.

    Without the right to read the rules of history it publishes without logs, and says so in the log.

    Args:
        *args: those of `Pipeline`.
        project: whether messages are projected. Otherwise the registry is not read, and the user needs no further
        rights.
        read_interval: seconds between two reads of the registry, which forget what has lapsed, and of the rules.
        on_rules: told the rules of history: for each connection before anything is published, and after each change.
        **options: those of `Pipeline`.

    Attributes:
        registered: the shapes that are in use.
        shapes: those that messages are projected by at the moment: all of them, or none while a bridge does that.
    """

    def __init__(
        self,
        *args: Any,
        project: bool = True,
        read_interval: float = READ_INTERVAL,
        on_rules: Callable[[Rules], None] = lambda rules: None,
        **options: Any,
    ) -> None:
        self.projects = project
        super().__init__(*args, **options)
        self.registered: tuple[bytes, ...] = ()  # in the registry
        self._bridged = False  # a bridge runs, which projects by all of them
        self._pause: asyncio.TimerHandle | None = None  # while a bridge that ended publishes its last projections
        self._owed: list[tuple[list[Part], bytes]] = []  # projections that wait for that
        self._seldom = Seldom(REMINDER)
        self._read_interval = read_interval
        self._rules = RulesFollower(self._broker, self._script, self._errors, self._expected, on_rules)
        self._read_timer: asyncio.TimerHandle | None = None

    # ---- the connection

    async def prepare(self, connection: CommandConnection) -> BrokerError | None:
        """Subscribe to new shapes, then read those that there are, and the rules; nothing is published before."""
        self._forget()
        self._rules.begin()
        follow = self._follow if self.projects else self._rules.follow_alone
        failure = await follow(connection)
        if failure is None:
            await self._rules.read_run_id(connection)
            self._read_timer = connection.loop.call_later(self._read_interval, self._read_again)
        return failure

    async def _follow(self, connection: CommandConnection) -> BrokerError | None:
        followed: asyncio.Future[BrokerError | None] = connection.loop.create_future()

        def settle(error: BrokerError | None) -> None:
            if not followed.done():
                followed.set_result(error)

        def greeted(reply: Any) -> None:
            if isinstance(reply, hiredis.ReplyError):
                settle(self._cannot_follow(str(reply)))
            elif (error := wrong_mode(mode_of(reply), sharded=False)) is not None:
                settle(BrokerRefused(f"broker {self._broker}: {error}"))

        def has_read(reply: Any) -> None:
            # Where SUBSCRIBE is refused, its error stands here: what it answers otherwise is no reply.
            if followed.done():
                return
            if isinstance(reply, list):
                self._take_registry(connection, reply)
            else:
                settle(self._cannot_follow(str(reply)))

        def has_rules(reply: Any) -> None:
            if not followed.done():
                settle(self._rules.take_first(reply))

        self._expected.extend((Reply(greeted), Reply(has_read), Reply(has_rules)))
        connection.write(pack(("HELLO", "3")) + pack(("SUBSCRIBE", CONTROL)) + pack(read()) + pack(READ_RULES))
        connection.closed.add_done_callback(lambda closed: settle(self._errors.lost(closed.result())))
        return await followed

    def _cannot_follow(self, text: str) -> BrokerError:
        error = self._errors.of_reply(text)
        if isinstance(error, BrokerRefused):
            return BrokerRefused(f"{error}; {_RIGHTS}")
        return error

    def _fail_all(self, error: BrokerError) -> None:
        super()._fail_all(error)
        self._forget()

    def _forget(self) -> None:
        super()._forget()
        self.registered = ()
        self._bridged = False
        self._owed.clear()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    # ---- the registry

    def _read_again(self) -> None:
        self._read_timer = None
        connection = self._keeper.connection
        if connection is None:
            return

        if not self.projects:
            self._read_timer = connection.loop.call_later(self._read_interval, self._read_again)
            self._rules.read_now_and_then(connection)
            return

        def has_read(reply: Any) -> None:
            if isinstance(reply, list):
                self._take_registry(connection, reply)
            elif (left_out := self._seldom.passes("unreadable")) is not None:
                text = self._broker.scrub(str(reply))[:200]
                logger.warning(
                    "broker %s: the registry of shapes cannot be read: %s%s", self._broker, text, more(left_out)
                )
            self._read_timer = connection.loop.call_later(self._read_interval, self._read_again)

        self._expected.append(Reply(has_read))
        connection.write(pack(read()))
        self._rules.read_now_and_then(connection)

    def _take_registry(self, connection: CommandConnection, members: list[Any]) -> None:
        """Take what the registry holds, as of this place among the replies."""
        shapes = [member for member in members if is_shape(member)]
        bridged = BRIDGE in members
        if len(shapes) + bridged < len(members):
            self._ignore(len(members) - len(shapes) - bridged, "of the registry")
        if len(shapes) > MOST_SHAPES:
            self._ignore(len(shapes) - MOST_SHAPES, "beyond the bound")
            del shapes[MOST_SHAPES:]
        self.registered = tuple(shapes)
        self._apply(connection, bridged)

    def _apply(self, connection: CommandConnection, bridged: bool) -> None:
        """Project by the registered shapes from here on, or leave that to a bridge that has begun."""
        self._bridged = bridged
        before, self.shapes = self.shapes, () if bridged else self.registered
        self._catch_up(connection, [shape for shape in self.shapes if shape not in before])

    def _pushed(self, connection: CommandConnection, push: list[Any]) -> None:
        """Take a push, which is no reply: the news of a shape, or that the subscription is in force."""
        if push[:1] == [b"subscribe"]:
            self._rules.confirmed()
        if push[:1] != [b"message"]:
            return
        news: Any = push[2] if len(push) == 3 and push[1] == CONTROL else None
        if news == _RULES_CHANGED:
            self._rules.read(connection)
        elif not self.projects:
            pass  # the rest is about shapes
        elif news in (BRIDGE_BEGINS, BRIDGE_ENDS, BRIDGE_LAPSED, BRIDGE_DONE):
            self._take_bridge(connection, news)
        elif not is_shape(news) or (news not in self.registered and len(self.registered) >= MOST_SHAPES):
            self._ignore(1, "of the control channel")
        elif news not in self.registered:
            self.registered = (*self.registered, news)
            self._apply(connection, self._bridged)

    def _take_bridge(self, connection: CommandConnection, news: bytes) -> None:
        if news == BRIDGE_ENDS and self._pause is None:
            self._pause = connection.loop.call_later(PAUSE, self._go_on, connection)
        elif news != BRIDGE_ENDS:
            self._go_on(connection)
        if news != BRIDGE_DONE:
            self._apply(connection, news == BRIDGE_BEGINS)

    def _go_on(self, connection: CommandConnection) -> None:
        """Publish what waited until a bridge has published its last projections."""
        if self._pause is None:
            return
        self._pause.cancel()
        self._pause = None
        owed, self._owed = self._owed, []
        for owing, commands in owed:
            self._expected.extend(owing)
            connection.write(commands)
        self._send()

    def _send(self) -> None:
        if self._pause is not None:
            self._send_handle = None
            return
        super()._send()

    def _write_owed(self, connection: CommandConnection, owing: list[Part], commands: bytes) -> None:
        if self._pause is not None:
            self._owed.append((owing, commands))
        else:
            super()._write_owed(connection, owing, commands)

    def _ignore(self, count: int, where: str) -> None:
        """Count and log what cannot be a shape; anybody with access to the broker may have written it."""
        self.projected.malformed += count
        left_out = self._seldom.passes(where)
        if left_out is not None:
            logger.warning("broker %s: ignored %d shapes %s%s", self._broker, count, where, more(left_out))
