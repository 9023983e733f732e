"""Accepting: uvicorn on sockets that are bound already, with the front door as the protocol of each connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, Final

import uvicorn

from realizehit.common.upkeep import Failures
from realizehit.errors import SettingsError
from realizehit.http.api import Application
from realizehit.http.front_door import FrontDoor
from realizehit.settings import Settings
from realizehit.transports.fd_reserve import Room
from realizehit.transports.guard import Guard
from realizehit.transports.websocket import WebSocketTransport

logger: Final = logging.getLogger(__name__)

SHUTDOWN_TIMEOUT: Final = 5.0  # seconds for a client's part in the end of a TLS connection
BACKLOG: Final = 4096  # connections that may wait to be accepted; the own limit of most systems is lower


class Listener:
    """Accepts connections for a node until it is closed.

    Args:
        app: serves what is HTTP.
        settings: the bounds of a request.
        guard: decides who is let in.
        room: knows whether there is room for another connection.
        draining: whether each answer is to be its connection's last one.
    """

    def __init__(
        self, app: Application, settings: Settings, guard: Guard, room: Room, draining: Callable[[], bool]
    ) -> None:
        self._app = app
        self._settings = settings
        self._door = partial(
            FrontDoor,
            timeout=settings.handshake_timeout,
            request_timeout=settings.request_timeout,
            keep_alive=settings.keep_alive,
            max_head=settings.max_head_bytes,
            guard=guard,
            room=room,
            direct=app.direct,
            draining=draining,
        )
        self._servers: list[tuple[_Server, asyncio.Task[None]]] = []

    @property
    def connections(self) -> int:
        """How many connections there are that no transport of a client has taken."""
        return sum(len(server.server_state.connections) for server, _ in self._servers)

    async def accept(
        self,
        sockets: Sequence[socket.socket],
        place: str,
        websocket: WebSocketTransport | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        """Listen on bound sockets.

        Args:
            sockets: this listener's from here on.
            place: what they are called in errors.
            websocket: takes the WebSocket handshakes; ``None`` where there are none.
            tls: the certificate; ``None`` for none.

        Raises:
            SettingsError: they cannot be listened on.
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
        # Not as an argument, with which uvicorn would silence its access logger for the whole program.
        config.access_log = self._settings.access_log
        config.load()
        config.ssl = tls
        server = _Server(config, self._settings.handshake_timeout)
        task = asyncio.create_task(server.serve(sockets=list(sockets)))
        self._servers.append((server, task))
        while not server.started:
            if task.done():
                self._servers.pop()
                error = task.exception()
                if error is None or isinstance(error, OSError):
                    raise SettingsError(f"cannot listen on {place}: {error or 'the server stopped'}")
                raise error
            await asyncio.sleep(0.001)

    def stop(self) -> None:
        """Stop accepting at once: the sockets are closed in the loop's next turn. `close` is still to follow."""
        for server, _ in self._servers:
            for each in server.servers:
                each.close()

    async def close(self) -> None:
        """Stop accepting, and wait for the requests that are under way; calling it again does nothing."""
        servers, self._servers = self._servers, []
        for server, _ in servers:
            server.should_exit = True
        for error in await asyncio.gather(*(task for _, task in servers), return_exceptions=True):
            if isinstance(error, Exception):
                logger.error("closing a listening socket failed", exc_info=error)


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: signals are the process's affair, see `run`.

    Args:
        config: uvicorn's.
        handshake_timeout: seconds for a TLS handshake, for which uvicorn leaves what the event loop does, a minute.
    """

    def __init__(self, config: uvicorn.Config, handshake_timeout: float) -> None:
        super().__init__(config)
        self._handshake_timeout = handshake_timeout
        self._failures = Failures("the HTTP server's timer")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on the sockets."""
        await self.lifespan.startup()
        config, loop = self.config, asyncio.get_running_loop()
        door: Any = config.http_protocol_class
        protocol = partial(door, config=config, server_state=self.server_state, app_state=self.lifespan.state)
        timeout = None if config.ssl is None else self._handshake_timeout
        self.servers = [
            await loop.create_server(
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

    async def on_tick(self, counter: int) -> bool:
        """Do what is due ten times a second; an error here must not end the task that closes the sockets at the end."""
        try:
            return await super().on_tick(counter)
        except Exception as error:  # noqa: BLE001 - as above
            self._failures.note(error)
            return self.should_exit

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
