"""uvicorn's HTTP protocol with bounds that it does not have: on how long a request takes, and how large its head is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string
from uvicorn.server import ServerState

from realizehit.access.peers import UNIX, peer_of_transport
from realizehit.errors import ErrorCode
from realizehit.transports.direct import MAX_BODY, DirectRequest, Handler
from realizehit.transports.handshake import refusal, too_large
from realizehit.transports.joined import JoinedWrites

TAKE_OVER: Final = "realizehit.take_over"
"""The extension of an ASGI scope by which an endpoint can have the connection, see `BoundedRequests.take_over`."""


class BoundedRequests(HttpToolsProtocol):
    """Serves HTTP on one connection; a request that dribbles in is answered with 408, too large a head with 431.

    Args:
        config, server_state, app_state, _loop: what uvicorn gives each protocol.
        timeout: seconds for a request, its head and body, to arrive.
        max_head: bytes that a request's head may have.
        gone: called once when the connection has ended or goes on as a WebSocket.
        limited: told the name of each limit that is passed.
        direct: who serves `POST` without ASGI, by target.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        timeout: float,
        max_head: int,
        gone: Callable[[], None],
        limited: Callable[[str], None],
        direct: Mapping[bytes, Handler],
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # uvicorn looks whether the logger has handlers, which others in this process may have given it.
        self.access_log = self.access_log and config.access_log
        self._timeout = timeout
        self._max_head = max_head
        self._limited = limited
        self._gone: Callable[[], None] | None = gone
        self._arriving = False
        self._head = 0  # bytes of reads in which the head was not whole, the one that it began in left out
        self._may_be_large = False
        self._oversized = False
        self._timer: asyncio.TimerHandle | None = None
        self._direct = direct
        self._defaults: tuple[object, bytes] = (None, b"")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note who is at the other end; uvicorn names nobody where that is a Unix socket."""
        super().connection_made(transport)
        if self.client is None and peer_of_transport(transport) == UNIX:
            self.client = (UNIX, 0)

    def on_message_begin(self) -> None:
        """Note that a request has begun."""
        self._arriving = True
        self._head = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Offer the connection to whoever answers this request."""
        if self._may_be_large and self._head_size() > self._max_head:
            self._oversized = True
            raise ValueError("the head is too large")  # ends the parser's work; `send_400_response` says why
        if self.url in self._direct and self._starts_directly():
            return
        before = self.cycle
        super().on_headers_complete()
        cycle = self.cycle
        if cycle is not before:
            self.scope["extensions"] = {TAKE_OVER: partial(self.take_over, cycle)}  # type: ignore[dict-item]

    def _starts_directly(self) -> bool:
        """Begin a request without ASGI, where it is an everyday one; all others take ASGI's way."""
        parser = self.parser
        before: RequestResponseCycle | None = self.cycle
        if (
            parser.get_method() != b"POST"
            or parser.get_http_version() != "1.1"
            or not parser.should_keep_alive()
            or parser.should_upgrade()
            or self.expect_100_continue
            or self.access_log
            or self.flow.write_paused
            or self.pipeline
            or (before is not None and not before.response_complete)
        ):
            return False
        headers = dict(self.headers)
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or int(length) > MAX_BODY or b"transfer-encoding" in headers:
            return False
        self.scope["method"] = "POST"
        self.cycle = DirectRequest(self, headers, self._direct[self.url])  # type: ignore[assignment]
        return True

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def on_message_complete(self) -> None:
        """Note that it is here."""
        self._arriving = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser did not take, and close."""
        if self._oversized:
            self._limited("head_too_large")
            response = too_large(self._max_head)
        else:
            self._limited("malformed")
            response = refusal(400, "the request is malformed", ErrorCode.BAD_REQUEST)
        self.transport.write(response)
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        # A header that does not end is kept by the parser, which says nothing of it.
        self._head += len(data)
        self._may_be_large = self._head > self._max_head
        super().data_received(data)
        # A request that comes at once, as most do, costs no timer.
        if self._arriving:
            if self._head > self._max_head and "method" not in self.scope and not self.transport.is_closing():
                self._oversized = True
                self.send_400_response("")
            elif self._timer is None:
                self._timer = self.loop.call_later(self._timeout, self._too_late)
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def respond(self, request: DirectRequest, response: Sequence[bytes]) -> None:
        """Write the response to a request that an application has no part in, and go on with the next one."""
        if self.transport.is_closing():
            return
        default = self.server_state.default_headers  # a new list each second
        if self._defaults[0] is not default:
            self._defaults = (default, b"".join(b"%b: %b\r\n" % header for header in default))
        transport = self.transport
        if isinstance(transport, JoinedWrites):
            transport = transport.unwrap()
        transport.write(b"".join((response[0], self._defaults[1], *response[1:])))
        if not request.keep_alive:
            transport.close()
        self.on_response_complete()

    def take_over(self, cycle: RequestResponseCycle) -> tuple[asyncio.Transport, list[tuple[bytes, bytes]]] | None:
        """Give the connection away in the middle of a request; the endpoint then returns without having answered.

        Requests that wait behind this one are never answered: the response that is to come ends with the connection.

        Returns:
            The transport, which is the caller's from here on, and the headers that each response has; ``None`` where
            the connection is going.
        """
        if cycle.response_started or cycle.disconnected or self.transport.is_closing():
            return None
        cycle.disconnected = True  # so that nothing is written on its behalf
        self.pipeline.clear()
        self.connections.discard(self)
        self._unset_keepalive_if_required()
        self._end()
        if self.access_log:
            scope = cycle.scope
            path = get_path_with_query_string(scope)
            self.access_logger.info(
                '%s - "%s %s HTTP/%s" %d', get_client_addr(scope), scope["method"], path, scope["http_version"], 200
            )
        transport = self.transport
        if isinstance(transport, JoinedWrites):
            transport = transport.unwrap()
        return transport, self.server_state.default_headers

    def handle_websocket_upgrade(self) -> None:
        """Let go of the connection."""
        self._end()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def _end(self) -> None:
        self._arriving = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()

    def _too_late(self) -> None:
        self._timer = None
        self._limited("late_request")
        cycle: RequestResponseCycle | None = self.cycle
        answering = cycle is not None and cycle.response_started and not cycle.response_complete
        if not answering:
            text = f"the request did not arrive within {self._timeout:g} seconds"
            self.transport.write(refusal(408, text, ErrorCode.TIMEOUT))
        self.transport.close()
