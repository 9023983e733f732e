"""The subscriber side of a broker: a connection that is kept up, and has exactly the channels that are wanted.

What is wanted, and what the broker was told, is in `channel_states`. This file connects, matches the two, and measures
gaps: from the time up to which everything published has certainly arrived, to when all channels are in force again.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from realizehit.broker.base import BROKER, Batch, BusListener, BusState, Interest, Source
from realizehit.broker.channel_states import ChannelStates
from realizehit.broker.connection import Command, SubscriberConnection
from realizehit.broker.link_settings import LinkSettings
from realizehit.broker.outage_log import OutageLog
from realizehit.broker.resp import TRANSIENT, code_of
from realizehit.broker.url import Address
from realizehit.common.backoff import Backoff
from realizehit.common.seldom import LOG_INTERVAL, Seldom, more
from realizehit.common.upkeep import Failures
from realizehit.errors import BrokerError, BrokerRefused, BrokerUnavailable

logger: Final = logging.getLogger(__name__)

GATHER: Final = 0.001  # seconds for which channels wait for others, or for the replies to the last commands


class Link:
    """Keep one subscriber connection to the broker, and on it exactly the channels that are wanted.

    After a reconnect everything wanted is subscribed again; ``listener.subscribed`` is called only for the channels
    that still wait for it. The listener learns of the interruption from ``state_changed``, and of its end,
    when everything is in force again, from ``restored``.

    Args:
        address: where the broker is.
        listener: told of everything that arrives.
        client_name: how the connection is called in the broker's ``CLIENT LIST``.
        settings: its times.
        source: how the listener knows this link.
        deliver: takes the publications in place of ``listener``, where others stand between the two: each call on the
            way of a read costs 0.07 us, which shows where a read has one message.
    """

    connection_type: type[SubscriberConnection] = SubscriberConnection

    def __init__(
        self,
        address: Address,
        listener: BusListener,
        *,
        client_name: str = "realizehit",
        settings: LinkSettings | None = None,
        source: Source = BROKER,
        deliver: Callable[[Batch], None] | None = None,
    ) -> None:
        self.state = BusState.CONNECTING
        self.connects = 0
        self._address = address
        self._listener = listener
        self._deliver = self._usual_deliver = deliver or listener.deliver
        self._client_name = client_name
        self._settings = settings or LinkSettings()
        self._source = source
        self._words = self.connection_type.words
        self._channels = ChannelStates(self)
        self._flush_handle: asyncio.Handle | None = None
        self._connection: SubscriberConnection | None = None  # only while it is ready
        self._place = ""  # where the connection leads
        self._up_since = 0.0  # of this connection
        self._task: asyncio.Task[None] | None = None
        self._earlier_messages = 0
        self._earlier_bytes = 0
        self._outages = OutageLog(address, self._settings.quiet_for)
        self._seldom = Seldom(LOG_INTERVAL)
        self._certain = 0.0  # of the connection before this one, or when the relay lost the broker
        self._relay_waits = False  # the relay has lost the broker and waits for it
        self._defects = Failures("the link to the broker")
        self._gap_since: float | None = None  # while what was in force is not so again

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

    def start_soon(self) -> None:
        """Keep trying in the background from the first attempt on, whatever is refused."""
        self._loop = asyncio.get_running_loop()
        tried = asyncio.Event()
        tried.set()
        self._task = self._loop.create_task(self._run(tried), name="realizehit broker link")

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

    def deliver_to(self, deliver: Callable[[Batch], None] | None) -> None:
        """Set what takes the publications from now on; None for what took them in the beginning."""
        self._deliver = deliver or self._usual_deliver

    def leave(self, place: str) -> None:
        """Learn that the broker is at ``place`` now; a connection to another one is given up."""
        if self._connection is not None and self._place != place:
            self._connection.drop(f"it is no longer the master, which is {place} now")

    # ---- what the node wants

    def subscribe(self, channel: Interest) -> bool:
        """Want a channel; True when it is in force already, else the listener will be told. See `Bus.subscribe`."""
        return self._channels.want(channel)

    def subscribe_all(self, channels: Iterable[Interest]) -> list[Interest]:
        """Want channels; return those that are in force already. See `Bus.subscribe_all`."""
        return self._channels.want_all(channels)

    def unsubscribe(self, channel: Interest) -> None:
        """Want a channel no longer. See `Bus.unsubscribe`."""
        self._channels.leave(channel)

    # ---- commands

    def commands_due(self) -> None:
        """Have what is due sent at the end of this loop turn, or a little later while replies are awaited.

        In a storm of connects each turn has a few channels; a command for each turn would cost more than the channels.
        """
        if self._flush_handle is None:
            if self._connection is not None and self._connection.channels_in_flight:
                self._flush_handle = self._loop.call_later(GATHER, self._flush)
            else:
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
        due = self._channels.take_due(connection.channels_in_flight)
        for subscribe, channels in due.batches():
            connection.send(self._words.subscribe if subscribe else self._words.unsubscribe, channels)
        connection.flush()

    # ---- what the channels report

    def in_force(self, channels: Sequence[Interest]) -> None:
        """Pass it on."""
        self._listener.all_subscribed(channels)

    def refused(self, channel: Interest, text: str) -> None:
        """Pass on that the broker refused a channel."""
        error = BrokerRefused(f"the broker refused channel {channel.decode('ascii', 'replace')}: {text}")
        self._listener.refused(channel, error)

    def recovered(self) -> None:
        """End the gap: all that had been in force is so again."""
        self._end_gap()

    # ---- what the connection reports

    def deliver(self, batch: Batch) -> None:
        """Pass on the publications of one read."""
        self._deliver(batch)

    def confirmed(self, kind: bytes, channels: Sequence[Interest]) -> None:
        """Take the replies to a command for channels."""
        self._channels.confirm(channels, subscribed=kind == self._words.subscribe)

    def failed(self, command: Command, text: str) -> None:
        """Take an error: it fails this command, and no channel that could have been subscribed without the others."""
        if command.kind == self._words.unsubscribe:
            # The channel may stay subscribed at the broker. That costs traffic and nothing else.
            if (left_out := self._seldom.passes("unsubscribe")) is not None:
                logger.warning("broker %s refused to unsubscribe: %s%s", self._address, text, more(left_out))
            self._channels.stay(command.channels)
        elif code_of(text) in TRANSIENT or code_of(text) == "NOAUTH":
            if self._connection is not None:
                self._connection.drop(text)
        elif len(command.channels) > 1:
            self._channels.take_apart(command.channels)
        else:
            self._channels.refuse(command.channels[0], text)

    def answered(self) -> None:
        """Send what waited for room in the window."""
        if self._channels.has_due:
            if self._flush_handle is not None:
                self._flush_handle.cancel()
            self._flush_handle = self._loop.call_soon(self._flush)

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
        self._channels.keep_for_relay()
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
        self._channels.confirm(self._channels.kept(), subscribed=True)
        if self._channels.has_due:
            self.commands_due()
        self._end_gap()

    def relay_refused(self, channel: Interest, text: str) -> None:
        """Give up a channel that waited for the relay."""
        if self._channels.is_kept(channel):
            self._channels.refuse(channel, text)

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
        self._channels.on_disconnected()
        self._set_state(BusState.DOWN)

    def _end_gap(self) -> None:
        if self._gap_since is None or self._channels.lapsed or self._relay_waits:
            return
        if self._connection is not None:
            seconds, self._gap_since = self._loop.time() - self._gap_since, None
            self._listener.restored(self._source, seconds)

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
            self._outages.trouble(self._address.scrub(str(error) or type(error).__name__), self._loop.time())
            if self._gap_since is None:  # it never was there: the listener learns of a beginning, so also of an end
                self._gap_since = self._loop.time()
            self._set_state(BusState.DOWN)
            tried.set()
            return False
        try:
            self._outages.trouble(await self._stay(connection, tried), self._loop.time())
        except BaseException:
            connection.drop("closed by this side")
            await connection.closed
            raise
        return True

    async def _open(self) -> SubscriberConnection:
        settings = self._settings
        connection = self.connection_type(
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
            self._channels.on_connected()
            self._set_state(BusState.UP)
            self._end_gap()
            self._outages.over(len(self._channels))
        tried.set()
        return await asyncio.shield(connection.closed)

    def _set_state(self, state: BusState) -> None:
        if self.state is not state and self.state is not BusState.CLOSED:
            self.state = state
            self._listener.state_changed(self._source, state)
