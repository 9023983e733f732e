"""The composition root: builds a node's parts, starts them, drains them.

`Node` is one process's server; `serve` runs one inside an event loop, for tests and for embedding; `run` is a whole
process that ends on a signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import uvloop
from starlette.routing import Route

from realizehit import _fanout, console, logs
from realizehit.access.gate import Gate
from realizehit.api import create_app
from realizehit.bus.embedded import EmbeddedValkey
from realizehit.bus.link import LinkSettings
from realizehit.bus.open import open_bus
from realizehit.errors import CloseCode
from realizehit.figures import STATS_CHANNEL, Figures
from realizehit.hub import Hub
from realizehit.listener import Listener
from realizehit.listening import api_url, bind, tls_context, unix_socket, ws_url
from realizehit.metrics import Metrics
from realizehit.settings import Settings
from realizehit.transports.engineio import EngineIO
from realizehit.transports.guard import Guard
from realizehit.transports.room import Room
from realizehit.transports.session import DRAIN_REASON, ActionSession
from realizehit.transports.sse import RETRY, SSE_PATH, EventStreams
from realizehit.transports.websocket import WS_PATH, WebSocketTransport

logger: Final = logging.getLogger(__name__)

CLOSE_TIMEOUT: Final = 5.0  # seconds for a client to end the connection after the server's close frame
RELAY_BACKOFF: Final = 0.5  # seconds between attempts to reach the relay, at most
IDLE_GRACE: Final = (
    1.0  # seconds in a drain for one more request on an HTTP connection, whose answer says it is the last
)
DRAIN_STEP: Final = 0.05  # seconds between two groups of clients that are sent away, at least


class Node:
    """One process that serves clients, publishers, or both.

    Args:
        settings: what to serve and where.
        broker_url: the broker; what ``settings.redis`` says is not looked at.
        relay_url: where to subscribe instead, when a relay of this host does so for all its workers.
        reuse_port: whether other processes listen on the same ports.
        unix: a bound Unix socket to listen on as well.
        epoll: false to leave every connection with its asyncio transport, as on platforms without epoll.
    """

    def __init__(
        self,
        settings: Settings,
        broker_url: str,
        *,
        relay_url: str | None = None,
        reuse_port: bool = False,
        unix: socket.socket | None = None,
        epoll: bool = True,
    ) -> None:
        self.settings = settings
        self.draining = False
        self.room = Room()
        self.websocket: WebSocketTransport | None = None
        self.engineio: EngineIO | None = None
        self.streams: EventStreams | None = None
        self._broker_url = broker_url
        self._relay_url = relay_url
        self._reuse_port = reuse_port
        self._unix = unix
        self._epoll = epoll
        self._listener: Listener | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._figures: asyncio.Task[None] | None = None
        self._reload: asyncio.Task[None] | None = None
        self._ports: dict[str, int] = {}

    @property
    def ws_url(self) -> str:
        """Address for WebSocket clients, on the interface that the node listens on."""
        return ws_url(self.settings, self._ports["ws"])

    @property
    def api_url(self) -> str:
        """Address for publishers, on the interface that the node listens on."""
        return api_url(self.settings, self._ports["api"])

    async def start(self) -> None:
        """Connect to the broker and listen.

        Raises:
            BrokerError: the broker's address or credentials can never work.
            SettingsError: a port cannot be listened on; a file about access or the certificate cannot be used.
        """
        settings = self.settings
        loop = self._loop = asyncio.get_running_loop()
        self._tls = tls_context(settings)
        logs.guard_libraries()
        gate = Gate(settings, clock=loop.time, connected=lambda: self.engine.stats()["connections"])
        self.engine = _fanout.Engine(
            loop.call_soon,
            self._callback_failed,
            max_queue_bytes=settings.max_queue_bytes,
            max_queue_messages=settings.max_queue_messages,
            max_message=settings.max_message_bytes,
            heartbeat_interval=settings.heartbeat_interval,
            heartbeat_timeout=settings.heartbeat_timeout,
            close_timeout=CLOSE_TIMEOUT,
            loop_fd=_waits_on(loop),
            epoll=self._epoll,
        )
        self.bus = open_bus(
            self._broker_url,
            subscribe_url=self._relay_url,
            publish_timeout=settings.publish_timeout,
            # A relay is a neighbour: there is no crowd to be gentle with when it takes workers again.
            link=LinkSettings(backoff_most=RELAY_BACKOFF) if self._relay_url else None,
        )
        self.hub = Hub(
            self.engine,
            self.bus,
            clock=loop.time,
            call_soon=loop.call_soon,
            subscribe_timeout=settings.subscribe_timeout,
            max_subscriptions=settings.max_subscriptions,
            max_channels=settings.max_channels,
            limited=gate.count,
            reserved=(STATS_CHANNEL,) if settings.console else (),
        )
        self.guard = Guard(self.engine, self.hub, gate)
        transports: list[Route] = []
        if settings.role != "api":
            transports = self._open_transports()
        try:
            await self.bus.start(None if settings.role == "api" else self.hub)
            metrics = Metrics(engine_stats=self.engine.stats if self.websocket else None, bus=self.bus, gate=gate)
            app = create_app(
                self.bus,
                settings,
                metrics=metrics,
                draining=lambda: self.draining,
                publish=settings.role != "ws",
                gate=gate,
                transports=transports,
                more=console.routes(settings, lambda: self._ports["ws"]) if settings.console and transports else (),
            )
            if self.engine.owns_sockets:
                loop.add_reader(self.engine.fileno(), self.engine.poll)
            self._tick()
            self._listener = Listener(app, settings, self.guard, self.room, lambda: self.draining)
            await self._listen(self._listener)
            if settings.console:
                figures = Figures(
                    self.engine, self.bus, role=settings.role, published=lambda: metrics.outcomes["queued"]
                )
                self._figures = asyncio.create_task(figures.run(), name="realizehit figures")
                self._figures.add_done_callback(self._figures_ended)
        except BaseException:
            await self.close()
            raise

    def _open_transports(self) -> list[Route]:
        """Build what serves clients, and return the routes of what of it is HTTP."""
        settings = self.settings
        session = ActionSession(self.engine, self.hub, self.guard)
        self.engineio = EngineIO(
            self.engine,
            session,
            max_message=settings.max_message_bytes,
            ping_interval=settings.heartbeat_interval,
            ping_timeout=settings.heartbeat_timeout,
            draining=lambda: self.draining,
            guard=self.guard,
        )
        self.websocket = WebSocketTransport(
            self.engine,
            session,
            max_message=settings.max_message_bytes,
            draining=lambda: self.draining,
            compress=settings.compress,
            engineio=self.engineio,
            guard=self.guard,
            room=self.room,
        )
        self.streams = EventStreams(self.engine, self.hub, guard=self.guard, draining=lambda: self.draining)
        return [Route(path, self.engineio) for path in (WS_PATH, WS_PATH + "/")] + [Route(SSE_PATH, self.streams)]

    def reload(self) -> None:
        """Read the files of grants, keys and tokens anew; what is no longer granted ends in the loop's next turns."""
        self._reload = self.guard.reload() or self._reload

    async def drain(self) -> None:
        """Send the clients away, spread evenly over ``drain_seconds``, and take no new ones meanwhile.

        Each is closed with 4001 and a delay of its own in the reason, so that they do not come back all at once. Once
        the last one has left, nothing is waited for but HTTP connections, for `IDLE_GRACE` at most: each answer says
        that it is its connection's last one, so that a load balancer that uses it again loses no request.
        """
        self.draining = True
        await self._end_figures()
        seconds = self.settings.drain_seconds
        handles = self.engine.handles()
        if handles:
            logger.info("draining: %d clients over %g s", len(handles), seconds)
        random.shuffle(handles)
        steps = min(max(1, round(seconds / DRAIN_STEP)), len(handles))
        began = self._loop.time()
        for step in range(steps):
            await asyncio.sleep(0)  # however late it is, others have their turn
            due = began + seconds * step / steps
            while (left := due - self._loop.time()) > 0 and self.engine.stats()["connections"]:
                await asyncio.sleep(min(left, DRAIN_STEP))
            left = max(0.0, began + seconds - self._loop.time())
            for handle in handles[step::steps]:
                delay = random.randint(0, max(1000, round(seconds * 1000)))  # noqa: S311 - no secret, a spread
                self._send_away(handle, delay, left)
        # Who connected in the meantime, and those whose close frame has yet to go out.
        for handle in self.engine.handles():
            self._send_away(handle, 0, 0.0)
        deadline = self._loop.time() + CLOSE_TIMEOUT
        while self.engine.stats()["closing"] and self._loop.time() < deadline:
            await asyncio.sleep(DRAIN_STEP / 5)
        grace = min(began + seconds, self._loop.time() + IDLE_GRACE)
        while self._listener is not None and self._listener.connections and self._loop.time() < grace:
            await asyncio.sleep(DRAIN_STEP / 5)

    def _send_away(self, handle: int, delay: int, left: float) -> None:
        if handle in self.hub.events.named:  # there is no close frame whose reason could say it
            # An EventSource would find this server until it is gone, and another in its place a little later.
            retry = round(left * 1000) + RETRY + delay // 5
            self.hub.events.send(handle, "drain", retry=retry, delay=delay)
        self.engine.disconnect(handle, CloseCode.DRAIN, DRAIN_REASON.format(milliseconds=delay))

    async def close(self) -> None:
        """Stop listening, leave the broker and end what is left; calling it again does nothing."""
        self.draining = True
        await self._end_figures()
        for transport in (self.engineio, self.streams):
            if transport is not None:
                transport.close()
        if self._listener is not None:
            await self._listener.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.engine.owns_sockets:
            self._loop.remove_reader(self.engine.fileno())
        self.engine.close()
        await self.bus.close()

    async def _end_figures(self) -> None:
        task, self._figures = self._figures, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _figures_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._callback_failed(error)

    async def _listen(self, listener: Listener) -> None:
        first, *other = self.settings.listens
        port = await self._bind(listener, first, self.websocket)
        self._ports.update(ws=port, api=port)
        for listen in other:
            self._ports["api"] = await self._bind(listener, listen, None)
        if self._unix is not None:
            await listener.accept(self._unix, str(self.settings.unix_socket), self.websocket, None)

    async def _bind(self, listener: Listener, listen: tuple[str, int], websocket: WebSocketTransport | None) -> int:
        sock = bind(*listen, reuse_port=self._reuse_port)
        await listener.accept(sock, f"{listen[0]}:{listen[1]}", websocket, self._tls)
        return int(sock.getsockname()[1])

    def _tick(self) -> None:
        now = self._loop.time()
        self.engine.tick(now)
        self.hub.tick(now)
        self.guard.tick()
        self._timer = self._loop.call_later(min(self.engine.tick_interval, 0.25), self._tick)

    def _callback_failed(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": "a connection's callback failed", "exception": error})


def reloads(settings: Settings) -> bool:
    """Whether SIGHUP reads files anew; without any, it ends a server on a terminal, as closing that should."""
    return any((settings.grants, settings.keys, settings.jwt_key_file)) or not sys.stderr.isatty()


def _waits_on(loop: asyncio.AbstractEventLoop) -> int:
    """Return the descriptor that uvloop waits on, which shows whether anything waits for it; -1 for other loops."""
    backend = getattr(loop, "_get_backend_id", None)
    return -1 if backend is None else int(backend())


@asynccontextmanager
async def serve(settings: Settings, *, epoll: bool = True) -> AsyncIterator[Node]:
    """Run a node in this event loop, with an embedded Valkey where the settings name no broker.

    Raises:
        BrokerError, SettingsError: as `Node.start`.
    """
    with contextlib.ExitStack() as stack:
        url = settings.redis
        if url is None:
            embedded = EmbeddedValkey()
            # Starting and stopping a process takes a while; the loop goes on meanwhile.
            url = (await asyncio.to_thread(stack.enter_context, embedded)).url
        node = Node(settings, url, unix=stack.enter_context(unix_socket(settings.unix_socket)), epoll=epoll)
        await node.start()
        try:
            yield node
        finally:
            await node.close()


def run(
    settings: Settings,
    broker_url: str,
    *,
    relay_url: str | None = None,
    reuse_port: bool = False,
    unix: socket.socket | None = None,
    on_started: Callable[[Node], None] = lambda node: None,
    stop_fd: int | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, drain, and return; a second signal ends the drain. SIGHUP reads the files anew.

    Args:
        settings: what to serve and where.
        broker_url: the broker.
        relay_url: where to subscribe instead of at the broker.
        reuse_port: whether other processes listen on the same ports.
        unix: a bound Unix socket to listen on as well.
        on_started: called once the node listens.
        stop_fd: a descriptor whose end of file also means to stop, so that a worker does not outlive its parent.

    Raises:
        BrokerError, SettingsError: as `Node.start`.
    """

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stop, stop_now = asyncio.Event(), asyncio.Event()

        def on_signal() -> None:
            (stop_now if stop.is_set() else stop).set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        node = Node(settings, broker_url, relay_url=relay_url, reuse_port=reuse_port, unix=unix)
        await node.start()
        if reloads(settings):
            loop.add_signal_handler(signal.SIGHUP, node.reload)
        try:
            if stop_fd is not None:
                loop.add_reader(stop_fd, stop.set)
            on_started(node)
            # What exists now stays: the collector need not walk through it again and again.
            gc.collect()
            gc.freeze()
            await stop.wait()
            if stop_fd is not None:
                loop.remove_reader(stop_fd)
            await _first(node.drain(), stop_now.wait())
        finally:
            await node.close()

    # uvloop everywhere; the debug switch of asyncio is honoured.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop, debug=sys.flags.dev_mode) as runner:
        runner.run(main())


async def _first(*awaitables: Any) -> None:
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()
