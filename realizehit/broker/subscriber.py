"""The subscriber side of a broker: which channels are wanted, and a connection kept up that has them.

The state of a channel, and everything that changes it, lives in this file. It is a handful of bits in a dict entry,
since there may be hundreds of thousands:

======= ==========================================================================================
WANTED  the node asked for it
ON      the last command sent for it was SUBSCRIBE
BUSY    that command is not answered yet; nothing else is sent for the channel until it is
WAITING the listener was promised a word when the channel is in force
QUEUED  it stands in the queue of channels to look at when the next commands go out
ALONE   a command of many channels that held it was refused, so it goes in one of its own
LAPSED  it was in force on an earlier connection, and has not been again
KEPT    a relay that lost the broker will see to it; it is BUSY until the relay says that all is in force again
======= ===========================================================================================

A channel is in force when it is WANTED and ON, not BUSY. When WANTED and ON differ and it is not BUSY, it is QUEUED,
and the next flush sends what makes them equal. A lost connection clears all but WANTED, WAITING and LAPSED, which it
sets where the channel was in force. Once there is a connection and no channel is LAPSED any more, all is restored.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Final

from realizehit.broker.base import BusListener, BusState
from realizehit.broker.connection import SUBSCRIBE, UNSUBSCRIBE, Command, SubscriberConnection
from realizehit.broker.resp import TRANSIENT, code_of
from realizehit.broker.url import Address
from realizehit.common.backoff import Backoff
from realizehit.common.seldom import LOG_INTERVAL, REMINDER, Seldom, more
from realizehit.common.upkeep import Failures
from realizehit.errors import BrokerError, BrokerRefused, BrokerUnavailable

logger = logging.getLogger(__name__)

WANTED: Final = 1
ON: Final = 2
BUSY: Final = 4
WAITING: Final = 8
QUEUED: Final = 16
ALONE: Final = 32
LAPSED: Final = 64
KEPT: Final = 128

BATCH: Final = 512  # channels in one command
WINDOW: Final = 16  # commands in flight; bounds what the broker must buffer in replies when everything is resubscribed


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """Times of a link, in seconds.

    A dead peer behind a live TCP connection is noticed after ``probe_after + probe_timeout`` and a little. A broker
    that is back is noticed within two seconds: the pause between two attempts is at most one, and an attempt to reach a
    host that swallows what it is sent ends before the system's third try, which would come after three.

    Attributes:
        probe_after: between two PINGs, which also bound what is counted too much as a gap.
        dial_timeout: for reaching the broker, TLS included.
        connect_timeout: for that and the login, which a broker that is busy may take its time for.
        quiet_for: of an outage, before anything is logged of it: where somebody else logs it at once.
    """

    dial_timeout: float = 2.0
    connect_timeout: float = 5.0
    probe_after: float = 1.0
    probe_timeout: float = 5.0
    backoff_first: float = 0.05
    backoff_most: float = 1.0
    quiet_for: float = 0.0


class Link:
    """Keep one subscriber connection to the broker, and on it exactly the channels that are wanted.

    After a reconnect everything wanted is subscribed again; ``listener.subscribed`` is called only for the channels
    that somebody is still waiting for. The listener learns of the interruption from ``state_changed``, and of its end,
    when everything is in force again, from ``restored``.

    Args:
        address: where the broker is.
        listener: told of everything that arrives.
        client_name: how the connection is called in the broker's ``CLIENT LIST``.
        settings: its times.
    """

    def __init__(
        self,
        address: Address,
        listener: BusListener,
        *,
        client_name: str = "realizehit",
        settings: LinkSettings | None = None,
    ) -> None:
        self.state = BusState.CONNECTING
        self.connects = 0
        self._address = address
        self._listener = listener
        self._client_name = client_name
        self._settings = settings or LinkSettings()
        self._channels: dict[bytes, int] = {}
        self._queue: deque[bytes] = deque()
        self._flush_handle: asyncio.Handle | None = None
        self._connection: SubscriberConnection | None = None  # only while it is ready
        self._place = ""  # where the connection leads
        self._up_since = 0.0  # of this connection
        self._task: asyncio.Task[None] | None = None
        self._earlier_messages = 0
        self._earlier_bytes = 0
        self._away_since: float | None = None
        self._told = ""  # the last trouble of this outage that was logged
        self._remind_at = 0.0
        self._seldom = Seldom(LOG_INTERVAL)
        self._lapsed = 0  # channels that are LAPSED
        self._certain = 0.0  # of the connection before this one, or when the relay lost the broker
        self._relay_waits = False  # the relay has lost the broker and waits for it
        self._defects = Failures("the link to the broker")
        self._gap_since: float | None = None  # while what was in force is not so again
        # The connection hands its batches straight to the listener: nothing of this class is on the way of a message.
        self.deliver = listener.deliver

    # ---- life

    async def start(self) -> None:
        """Make the first attempt to connect, then keep trying in the background.

        Raises:
            BrokerRefused: the credentials or the certificate were refused; nothing is kept running.
        """
        self._loop = asyncio.get_running_loop()
        tried = asyncio.Event()
        self._task = self._loop.create_task(self._run(tried), name="realizehit broker link")
        first = self._loop.create_task(tried.wait())
        try:
            await asyncio.wait({self._task, first}, return_when=asyncio.FIRST_COMPLETED)
            if self._task.done():
                await self._task  # raises what ended it
        except BaseException:
            await self.close()
            raise
        finally:
            first.cancel()

    async def close(self) -> None:
        """Disconnect and stop trying; calling it again does nothing."""
        self._set_state(BusState.CLOSED)
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    @property
    def messages_received(self) -> int:
        """Publications received so far."""
        return self._earlier_messages + (self._connection.messages_received if self._connection else 0)

    @property
    def bytes_received(self) -> int:
        """Bytes received so far."""
        return self._earlier_bytes + (self._connection.bytes_received if self._connection else 0)

    @property
    def reconnects(self) -> int:
        """How often the connection was made again after it was lost."""
        return max(0, self.connects - 1)

    @property
    def silence(self) -> float:
        """Seconds since the last certain sign of the broker. See `Bus.silence`."""
        here = self._connection is not None and not self._relay_waits
        certain = self._certain_of(self._connection) if here and self._connection else self._certain
        return self._loop.time() - certain

    def _certain_of(self, connection: SubscriberConnection) -> float:
        """The loop's time up to which everything that was published has certainly arrived.

        A broker that was demoted may go on answering, while what is published goes to its successor: so no later than
        it was confirmed to be the broker. What came before this connection belongs to the gap that it ended.
        """
        return min(connection.certain, max(self._address.confirmed(self._place), self._up_since))

    def leave(self, place: str) -> None:
        """Learn that the broker is at ``place`` now; a connection to another one is given up."""
        if self._connection is not None and self._place != place:
            self._connection.drop(f"it is no longer the master, which is {place} now")

    # ---- what the node wants

    def subscribe(self, channel: bytes) -> bool:
        """Want a channel; True when it is in force already, else the listener will be told. See `Bus.subscribe`."""
        flags = self._channels.get(channel, 0)
        if flags & (ON | BUSY) == ON:
            self._channels[channel] = flags | WANTED
            return True
        self._put(channel, flags | WANTED | WAITING)
        return False

    def unsubscribe(self, channel: bytes) -> None:
        """Want a channel no longer. See `Bus.unsubscribe`."""
        flags = self._channels.get(channel, 0)
        if flags & WANTED:
            self._put(channel, flags & ~(WANTED | WAITING | ALONE | LAPSED))
            self._recover(flags)

    def _put(self, channel: bytes, flags: int) -> None:
        """Store a channel's state, queue it where a command is due, forget it where nothing is left to say."""
        if not flags & (BUSY | QUEUED):
            if bool(flags & WANTED) == bool(flags & ON):
                if not flags & WANTED:
                    self._channels.pop(channel, None)
                    return
            elif self._connection is not None:
                flags |= QUEUED
                self._queue.append(channel)
                self._schedule_flush()
        self._channels[channel] = flags

    # ---- commands

    def _schedule_flush(self) -> None:
        if self._flush_handle is None:
            self._flush_handle = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send what is due, all of one loop turn together, as far as the window has room."""
        self._flush_handle = None
        connection = self._connection
        if connection is None or self._relay_waits:
            return
        try:
            self._send_due(connection)
        except Exception as error:  # noqa: BLE001 - what is half sent is settled by a new connection
            self._defects.note(error)
            connection.drop("sending commands failed")

    def _send_due(self, connection: SubscriberConnection) -> None:
        joining: list[bytes] = []
        leaving: list[bytes] = []
        room = (WINDOW - connection.in_flight) * BATCH
        while self._queue and room > 0:
            channel = self._queue.popleft()
            flags = self._channels.get(channel, 0) & ~QUEUED
            if not flags & (ON | BUSY | WANTED):
                self._channels.pop(channel, None)
            elif flags & (ON | BUSY | WANTED) == WANTED:
                self._channels[channel] = flags & ~ALONE | ON | BUSY
                if flags & ALONE:
                    connection.send(SUBSCRIBE, [channel])
                    room -= BATCH
                else:
                    joining.append(channel)
                    room -= 1
            elif flags & (ON | BUSY | WANTED) == ON:
                self._channels[channel] = flags & ~ON | BUSY
                leaving.append(channel)
                room -= 1
            else:
                self._channels[channel] = flags
        for kind, channels in ((SUBSCRIBE, joining), (UNSUBSCRIBE, leaving)):
            for start in range(0, len(channels), BATCH):
                connection.send(kind, channels[start : start + BATCH])
        connection.flush()

    # ---- what the connection reports

    def confirmed(self, kind: bytes, channel: bytes) -> None:
        """Take the reply to a command for one channel."""
        flags = self._channels[channel] & ~(BUSY | KEPT)
        in_force = kind == SUBSCRIBE and flags & WANTED
        tell = in_force and flags & WAITING
        self._put(channel, flags & ~(WAITING | LAPSED) if in_force else flags)
        if tell:
            self._listener.subscribed(channel)
        if in_force:
            self._recover(flags)

    def failed(self, command: Command, text: str) -> None:
        """Take an error: it fails this command, and no channel that could have been subscribed without the others."""
        if command.kind == UNSUBSCRIBE:
            # The channel may stay subscribed at the broker. That costs traffic and nothing else.
            if (left_out := self._seldom.passes("unsubscribe")) is not None:
                logger.warning("broker %s refused to unsubscribe: %s%s", self._address, text, more(left_out))
            for channel in command.channels:
                self._put(channel, self._channels[channel] & ~BUSY)
        elif code_of(text) in TRANSIENT or code_of(text) == "NOAUTH":
            if self._connection is not None:
                self._connection.drop(text)
        elif len(command.channels) > 1:
            for channel in command.channels:
                flags = self._channels[channel] & ~(ON | BUSY)
                self._put(channel, flags | ALONE if flags & WANTED else flags)
        else:
            self._refused(command.channels[0], text)

    def _refused(self, channel: bytes, text: str) -> None:
        flags = self._channels.pop(channel)
        if flags & WANTED:
            error = BrokerRefused(f"the broker refused channel {channel.decode('ascii', 'replace')}: {text}")
            self._listener.refused(channel, error)
        self._recover(flags)

    def answered(self) -> None:
        """Send what waited for room in the window."""
        if self._queue:
            self._schedule_flush()

    def relay_lost_broker(self) -> bool:
        """Have all that is in force wait for the relay, which will subscribe to it again."""
        connection = self._connection
        if connection is None:
            return False
        if not self._relay_waits:
            self._certain = self._certain_of(connection)
        self._relay_waits = True
        if self._gap_since is None:
            self._gap_since = self._certain
        for channel, flags in self._channels.items():
            if flags & (ON | BUSY) == ON:
                self._channels[channel] = flags | BUSY | KEPT | (LAPSED if flags & WANTED else 0)
        self._lapsed = sum(1 for flags in self._channels.values() if flags & LAPSED)
        self._set_state(BusState.DOWN)
        return True

    def relay_has_broker(self) -> None:
        """Take all that waited for the relay as confirmed."""
        if not self._relay_waits:
            return
        self._relay_waits = False
        self._up_since = self._loop.time()
        self.connects += 1
        self._set_state(BusState.UP)
        for channel in [channel for channel, flags in self._channels.items() if flags & KEPT]:
            self.confirmed(SUBSCRIBE, channel)
        if self._queue:
            self._schedule_flush()
        self._end_gap()

    def relay_refused(self, channel: bytes, text: str) -> None:
        """Give up a channel that waited for the relay."""
        if self._channels.get(channel, 0) & KEPT:
            self._refused(channel, text)

    def disconnected(self) -> None:
        """Forget what was known of the broker; what is wanted stays wanted."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._earlier_messages += connection.messages_received
            self._earlier_bytes += connection.bytes_received
            if not self._relay_waits:
                self._certain = self._certain_of(connection)
        self._relay_waits = False
        if self._gap_since is None:
            # One that was lost before it served at all: the listener learns of a beginning, so also of an end.
            self._gap_since = self._loop.time() if connection is None else self._certain
        self._queue.clear()
        self._channels = {name: _after_loss(flags) for name, flags in self._channels.items() if flags & WANTED}
        self._lapsed = sum(1 for flags in self._channels.values() if flags & LAPSED)
        self._set_state(BusState.DOWN)

    def _recover(self, flags: int) -> None:
        """Count a channel that had these flags and is not LAPSED any more; the last one ends the gap."""
        if flags & LAPSED:
            self._lapsed -= 1
            self._end_gap()

    def _end_gap(self) -> None:
        if self._gap_since is None or self._lapsed or self._relay_waits:
            return
        if self._connection is not None:
            seconds, self._gap_since = self._loop.time() - self._gap_since, None
            self._listener.restored(seconds)

    # ---- keeping a connection

    async def _run(self, tried: asyncio.Event) -> None:
        settings = self._settings
        backoff = Backoff(settings.backoff_first, settings.backoff_most)
        while True:
            began = self._loop.time()
            try:
                if await self._live(tried) and self._loop.time() - began > settings.backoff_most:
                    backoff.reset()
            except Exception as error:
                if not tried.is_set():
                    raise
                self._defects.note(error)
            await asyncio.sleep(backoff.next())

    async def _live(self, tried: asyncio.Event) -> bool:
        """Connect, and use the connection until it is lost; False where there was none."""
        try:
            connection = await self._open()
        except (BrokerError, OSError) as error:  # TimeoutError is an OSError
            if not tried.is_set() and isinstance(error, BrokerRefused):
                raise
            self._report(self._address.scrub(str(error) or type(error).__name__))
            if self._gap_since is None:  # it never was there: the listener learns of a beginning, so also of an end
                self._gap_since = self._loop.time()
            self._set_state(BusState.DOWN)
            tried.set()
            return False
        try:
            self._report(await self._stay(connection, tried))
        except BaseException:
            connection.drop("closed by this side")
            await connection.closed
            raise
        return True

    async def _open(self) -> SubscriberConnection:
        settings = self._settings
        connection = SubscriberConnection(
            self, self._address.login(), self._client_name, settings.probe_after, settings.probe_timeout
        )
        try:
            async with asyncio.timeout(settings.connect_timeout):
                async with asyncio.timeout(settings.dial_timeout):
                    self._place = await self._address.connect(lambda: connection)
                await connection.ready
        except TimeoutError:
            connection.drop("no answer in time")
            raise BrokerUnavailable("no answer in time") from None
        except ssl.SSLCertVerificationError as error:
            raise BrokerRefused(f"broker {self._address}: its certificate is not accepted: {error}") from None
        except BrokerRefused as error:
            text = self._address.scrub(str(error))
            raise BrokerRefused(f"broker {self._address} refused the login: {text}") from None
        except BaseException:
            connection.drop("given up")
            raise
        return connection

    async def _stay(self, connection: SubscriberConnection, tried: asyncio.Event) -> str:
        """Use a connection until it is lost; the reason why it was."""
        if not connection.closed.done():  # else it was lost before this task had its turn
            self._connection = connection
            self._up_since = self._loop.time()
            self.connects += 1
            self._queue.extend(self._channels)
            if self._queue:
                self._schedule_flush()
            self._set_state(BusState.UP)
            self._end_gap()
            self._away_since = None
            if self._told:
                logger.info("broker %s is back, %d channels to subscribe again", self._address, len(self._channels))
                self._told = ""
        tried.set()
        return await asyncio.shield(connection.closed)

    def _set_state(self, state: BusState) -> None:
        if self.state is not state and self.state is not BusState.CLOSED:
            self.state = state
            self._listener.state_changed(state)

    def _report(self, trouble: str) -> None:
        """Log an outage once, another cause of it and one that comes again now and then, and one that lasts."""
        now = self._loop.time()
        if self._away_since is None:
            self._away_since = now
        seconds = now - self._away_since
        level, left_out = logging.WARNING, 0
        if self._told and now >= self._remind_at:
            self._remind_at = now + REMINDER
        elif seconds < self._settings.quiet_for or trouble == self._told:
            level = logging.DEBUG
        else:
            passes = self._seldom.passes("another cause" if self._told else "away")
            level, left_out = (logging.DEBUG, 0) if passes is None else (logging.WARNING, passes)
        lasts = f" for {seconds:.0f} s" if seconds >= LOG_INTERVAL else ""
        logger.log(level, "broker %s is away%s: %s; trying again%s", self._address, lasts, trouble, more(left_out))
        if level == logging.WARNING:
            if not self._told:
                self._remind_at = now + REMINDER
            self._told = trouble


def _after_loss(flags: int) -> int:
    """Return what is left of a channel's flags when its connection is lost."""
    lapsed = flags & LAPSED or (LAPSED if flags & (ON | BUSY) == ON else 0)
    return flags & (WANTED | WAITING) | lapsed
