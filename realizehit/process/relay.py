"""One subscription for all workers of a host: takes each message from the broker once and hands it on.

With a subscription for each worker the broker sends every message of a busy channel as many times as there are workers.
The relay stands between: to the broker it is one subscriber, to the workers it is a broker on a Unix socket, as far as
subscribing goes. It is made of the same parts as a node, an engine, a hub and a bus; only the framing is RESP.

When the broker goes the workers are told. They keep their connections, and the relay keeps their subscriptions: when
the broker is back only the relay has to subscribe again, and not each worker through it. Then they are told that too.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, cast

import hiredis

from realizehit import _fanout
from realizehit.broker.base import BusState, Interest, Source
from realizehit.broker.open import open_bus
from realizehit.broker.private_directory import MAX_SOCKET_PATH
from realizehit.broker.resp import BACK, LOST, REFUSED
from realizehit.common.seldom import LOG_INTERVAL, Seldom, more
from realizehit.common.upkeep import Ticker
from realizehit.errors import BrokerError, ErrorCode, SettingsError
from realizehit.node.history_request import Started
from realizehit.node.hub import Hub
from realizehit.pattern import Channel
from realizehit.transports.handover import adopt

logger: Final = logging.getLogger(__name__)

MAX_QUEUE_BYTES: Final = 64 << 20  # that may wait for a worker; a worker that is further behind has to reconnect
TICK: Final = 1.0  # seconds
CONFIRM_TIMEOUT: Final = 60.0  # seconds; the link to the broker notices earlier that something is wrong

_NO_MORE: Final = object()  # what the reader says when no whole command is left


class Relay:
    """Serves the workers of one host, as an asynchronous context.

    Args:
        broker_url: the broker.
        path: the Unix socket to listen on; its directory must be closed to other users.

    Raises:
        BrokerError: at the start: the broker's address or credentials can never work.
        SettingsError: the path is too long for a socket.
    """

    def __init__(self, broker_url: str, path: Path) -> None:
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            raise SettingsError(
                f"the relay of the workers cannot listen on {path}: this is over {MAX_SOCKET_PATH} bytes, "
                "too long for a Unix socket; set TMPDIR to a shorter path, or use --relay off"
            )
        self._path = path
        self._bus = open_bus(broker_url, client_name="realizehit-relay", project=False)

    @property
    def url(self) -> str:
        """The URL for the workers to subscribe at."""
        return f"unix://{self._path}"

    async def __aenter__(self) -> Self:
        self._loop = loop = asyncio.get_running_loop()
        self._engine = engine = _fanout.Engine(
            loop.call_soon,
            lambda error: loop.call_exception_handler({"message": "the relay failed", "exception": error}),
            max_queue_bytes=MAX_QUEUE_BYTES,
            max_queue_messages=_fanout.MAX_QUEUE_MESSAGES,
            check_utf8=False,
        )
        self._hub = _RelayHub(engine, self._bus, loop=loop, relay=self)
        self._workers: dict[int, _Worker] = {}
        self._seldom = Seldom(LOG_INTERVAL)
        if engine.owns_sockets:
            loop.add_reader(engine.fileno(), engine.on_readable)
        self._ticker = Ticker("the relay's timer", lambda: self._hub.tick(loop.time()), interval=lambda: TICK)
        self._ticker.start()
        try:
            await self._bus.start(self._hub)
            self._server = await loop.create_unix_server(partial(_Door, self._open), self._path, backlog=1024)
        except BaseException:
            await self._release()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        await self._release()

    async def _release(self) -> None:
        self._ticker.stop()
        if self._engine.owns_sockets:
            self._loop.remove_reader(self._engine.fileno())
        self._engine.close()
        await self._bus.close()

    def stats(self) -> dict[str, int]:
        """Return the engine's counters; its connections are the workers."""
        return self._engine.stats()

    def _open(self, transport: asyncio.Transport) -> None:
        if self._bus.state is not BusState.UP:
            transport.abort()
            return
        try:
            handle = adopt(self._engine, transport, self, framing=_fanout.RESP)
        except OSError as error:
            if (left_out := self._seldom.passes("refused")) is not None:
                text = "a worker was refused: %s%s"
                logger.error(text, error.strerror, more(left_out))  # noqa: TRY400 - no traceback for a full table
            transport.abort()
            return
        self._workers[handle] = _Worker(self._engine, self._hub, handle)

    def broker_lost(self) -> None:
        """Tell the workers, whose own connections are fine, for how long the broker has been silent."""
        self._tell(LOST, f"{self._bus.silence:.3f}".encode())

    def broker_back(self) -> None:
        """Tell the workers that all they subscribed to is in force again."""
        self._tell(BACK)

    def channels_lost(self, channels: Collection[bytes]) -> None:
        """Tell the workers that have some of these channels that they are not in force any more, and since when."""
        seconds = f"{self._bus.silence:.3f}".encode()
        for handle, own in self._by_worker(channels).items():
            self._tell(LOST, seconds, *own, to=[handle])

    def channels_back(self, channels: Collection[bytes]) -> None:
        """Tell the workers that these channels are in force again."""
        for handle, own in self._by_worker(channels).items():
            self._tell(BACK, *own, to=[handle])

    def _by_worker(self, channels: Collection[bytes]) -> dict[int, list[bytes]]:
        found: dict[int, list[bytes]] = {}
        for channel in channels:
            for handle in self._engine.subscriber_handles(channel):
                found.setdefault(handle, []).append(channel)
        return found

    def channel_refused(self, channel: bytes) -> None:
        """Take the workers out of a channel that they had and the broker does not allow any more."""
        text = b"NOPERM the broker does not allow this channel"
        had = [handle for handle in self._workers if self._engine.unsubscribe(handle, channel)]
        self._tell(REFUSED, channel, text, to=had)

    def turn_away(self) -> None:
        """End the connections of all workers."""
        for handle in list(self._workers):
            self._engine.disconnect(handle, 0)

    def _tell(self, *words: bytes, to: Iterable[int] | None = None) -> None:
        text = b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
        for handle in self._workers if to is None else to:
            self._engine.send_bytes(handle, text)

    def on_bytes(self, handle: int, data: bytes) -> None:
        """Take what a worker sent."""
        try:
            self._workers[handle].feed(data)
        except (hiredis.HiredisError, TypeError, _CommandError) as error:  # TypeError: a map with a list as a key
            if (left_out := self._seldom.passes("no command")) is not None:
                text = "a worker sent an unknown command: %s%s"
                logger.error(text, error, more(left_out))  # noqa: TRY400 - the text says it all
            self._engine.disconnect(handle, 0)

    def on_gone(self, handle: int) -> None:
        """Forget a worker."""
        self._workers.pop(handle, None)

    def on_text(self, handle: int, data: bytes) -> None:
        """Never called: a worker sends no WebSocket frames."""

    def on_binary(self, handle: int, data: bytes) -> None:
        """Never called: a worker sends no WebSocket frames."""


class _RelayHub(Hub):
    """A hub whose subscribers are workers. It tells them when the broker is lost."""

    def __init__(
        self,
        engine: _fanout.Engine,
        bus: Any,
        *,
        loop: asyncio.AbstractEventLoop,
        relay: Relay,
    ) -> None:
        super().__init__(
            engine,
            bus,
            clock=loop.time,
            call_soon=loop.call_soon,
            subscribe_timeout=CONFIRM_TIMEOUT,
            max_subscriptions=0xFFFFFFFF,
            reserved=None,
            history=False,  # the workers number what they deliver by themselves, by the positions that pass here
        )
        self._relay = relay

    def state_changed(self, source: Source, state: BusState) -> None:
        super().state_changed(source, state)
        if state is BusState.DOWN:
            self._relay.broker_lost()
        elif state is not BusState.UP:
            self._relay.turn_away()

    def refused(self, channel: Interest, error: BrokerError) -> None:
        super().refused(channel, error)  # answers those that wait; the others had it before the broker went
        self._relay.channel_refused(channel)

    def restored(self, source: Source, seconds: float, *, logged: bool = True) -> None:
        """Tell the workers, who measure the gap themselves, from what they were told at its beginning."""
        self.gaps.close(source)
        self._relay.broker_back()

    def lapsed(self, source: Source, channels: Collection[Interest]) -> None:
        super().lapsed(source, channels)
        self._relay.channels_lost(channels)

    def regained(self, source: Source, channels: Collection[Interest], seconds: float, *, logged: bool = True) -> None:
        """Tell the workers; see `restored`."""
        self.gaps.close(source)
        self._relay.channels_back(channels)


class _Door(asyncio.Protocol):
    """A worker's connection until the engine has it."""

    def __init__(self, opened: Callable[[asyncio.Transport], None]) -> None:
        self._opened = opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._opened(cast(asyncio.Transport, transport))


class _CommandError(Exception):
    """A worker sent what a worker never sends."""


class _Command:
    """A command whose reply is due once each of its channels has been answered."""

    __slots__ = ("channels", "left", "refused", "text")

    def __init__(self, channels: list[Channel]) -> None:
        self.channels = channels
        self.left = len(channels)
        self.refused = ""
        self.text = b""


class _Worker:
    """The commands of one worker, answered in their order as a broker does."""

    def __init__(self, engine: _fanout.Engine, hub: Hub, handle: int) -> None:
        self._engine = engine
        self._hub = hub
        self._handle = handle
        self._reader = hiredis.Reader(notEnoughData=_NO_MORE)
        self._commands: deque[_Command] = deque()

    def feed(self, data: bytes) -> None:
        self._reader.feed(data)
        for words in iter(self._reader.gets, _NO_MORE):
            if not isinstance(words, list) or not words or not all(isinstance(word, bytes) for word in words):
                raise _CommandError(repr(words)[:100])
            self._take(words[0].lower(), [Channel(word) for word in words[1:]])
        self._reply()

    def _take(self, name: bytes, arguments: list[Channel]) -> None:
        command = _Command(arguments)
        self._commands.append(command)
        if name == b"subscribe":
            for channel in arguments:
                self._hub.subscribe(self._handle, channel, partial(self._answered, command))
            return
        command.left = 0
        if name == b"unsubscribe":
            for channel in arguments:
                self._hub.unsubscribe(self._handle, channel)
            command.text = _confirmations(b"unsubscribe", arguments)
        elif name in (b"client", b"hello", b"ping"):
            command.text = b"+OK\r\n"
        else:
            raise _CommandError(repr(name)[:100])

    def _answered(self, command: _Command, code: ErrorCode | None, text: str, started: Started) -> None:
        command.left -= 1
        if code is ErrorCode.UNAVAILABLE:
            # No word of the broker for a minute: the worker begins anew, since "refused" would not be true.
            self._engine.disconnect(self._handle, 0)
            return
        if code is not None:
            command.refused = text
        if command.left:
            return
        if command.refused:
            # As a broker does: one channel that is refused fails the command. What of it was subscribed is left again.
            for channel in command.channels:
                self._hub.unsubscribe(self._handle, channel)
            command.text = f"-NOPERM {command.refused}\r\n".encode()
        else:
            command.text = _confirmations(b"subscribe", command.channels)
        self._reply()

    def _reply(self) -> None:
        texts = []
        while self._commands and self._commands[0].left == 0:
            texts.append(self._commands.popleft().text)
        if texts:
            self._engine.send_bytes(self._handle, b"".join(texts))


def _confirmations(kind: bytes, channels: Sequence[bytes]) -> bytes:
    return b"".join(
        [b"*3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n:1\r\n" % (len(kind), kind, len(channel), channel) for channel in channels]
    )
