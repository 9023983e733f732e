"""Accepts connections: the engine on TCP sockets without TLS, uvicorn with the front door as protocol on all others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, Final, cast

import uvicorn

from realizehit import _fanout
from realizehit.access.peers import UNIX, peer_of
from realizehit.common.upkeep import Failures
from realizehit.errors import SettingsError
from realizehit.http.api import Application
from realizehit.http.arrivals import Arrivals
from realizehit.http.front_door import Arrival, FrontDoor
from realizehit.settings import Settings
from realizehit.transports.fd_reserve import FdReserve
from realizehit.transports.guard import Guard
from realizehit.transports.websocket import WebSocketTransport

logger: Final = logging.getLogger(__name__)

SHUTDOWN_TIMEOUT: Final = 5.0  # seconds for a client to end its side of a TLS connection
BACKLOG: Final = 4096  # connections that may wait to be accepted; most systems have a lower limit


class Listener:
    """Accepts connections for a node until it is closed.

    Args:
        app: serves HTTP requests.
        settings: the bounds of a request.
        guard: decides who is let in.
        fd_reserve: tells whether a file descriptor is left for a client.
        draining: returns whether each response must be the last one of its connection.
        engine: accepts WebSocket clients over TCP, if it owns its sockets.
    """

    def __init__(
        self,
        app: Application,
        settings: Settings,
        guard: Guard,
        fd_reserve: FdReserve,
        draining: Callable[[], bool],
        *,
        engine: _fanout.Engine,
    ) -> None:
        self._app = app
        self._engine = engine
        self._guard = guard
        self._fd_reserve = fd_reserve
        self._settings = settings
        self._door = partial(
            FrontDoor,
            timeout=settings.handshake_timeout,
            request_timeout=settings.request_timeout,
            keep_alive=settings.keep_alive,
            max_head=settings.max_head_bytes,
            guard=guard,
            fd_reserve=fd_reserve,
            direct=app.direct,
            draining=draining,
        )
        self._servers: list[tuple[_Server, asyncio.Task[None]]] = []

    @property
    def connections(self) -> int:
        """How many connections the HTTP server has; clients that the engine has taken over are not among them."""
        return self._engine.arrivals + sum(len(server.server_state.connections) for server, _ in self._servers)

    async def accept(
        self,
        sockets: Sequence[socket.socket],
        address: str,
        websocket: WebSocketTransport | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        """Listen on bound sockets.

        Args:
            sockets: the listener closes them.
            address: of the sockets, for errors.
            websocket: takes the WebSocket handshakes; ``None`` for a listener without WebSockets.
            tls: the certificate; ``None`` for plain HTTP.

        Raises:
            SettingsError: listening failed.
        """
        door: Any = partial(self._door, websocket=websocket)
        config = uvicorn.Config(
            self._app,
            http=door,
            ws="none" if websocket is None else door,
            loop="none",
            lifespan="off",
            log_config=None,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=5,
        )
        # Not passed as an argument, since uvicorn would then silence its access logger for the whole program.
        config.access_log = self._settings.access_log
        config.load()
        config.ssl = tls
        accepting = partial(self._accepting, websocket, tls)
        server = _Server(
            config, self._settings.handshake_timeout, accepting, has_websocket=websocket is not None and tls is None
        )
        task = asyncio.create_task(server.serve(sockets=list(sockets)))
        self._servers.append((server, task))
        while not server.started:
            if task.done():
                self._servers.pop()
                error = task.exception()
                if error is None or isinstance(error, OSError):
                    raise SettingsError(f"cannot listen on {address}: {error or 'the server stopped'}")
                raise error
            await asyncio.sleep(0.001)

    def serve(self, sock: socket.socket, data: bytes) -> None:
        """Serve a connection that another process has accepted, and that is for WebSockets.

        Args:
            sock: the connection.
            data: what it has sent so far.
        """
        server = next((server for server, _ in self._servers if server.has_websocket), None)
        if server is None:
            sock.close()
            return
        try:
            peer = UNIX if sock.family == socket.AF_UNIX else peer_of(sock.getpeername())
        except OSError:  # the client is gone already
            sock.close()
            return
        counted = self._guard.count_connection(lambda: peer)
        if isinstance(counted, bytes):
            server.serve_accepted(sock, Arrival(data, 0.0, counted, lambda: None))
        else:
            server.serve_accepted(sock, Arrival(data, 0.0, None, counted))

    def _accepting(
        self, websocket: WebSocketTransport | None, tls: ssl.SSLContext | None, protocol: Callable[..., Any]
    ) -> Arrivals | None:
        """Return who accepts where the engine does, given the protocol of other connections."""
        if websocket is None or tls is not None or not self._engine.owns_sockets:
            return None
        return Arrivals(self._engine, websocket, self._guard, self._fd_reserve, protocol)

    def stop(self) -> None:
        """Stop accepting at once: what has arrived and is not served yet may be ended. `close` must follow."""
        for server, _ in self._servers:
            for each in server.servers:
                each.close()

    async def close(self) -> None:
        """Stop accepting, and wait for the requests under way; calling it again does nothing."""
        servers, self._servers = self._servers, []
        for server, _ in servers:
            server.should_exit = True
        for error in await asyncio.gather(*(task for _, task in servers), return_exceptions=True):
            if isinstance(error, Exception):
                logger.error("closing a listening socket failed", exc_info=error)


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: the process handles signals, see `realizehit.process`.

    Args:
        config: of uvicorn.
        handshake_timeout: seconds for a TLS handshake; the default of the event loop is a minute.
        accepting: returns who accepts the connections of TCP sockets, ``None`` for the event loop.
        has_websocket: whether it serves WebSockets, without TLS.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        handshake_timeout: float,
        accepting: Callable[[Callable[..., Any]], Arrivals | None],
        *,
        has_websocket: bool,
    ) -> None:
        super().__init__(config)
        self._accepting = accepting
        self.has_websocket: Final = has_websocket
        self._tasks: set[asyncio.Task[Any]] = set()
        self._handshake_timeout = handshake_timeout
        self._failures = Failures("the HTTP server's timer")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on the sockets."""
        await self.lifespan.startup()
        config, loop = self.config, asyncio.get_running_loop()
        door: Any = config.http_protocol_class
        protocol = partial(door, config=config, server_state=self.server_state, app_state=self.lifespan.state)
        self._protocol = protocol
        timeout = None if config.ssl is None else self._handshake_timeout
        arrivals = self._accepting(protocol)
        self.servers = [
            self._open_door(sock, arrivals)
            if arrivals is not None and sock.family != socket.AF_UNIX
            else await loop.create_server(
                protocol,
                sock=sock,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=timeout,
                ssl_shutdown_timeout=None if timeout is None else SHUTDOWN_TIMEOUT,
            )
            for sock in sockets or ()
        ]
        self.started = True

    def serve_accepted(self, sock: socket.socket, arrival: Arrival) -> None:
        """Serve a connection that was accepted elsewhere."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.connect_accepted_socket(partial(self._protocol, arrival=arrival), sock))
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, sock, arrival))

    def _done(self, sock: socket.socket, arrival: Arrival, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a connection could not be served", exc_info=error)
            arrival.release()
            sock.close()

    def _open_door(self, sock: socket.socket, arrivals: Arrivals) -> asyncio.Server:
        sock.listen(self.config.backlog)
        arrivals.listen(sock)
        return cast(asyncio.Server, _OpenDoor(sock, arrivals))

    async def on_tick(self, counter: int) -> bool:
        """Run uvicorn's timer, ten times a second; an error must not end the task that closes the sockets later."""
        try:
            return await super().on_tick(counter)
        except Exception as error:  # noqa: BLE001 - as above
            self._failures.note(error)
            return self.should_exit

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class _OpenDoor:
    """A socket whose connections the engine accepts, with what uvicorn uses of a server of the event loop.

    Args:
        sock: listens; closed in the end.
        arrivals: accept.
    """

    def __init__(self, sock: socket.socket, arrivals: Arrivals) -> None:
        self._sock = sock
        self._arrivals = arrivals

    def close(self) -> None:
        """Stop accepting; calling it again does nothing."""
        if self._sock.fileno() >= 0:
            self._arrivals.unlisten(self._sock)
            self._sock.close()

    async def wait_closed(self) -> None:
        """Return at once: nothing is left to wait for."""
