"""One subscriber connection: commands out, replies matched to them, publications in batches.

The rules of this file. Commands are answered in their order, so a queue of what is in flight tells which command a
reply belongs to; a SUBSCRIBE of many channels is answered channel by channel, an error answers the whole command.
Messages are answers to nothing, as is what a relay says unasked. Anything else is garbage: the connection is dropped,
and no exception leaves a callback.

What arrives says little about the time: it may have waited at the broker, or on the way. But replies and messages come
in one order, so once a command is answered, all has arrived that was published before the command was sent. A PING
every now and then keeps that time recent, and tells at the same time whether the broker is there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol, cast

import hiredis

from realizehit.broker.base import Batch, Interest
from realizehit.broker.mode import mode_of, wrong_mode
from realizehit.broker.resp import BACK, LOGIN_NEEDED, LOST, REFUSED, code_of, login_error, pack
from realizehit.errors import BrokerUnavailable


class Words(NamedTuple):
    """How commands and messages are called: those of classic pub/sub, or of sharded pub/sub in a cluster."""

    subscribe: bytes
    unsubscribe: bytes
    message: bytes


CLASSIC: Final = Words(b"subscribe", b"unsubscribe", b"message")
SHARDED: Final = Words(b"ssubscribe", b"sunsubscribe", b"smessage")

SUBSCRIBE: Final = CLASSIC.subscribe
UNSUBSCRIBE: Final = CLASSIC.unsubscribe

_AUTH: Final = b"auth"
PING: Final = b"ping"
_HELLO: Final = b"hello"

_UNASKED: Final = (LOST, BACK, REFUSED)
_NO_MORE: Final = object()  # what the reader says when no whole reply is left

_LAST_LOOK: Final = 0.1
"""Seconds between the end of a probe and the verdict. A loop that was held up may run its timers before it reads what
has long arrived; this lets it read first."""


class Command:
    """A command whose reply is awaited since ``sent``; ``answered`` counts its channels that have one."""

    __slots__ = ("answered", "channels", "kind", "sent")

    def __init__(self, kind: bytes, sent: float, channels: Sequence[Interest] = ()) -> None:
        self.kind = kind
        self.sent = sent
        self.channels = channels
        self.answered = 0


class Owner(Protocol):
    """What a connection reports to. None of these may raise."""

    def deliver(self, batch: Batch) -> None:
        """Take the publications of one read."""

    def confirmed(self, kind: bytes, channels: Sequence[Interest]) -> None:
        """Learn that SUBSCRIBE or UNSUBSCRIBE took effect for channels."""

    def failed(self, command: Command, text: str) -> None:
        """Learn that the broker answered a SUBSCRIBE or UNSUBSCRIBE with an error."""

    def relay_lost_broker(self) -> bool:
        """Learn that the relay at the other side has lost the broker; false where that ends the connection."""

    def relay_has_broker(self) -> None:
        """Learn that the relay has the broker again, and all that was subscribed to when it was lost is in force."""

    def relay_refused(self, channel: Interest, text: str) -> None:
        """Learn that the broker does not allow a channel any more which was subscribed to when it was lost."""

    def answered(self) -> None:
        """Learn that all replies of one read have been reported; there may be room for more commands."""

    def disconnected(self) -> None:
        """Learn that the connection, which had been ready, is gone."""


class _GarbageError(Exception):
    """The broker sent what it cannot have meant."""


class SubscriberConnection(asyncio.Protocol):
    """The asyncio protocol of the subscriber connection, RESP2 over whatever transport.

    Args:
        owner: told of everything once the connection is ready.
        login: arguments of AUTH, an empty list for none.
        name: how the connection is called in the broker's ``CLIENT LIST``.
        probe_after: seconds between two PINGs.
        probe_timeout: seconds of silence after a PING, after which the broker counts as dead.

    Attributes:
        words: how its commands are called.
        ready: done when the login was accepted; fails with a `BrokerError` where it was not or the connection broke.
        closed: done when the connection is gone; its result says why.
        channels_in_flight: how many channels the commands have whose replies are awaited.
    """

    words = CLASSIC

    def __init__(self, owner: Owner, login: list[str], name: str, probe_after: float, probe_timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._owner = owner
        self._login = login
        self._name = name
        self._probe_after = probe_after
        self._probe_timeout = probe_timeout
        self._message = self.words.message
        self._reader = hiredis.Reader(notEnoughData=_NO_MORE)
        self._transport: asyncio.Transport | None = None
        self._in_flight: deque[Command] = deque()
        self._out: list[bytes] = []
        self._reason = ""
        self._last_read = 0.0
        self._certain = 0.0
        self._probed: float | None = None  # when the first PING was sent since something was read
        self._timer: asyncio.TimerHandle | None = None
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.closed: asyncio.Future[str] = self._loop.create_future()
        self.messages_received = 0
        self.bytes_received = 0
        self.channels_in_flight = 0

    # ---- out

    def send(self, kind: bytes, channels: Sequence[Interest]) -> None:
        """Put one SUBSCRIBE or UNSUBSCRIBE into the buffer that `flush` writes."""
        self.channels_in_flight += len(channels)
        self._out.append(pack((kind, *channels)))
        self._in_flight.append(Command(kind, self._loop.time(), channels))

    def flush(self) -> None:
        """Write what `send` gathered, with one call of the transport."""
        if self._transport is not None and self._out:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    @property
    def certain(self) -> float:
        """The loop's time up to which everything that was published has certainly arrived."""
        return self._certain

    def drop(self, reason: str) -> None:
        """End the connection now; what arrives from here on is not looked at."""
        if not self._reason:
            self._reason = reason
            if self._transport is not None:
                self._transport.abort()

    # ---- the transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Log in. The PING's reply, the last, says that everything before it was taken."""
        self._transport = cast(asyncio.Transport, transport)
        if self._login:
            self._command(_AUTH, *self._login)
        self._command(_HELLO, "2", "SETNAME", self._name)
        self._command(PING)
        self.flush()

    def _command(self, kind: bytes, *arguments: str) -> None:
        self._out.append(pack((kind, *arguments)))
        self._in_flight.append(Command(kind, self._loop.time()))

    def data_received(self, data: bytes) -> None:
        """Hand the publications of this read to the owner in one list, after the replies to commands.

        Replies go first, so that "in force" is reported before the first publication that it promises. A publication
        may then come after the confirmation that its channel is left, which does no harm.

        Cost: per publication one type check and one comparison; the triples are hiredis' own.
        """
        if self._reason:
            return
        self._last_read = self._loop.time()
        self._probed = None
        self.bytes_received += len(data)
        batch: list[Any] = []
        replies: list[Any] = []
        garbage = ""
        try:
            self._reader.feed(data)
            for reply in iter(self._reader.gets, _NO_MORE):
                if type(reply) is list and reply[0] == self._message:
                    batch.append(reply)
                else:
                    replies.append(reply)
        except (hiredis.HiredisError, IndexError, TypeError, UnicodeDecodeError) as error:  # TypeError: a list as a key
            garbage = f"it does not speak RESP: {error}"
        if replies:
            try:
                self._match_all(replies)
            except _GarbageError as error:
                garbage = str(error)
            self._owner.answered()
        if batch:
            self.messages_received += len(batch)
            try:
                self._owner.deliver(batch)
            except (IndexError, TypeError) as error:  # too few parts, or something else than text in them
                garbage = garbage or f"a malformed pub/sub message: {error}"
        if garbage:
            self.drop(garbage)

    def connection_lost(self, exc: Exception | None) -> None:
        """Settle both futures and tell the owner."""
        self._reason = self._reason or (str(exc) if exc else "the broker closed the connection")
        self._transport = None
        self._in_flight.clear()
        if self._timer is not None:
            self._timer.cancel()
        if not self.closed.done():
            self.closed.set_result(self._reason)
        if not self.ready.done():
            self.ready.set_exception(BrokerUnavailable(self._reason))
            self.ready.exception()  # marks it as retrieved, since nobody may be waiting for it any more
        elif not self.ready.cancelled() and self.ready.exception() is None:
            self._owner.disconnected()

    # ---- replies

    def _match_all(self, replies: list[Any]) -> None:
        start = 0
        while start < len(replies):
            confirmed = self._take_confirmations(replies, start)
            if not confirmed:
                self._match(replies[start])
            start += confirmed or 1

    def _take_confirmations(self, replies: list[Any], start: int) -> int:
        """Take the replies from one on that confirm channels of the oldest command; return how many these are."""
        command = self._in_flight[0] if self._in_flight else None
        if command is None or self._reason:
            return 0
        channels = command.channels[command.answered :]
        count = 0
        for channel, reply in zip(channels, replies[start : start + len(channels)], strict=False):
            if type(reply) is not list or len(reply) < 2 or reply[1] != channel or reply[0] != command.kind:
                break
            count += 1
        if count:
            command.answered += count
            if command.answered == len(command.channels):
                self._done(command)
            self._owner.confirmed(command.kind, channels[:count])
        return count

    def _match(self, reply: Any) -> None:
        if self._reason:
            return
        if type(reply) is list and reply[0] in _UNASKED:
            self._take_unasked(reply)
            return
        if not self._in_flight:
            raise _GarbageError(f"a reply that nothing asked for: {_excerpt(reply)}")
        command = self._in_flight[0]
        if isinstance(reply, hiredis.ReplyError):
            self._done(command)
            if command.channels:
                self._owner.failed(command, str(reply))
            elif not self.ready.done():
                self._login_failed(command.kind, str(reply))
        elif not command.channels:
            self._done(command)
            if command.kind == PING:
                self._logged_in()
            elif command.kind == _HELLO:
                self._greeted(reply)
        else:
            channel = command.channels[command.answered]
            if type(reply) is not list or reply[:2] != [command.kind, channel]:
                raise _GarbageError(f"not the reply to {command.kind.decode()} {channel!r}: {_excerpt(reply)}")
            command.answered += 1
            if command.answered == len(command.channels):
                self._done(command)
            self._owner.confirmed(command.kind, [channel])

    def _done(self, command: Command) -> None:
        self._in_flight.popleft()
        self.channels_in_flight -= len(command.channels)
        self._certain = command.sent

    def _greeted(self, reply: Any) -> None:
        """Refuse a broker of the other kind: classic pub/sub would send every message to all machines of a cluster."""
        if (error := wrong_mode(mode_of(reply), sharded=self.words is SHARDED)) and not self.ready.done():
            self.ready.set_exception(error)
            self.drop(str(error))

    def _take_unasked(self, words: list[Any]) -> None:
        """Take what only a relay says; see `realizehit.broker.resp`."""
        match words:
            case [b"lost", bytes(seconds)]:
                try:
                    self._certain = min(self._certain, self._last_read - float(seconds))
                except ValueError:
                    raise _GarbageError(f"not a time: {_excerpt(seconds)}") from None
                if not self._owner.relay_lost_broker():
                    self.drop("the relay has lost the broker")
            case [b"back"]:
                self._owner.relay_has_broker()
            case [b"refused", bytes(channel), bytes(text)]:
                self._owner.relay_refused(Interest(channel), text.decode("utf-8", "replace"))
            case _:
                raise _GarbageError(f"not what a relay says: {_excerpt(words)}")

    def _logged_in(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)
            self._timer = self._loop.call_later(self._probe_after, self._watch)

    def _login_failed(self, kind: bytes, text: str) -> None:
        code = code_of(text)
        if kind == _HELLO and code not in LOGIN_NEEDED:
            return  # a user without the right to name connections, or an old broker; little depends on it
        if kind == PING and code == "NOPERM":
            self._logged_in()
            return
        self.ready.set_exception(login_error(text, about_password=kind == _AUTH))
        self.drop(text)

    # ---- the probe

    def _watch(self) -> None:
        try:
            self._probe()
        except Exception as error:  # noqa: BLE001 - a new connection has a probe again; the link logs why it is made
            self.drop(f"the probe failed: {error!r}")

    def _probe(self) -> None:
        now = self._loop.time()
        due = now + self._probe_after
        if self._probed is not None:
            verdict = self._probed + self._probe_timeout
            if now >= verdict:
                self._timer = self._loop.call_later(_LAST_LOOK, self._judge)
                return
            due = min(due, verdict)
        if all(command.kind != PING for command in self._in_flight):
            self._command(PING)
            self.flush()
        if self._probed is None:
            self._probed = now
        self._timer = self._loop.call_at(due, self._watch)

    def _judge(self) -> None:
        if self._probed is None:
            self._watch()
        else:
            self.drop(f"it was silent for {self._loop.time() - self._last_read:.1f} seconds, a PING included")


def _excerpt(reply: Any) -> str:
    return repr(reply)[:100]
