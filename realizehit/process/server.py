"""The composition root: builds a node's parts, starts them, drains them.

`Node` is one process's server; `serve` runs one inside an event loop, for tests and for embedding.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.routing import Route

from realizehit.access.gate import Gate
from realizehit.broker.embedded import EmbeddedValkey
from realizehit.common.spans import open_spans
from realizehit.common.upkeep import Ticker, keep_up
from realizehit.http import console
from realizehit.http.api import create_app
from realizehit.http.listener import Listener
from realizehit.logs.lines import guard_own_loggers
from realizehit.node.deliver_spans import DeliverSpans
from realizehit.node.figures import STATS_CHANNEL, Figures
from realizehit.node.fleet import Fleet
from realizehit.node.history_figures import HistoryFigures
from realizehit.node.hub import Hub
from realizehit.node.metrics import Metrics
from realizehit.node.overview import FIGURES, Overview
from realizehit.node.presence import Presence
from realizehit.node.presence_metrics import PresenceMetrics
from realizehit.process.drain import DRAIN_STEP, Drain
from realizehit.process.history_rules import RulesWriter
from realizehit.process.other_workers import OtherWorkers
from realizehit.process.parts import make_bus, make_engine, make_fleet_bus
from realizehit.process.presence import make_presence, reload_rules
from realizehit.process.siblings import Place
from realizehit.process.sockets import api_url, bind_all, place_of, tls_context, unix_socket, ws_url
from realizehit.settings import Settings
from realizehit.transports.engineio.endpoint import EngineIO
from realizehit.transports.fd_reserve import FdReserve
from realizehit.transports.fleet_actions import FleetActions
from realizehit.transports.guard import Guard
from realizehit.transports.session import ActionSession
from realizehit.transports.sse import SSE_PATH, EventStreams
from realizehit.transports.websocket import WS_PATH, WebSocketTransport

logger: Final = logging.getLogger(__name__)

NO_LIMIT: Final = 2**32 - 1  # clients, of an engine without a limit
TICK: Final = 0.25  # seconds between two looks at what is due, at most
IDLE_GRACE: Final = (
    1.0  # seconds of a drain for one more request on an HTTP connection, whose answer says it is the last
)


class Node:
    """One process that serves clients, publishers, or both.

    Args:
        settings: what to serve and where.
        broker_url: the broker; what ``settings.redis`` says is not looked at.
        relay_url: where to subscribe instead, when a relay of this host does so for all its workers.
        reuse_port: whether other processes listen on the same ports.
        unix: a bound Unix socket to listen on as well.
        write_rules: whether to write the rules of history that the settings name to the broker; one process of several
            does.
        epoll: false to leave every connection with its asyncio transport, as on platforms without epoll.
        place: of this process, where it is one of several workers.

    Attributes:
        metrics: of this process.
        places: the addresses and ports that it listens on, ``127.0.0.1:8080`` or ``[::1]:8080``.
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
        write_rules: bool = True,
        place: Place | None = None,
    ) -> None:
        self.settings = settings
        self._draining = False
        self.fd_reserve = FdReserve()
        self.websocket: WebSocketTransport | None = None
        self.engineio: EngineIO | None = None
        self.streams: EventStreams | None = None
        self._number = None if place is None else place.number
        self._workers = None if place is None else OtherWorkers(place, settings)
        self._broker_url = broker_url
        self._relay_url = relay_url
        self._reuse_port = reuse_port
        self._unix = unix
        self._epoll = epoll
        self._listener: Listener | None = None
        self._ticker: Ticker | None = None
        self._name = secrets.token_hex(4)  # in the figures, and among the processes of the deployment
        self._fleet: Fleet | None = None
        self.presence: Presence | None = None
        self._figures: asyncio.Task[None] | None = None
        self._reload: asyncio.Task[None] | None = None
        self._rules = (
            RulesWriter(broker_url, settings.history) if write_rules and settings.history is not None else None
        )
        self._ports: dict[str, int] = {}
        self.places: list[str] = []

    @property
    def draining(self) -> bool:
        """Whether the node takes no new clients."""
        return self._draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._draining = draining
        # The engine uses verdicts up to this number. Where it is for several workers, the gate looks at each client.
        self.engine.room = 0 if draining else self.settings.max_connections or NO_LIMIT

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
        guard_own_loggers()
        gate = Gate(
            settings,
            clock=loop.time,
            connected=lambda: self.engine.clients,
            shared=None if self._workers is None else self._workers.limits,
        )
        self.engine = make_engine(settings, loop, self._callback_failed, epoll=self._epoll)
        self.draining = False
        self.bus = make_bus(settings, self._broker_url, self._relay_url)
        presence = self.presence = make_presence(settings, self.engine, self.bus, gate, loop.time)
        self.hub = Hub(
            self.engine,
            self.bus,
            clock=loop.time,
            call_soon=loop.call_soon,
            call_later=loop.call_later,
            subscribe_timeout=settings.subscribe_timeout,
            max_subscriptions=settings.max_subscriptions,
            max_channels=settings.max_channels,
            limited=gate.refusals.count,
            reserved=(STATS_CHANNEL,) if settings.console else (),
            presence=presence,
        )
        self.guard = Guard(self.engine, self.hub, gate)
        self._drain = Drain(self.engine, self.hub, settings.drain_seconds)
        transports: list[Route] = []
        if settings.role != "api":
            transports = self._open_transports()
        try:
            if self._rules is not None:
                await self._rules.start()
            await self.bus.start(None if settings.role == "api" else self.hub)
            if presence is not None:
                presence.start()
            metrics = self.metrics = Metrics(
                engine_stats=self.engine.stats if self.websocket else None,
                bus=self.bus,
                gate=gate,
                logs=self.hub.logs if self.websocket else None,
                gap_events=(lambda: self.hub.gaps.told) if self.websocket else None,
                presence=None if presence is None else PresenceMetrics(presence.members, presence.counts),
            )
            if settings.tracing:
                self._follow_traces()
            figures = Figures(
                self.engine,
                self.bus,
                HistoryFigures(self.engine, self.bus, self.hub),
                node=self._name,
                role=settings.role,
                published=lambda: metrics.outcomes["queued"],
                publishes=settings.console,
                worker=self._number,
            )
            self._fleet = await self._join_fleet(figures)
            overview = Overview(self._fleet, figures.take)
            app = create_app(
                self.bus,
                settings,
                metrics=metrics,
                server_metrics=None if self._workers is None else self._workers.metrics,
                draining=lambda: self.draining,
                publish=settings.role != "ws",
                subscribers=self.engine.subscribers if transports else None,
                gate=gate,
                fleet=self._fleet,
                overview=overview,
                presence=presence,
                transports=transports,
                more=console.routes(settings, lambda: self._ports["ws"], gate.refusals.log, overview)
                if settings.console and transports
                else (),
            )
            if self.engine.owns_sockets:
                loop.add_reader(self.engine.fileno(), self.engine.on_readable)
            if self._workers is not None:
                await self._workers.start(self.engineio)
            self._ticker = self._start_ticking()
            self._listener = Listener(
                app, settings, self.guard, self.fd_reserve, lambda: self.draining, engine=self.engine
            )
            await self._listen(self._listener)
            if self._workers is not None:
                self._workers.take_connections(self._listener.serve)
            publishing = keep_up("publishing the figures of this node", figures.run)
            self._figures = asyncio.create_task(publishing, name="realizehit figures")
        except BaseException:
            await self.close()
            raise

    async def _join_fleet(self, figures: Figures) -> Fleet:
        """Answer the questions of other processes of the deployment, and ask them."""
        actions = FleetActions(self.engine, self.hub, self.guard, self.reload)
        own = make_fleet_bus(self._broker_url)
        fleet = Fleet(self.bus, own, self._name, {FIGURES: figures.answer, **actions.handlers}, figures.about())
        await fleet.start()
        return fleet

    def _open_transports(self) -> list[Route]:
        """Build what serves clients, and return the routes of what of it is HTTP."""
        settings = self.settings
        session = ActionSession(self.engine, self.hub, self.guard, wildcards=settings.wildcards)
        self.engineio = EngineIO(
            self.engine,
            session,
            max_message=settings.max_message_bytes,
            ping_interval=settings.heartbeat_interval,
            ping_timeout=settings.heartbeat_timeout,
            draining=lambda: self.draining,
            guard=self.guard,
            passing=None if self._workers is None else self._workers.passing,
        )
        self.websocket = WebSocketTransport(
            self.engine,
            session,
            max_message=settings.max_message_bytes,
            draining=lambda: self.draining,
            compress=settings.compress,
            engineio=self.engineio,
            guard=self.guard,
            fd_reserve=self.fd_reserve,
        )
        self.websocket.take_subs(settings.max_subscriptions)
        self.engine.take_firsts(session.subscribe_firsts, settings.max_channels)
        self.streams = EventStreams(
            self.engine,
            self.hub,
            guard=self.guard,
            draining=lambda: self.draining,
            wildcards=settings.wildcards,
        )
        return [Route(path, self.engineio) for path in (WS_PATH, WS_PATH + "/")] + [Route(SSE_PATH, self.streams)]

    def _follow_traces(self) -> None:
        """Make spans of deliveries, where OpenTelemetry is installed."""
        spans = open_spans()
        if spans is None:
            logger.info("tracing passes traceparents on and makes no spans: opentelemetry-api is not installed")
        elif self.websocket is not None:
            DeliverSpans(self.engine, spans, self._loop.call_soon)

    def reload(self) -> None:
        """Read the files again; what is no longer granted ends in the loop's next turns."""
        if self._rules is not None:
            self._rules.reload()
        reload_rules(self.presence, self.settings)
        reload = self.guard.reload()
        if reload is not None:
            if self._reload is not None:
                self._reload.cancel()  # the new one looks at everything again
            self._reload = reload

    async def drain(self) -> None:
        """Send the clients away, spread evenly over ``drain_seconds``, and take no new ones meanwhile.

        Once the last client has left, only HTTP connections are waited for, for `IDLE_GRACE` at most: each answer says
        that it is its connection's last one, so that a load balancer that uses it again loses no request.
        """
        self.draining = True
        await self._end_figures()
        began = self._loop.time()
        await self._drain.spread()
        grace = min(began + self.settings.drain_seconds, self._loop.time() + IDLE_GRACE)
        while self._listener is not None and self._listener.connections and self._loop.time() < grace:
            await asyncio.sleep(DRAIN_STEP / 5)

    async def leave(self) -> None:
        """Stop listening at once and send all clients away together, without a drain's patience.

        The other processes of the deployment list this one as gone.
        """
        self.draining = True
        if self._fleet is not None:
            await self._fleet.close(leaving=False)
        if self._listener is not None:
            self._listener.stop()
        await self._end_figures()
        await self._drain.at_once()

    async def close(self) -> None:
        """Stop listening, leave the broker and end what is left; calling it again does nothing."""
        self.draining = True
        await self._end_figures()
        if self._reload is not None:
            self._reload.cancel()
        for transport in (self.engineio, self.streams):
            if transport is not None:
                transport.close()
        if self._listener is not None:
            await self._listener.close()
        if self._workers is not None:
            await self._workers.close()
        if self._ticker is not None:
            self._ticker.stop()
        if self.engine.owns_sockets:
            self._loop.remove_reader(self.engine.fileno())
        if self.presence is not None:
            await self.presence.close()  # before its connections end: nobody has left
        self.engine.close()
        if self._fleet is not None:
            await self._fleet.close()
        await self.bus.close()
        if self._rules is not None:
            await self._rules.close()

    async def _end_figures(self) -> None:
        task, self._figures = self._figures, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _listen(self, listener: Listener) -> None:
        first, *other = self.settings.listens
        port = await self._bind(listener, first, self.websocket)
        self._ports.update(ws=port, api=port)
        for listen in other:
            self._ports["api"] = await self._bind(listener, listen, None)
        if self._unix is not None:
            await listener.accept([self._unix], str(self.settings.unix_socket), self.websocket, None)

    async def _bind(self, listener: Listener, listen: tuple[str, int], websocket: WebSocketTransport | None) -> int:
        sockets = bind_all(*listen, reuse_port=self._reuse_port)
        places = [place_of(sock) for sock in sockets]
        port = int(sockets[0].getsockname()[1])
        await listener.accept(sockets, f"{listen[0]}:{listen[1]}", websocket, self._tls)
        self.places += places
        return port

    def _start_ticking(self) -> Ticker:
        def tick_guard() -> None:
            self.guard.tick()

        ticker = Ticker(
            "the node's timer",
            lambda: self.engine.tick(self._loop.time()),
            lambda: self.hub.tick(self._loop.time()),
            lambda: None if self.presence is None else self.presence.tick(self._loop.time()),
            tick_guard,
            interval=lambda: min(self.engine.tick_interval, TICK),
        )
        ticker.start()
        return ticker

    def _callback_failed(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": "a connection's callback failed", "exception": error})


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
