"""The connection of a synchronous subscriber: opens it, and sends the one ``sub``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.protocol import Event
from websockets.sync.client import ClientConnection, connect

from realizehit.client.connection import CLOSE_TIMEOUT, Lost, handshake_error
from realizehit.client.protocol import Notice, Reply, action, parse_event, parse_reply
from realizehit.client.proxies import no_socks
from realizehit.client.reconnect_rules import may_return
from realizehit.client.token import LOGGER
from realizehit.errors import ResponseTimeout, Unavailable


class SyncSocket(ClientConnection):
    """The library's connection, which also remembers when it last received anything."""

    last_heard = 0.0

    def process_event(self, event: Event) -> None:
        """Record the time: after a loss, messages may be missing from then on."""
        self.last_heard = time.monotonic()
        super().process_event(event)


def open_socket(url: str, **options: Any) -> SyncSocket:
    """Connect and do the opening handshake.

    Args:
        url: where to.
        **options: of the library's ``connect``.

    Raises:
        Unavailable: the server cannot be reached, or cannot serve now.
        Rejected: it refused the handshake; ``status`` says how.
        SettingsError: a SOCKS proxy needs a library that is missing, or the environment names a proxy that cannot be
            used.
    """
    try:
        with ExitStack() as stack:
            socket = stack.enter_context(
                connect(
                    url,
                    compression=None,
                    close_timeout=CLOSE_TIMEOUT,
                    create_connection=SyncSocket,
                    logger=LOGGER,
                    **options,
                )
            )
            stack.pop_all()  # it stays open
    except (OSError, WebSocketException) as error:
        raise handshake_error(url, error) from error
    except ImportError:
        raise no_socks("python-socks") from None
    assert isinstance(socket, SyncSocket)
    return socket


def subscribe(
    socket: ClientConnection,
    filters: Mapping[str, Any],
    sub_keys: Mapping[str, Any],
    *,
    timeout: float,
    token: object,
    notice: Callable[[Notice | None], object],
) -> Reply:
    """Send ``sub`` and wait for its answer.

    Args:
        socket: the connection.
        filters: the pattern.
        sub_keys: further keys of ``sub``.
        timeout: seconds for the answer.
        token: the client's; see `may_return`.
        notice: takes the events that come before the answer.

    Raises:
        ResponseTimeout: no answer in time.
        Rejected, Unavailable: the server refused it.
        Disconnected: the server closed the connection, and does not accept the client again.
    """
    deadline = time.monotonic() + timeout
    reply = None
    try:
        socket.send(action("1", "sub", filters, sub_keys=sub_keys))
        while reply is None or reply.id != "1":
            message = socket.recv(max(0.0, deadline - time.monotonic()), decode=False)
            reply = parse_reply(message)
            if reply is None:
                notice(parse_event(message))
    except TimeoutError:
        raise ResponseTimeout(f"no answer to sub within {timeout:g} seconds") from None
    except ConnectionClosed as closed:
        lost = Lost.of(closed)
        raise (Unavailable(str(lost)) if may_return(lost.close_code, token) else lost) from None
    failure = reply.failure()
    if failure is not None:
        raise failure
    return reply
