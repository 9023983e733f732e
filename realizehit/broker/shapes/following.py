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
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import hiredis

from realizehit.broker.chunks import Chunk
from realizehit.broker.history.rules import CHANGED, Rules
from realizehit.broker.projections import projections_of, with_projections
from realizehit.broker.publication import Outcome
from realizehit.broker.publisher import Pipeline
from realizehit.broker.resp import CommandConnection, pack, pack_publish
from realizehit.broker.rules_reader import READ_RULES
from realizehit.broker.scripted_chunks import ScriptedChunk
from realizehit.broker.shapes.expected import Book, Part, Reply, ScriptedBook
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


class FollowingPipeline(Pipeline):
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
        self._expected: deque[Chunk | Reply | Part] = deque()  # a chunk stands for its messages, a reply for each
        self._rules = RulesFollower(self._broker, self._script, self._errors, self._expected, on_rules)
        self._books: dict[Chunk, Book] = {}
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
        self.shapes = self.registered = ()
        self._bridged = False
        self._owed.clear()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._expected.clear()
        self._books.clear()
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

    def _ignore(self, count: int, where: str) -> None:
        """Count and log what cannot be a shape; anybody with access to the broker may have written it."""
        self.projected.malformed += count
        left_out = self._seldom.passes(where)
        if left_out is not None:
            logger.warning("broker %s: ignored %d shapes %s%s", self._broker, count, where, more(left_out))

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
        if commands and self._pause is not None:
            self._owed.append((owing, b"".join(commands)))
        elif commands:
            self._expected.extend(owing)
            connection.write(b"".join(commands))

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

    # ---- the queue

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
