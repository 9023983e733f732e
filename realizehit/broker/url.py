"""Where a broker is and how to log in, read from its URL by redis-py: a URL means the same on every connection.

Options of redis-py that mean nothing to these connections are refused, since nobody would notice that one is ignored.
"""

from __future__ import annotations

import asyncio
import copy
import math
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast
from urllib.parse import quote, quote_plus

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.exceptions import RedisError

from realizehit.common.masking import MASK, masked_url
from realizehit.errors import BrokerUnavailable, SettingsError

SCHEMES: Final = ("redis", "rediss", "unix")

OPTIONS: Final = ("db", "username", "password", "socket_connect_timeout", "socket_keepalive", "protocol")
"""What may stand in the query of a URL, besides the options for TLS, which begin with ``ssl_``."""

MAX_PATH: Final = 107 if sys.platform == "linux" else 103  # bytes of a Unix socket's path
UNANSWERED: Final = 10  # seconds that what was sent may stay unacknowledged, on systems that have such a time
KEEPALIVE: Final = 5  # seconds without traffic until the system probes a connection, and between its probes

_PARTS: Final = ("host", "port", "path", "connection_class")  # what redis-py makes of the rest of a URL
_HARMLESS: Final = frozenset(OPTIONS) - {"password"} | {
    "sentinel_username", "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile",
    "ssl_check_hostname", "ssl_min_version",
}  # fmt: skip
"""Options whose values are shown; what is misspelt may be a secret."""


def redacted(url: str) -> str:
    """Return the URL without its secrets, for logs and error texts; see `masked_url`."""
    return masked_url(url, _HARMLESS)


class Address:
    """One broker's address, ``redis://``, ``rediss://`` or ``unix://``, with everything its URL says.

    Args:
        url: as redis-py reads it: ``redis://user:password@host:port/db``, ``unix:///path?db=0``. Of the options in the
            query, `OPTIONS` are taken and those for TLS, such as ``ssl_ca_certs``; all others are refused.
        shown: what stands for the URL in texts for people; the URL itself without its secrets where it is not given.

    Raises:
        SettingsError: the URL cannot be used; the text names what is wrong and never the password.
    """

    def __init__(self, url: str, *, shown: str | None = None) -> None:
        self._shown = redacted(url) if shown is None else shown
        try:
            self._options = cast("dict[str, Any]", parse_url(url))
        except ValueError as error:
            # redis-py's text is safe where it speaks of an option; urllib's quotes what it took for the port, which is
            # part of the password when that holds a raw "/", "#" or "?".
            about_option = str(error).startswith(("Invalid value for", "Redis URL must"))
            detail = str(error) if about_option else "host or port cannot be read; percent-encode odd characters"
            raise SettingsError(f"broker URL {self._shown}: {detail}") from None
        self._check_options()
        try:
            # What redis-py would connect with: never connected, it says what the URL means.
            make_connection: Callable[[], AbstractConnection] = ConnectionPool(**self._options).make_connection
            self._template = make_connection()
            self._tls = self._template.ssl_context.get() if isinstance(self._template, SSLConnection) else None
        except (TypeError, ValueError, RedisError, OSError) as error:
            raise SettingsError(f"broker URL {self._shown}: {self.scrub(str(error))}") from None
        self._check_place()

    def __str__(self) -> str:
        return self._shown

    def at(self, host: str, port: int) -> Address:
        """Return the address of another server with the same login and options."""
        other = copy.copy(self)
        bracketed = f"[{host}]" if ":" in host else host
        other._shown = f"{'redis' if self._tls is None else 'rediss'}://{bracketed}:{port}"
        other._options = {**self._options, "host": host, "port": port}
        make_connection: Callable[[], AbstractConnection] = ConnectionPool(**other._options).make_connection
        other._template = make_connection()
        return other

    def _check_options(self) -> None:
        for name, value in self._options.items():
            if name.startswith("ssl_") or name in _PARTS:
                continue
            if name not in OPTIONS:
                # Behind a raw "?" in a password, what looks like an option's name is a part of it.
                named = f"the option {name!r}" if f"{name}=" in self._shown else "an option"
                raise SettingsError(
                    f"broker URL {self._shown}: {named} has no use here; known are {', '.join(OPTIONS)} and ssl_..."
                )
            if name == "protocol" and str(value) != "2":
                raise SettingsError(f"broker URL {self._shown}: protocol can only be 2, for RESP2")
            if name == "socket_connect_timeout" and not 0 < value < math.inf:
                raise SettingsError(f"broker URL {self._shown}: socket_connect_timeout is not a number of seconds")

    def _check_place(self) -> None:
        if isinstance(self._template, UnixDomainSocketConnection):
            if not self._template.path:
                raise SettingsError(f"broker URL {self._shown}: the path of the socket is missing; use unix:///path")
            if len(os.fsencode(self._template.path)) > MAX_PATH:
                raise SettingsError(f"broker URL {self._shown}: the path of the socket is over {MAX_PATH} bytes")
        elif isinstance(self._template, Connection):
            try:
                self._template.host.encode("idna")
            except UnicodeError:
                raise SettingsError(f"broker URL {self._shown}: the host is not a valid host name") from None

    def scrub(self, text: str) -> str:
        """Return ``text``, which a broker or a library wrote, without the passwords of this address."""
        for name in ("password", "ssl_password"):
            secret = self._options.get(name)
            if secret:
                for form in (secret, quote(secret, safe=""), quote(secret), quote_plus(secret)):
                    text = text.replace(form, MASK)
        return text

    @property
    def database(self) -> int:
        """The number of the database."""
        return int(self._options.get("db") or 0)

    def login(self) -> list[str]:
        """Return the arguments of AUTH, empty if the URL has no credentials."""
        username, password = self._template.username, self._template.password
        if username:
            return [username, password or ""]
        return [password] if password else []

    def confirmed(self, place: str) -> float:
        """Return the loop's time up to which a place that `connect` named was certainly the broker.

        Infinity for addresses that do not move: whatever answers there is the broker.
        """
        return math.inf

    async def connect(self, factory: Callable[[], asyncio.Protocol]) -> str:
        """Open one connection, with TLS where the URL asks for it.

        Returns:
            Where it leads, for addresses that move; empty for those that do not.

        Raises:
            OSError: the broker cannot be reached, or TLS failed.
        """
        loop = asyncio.get_running_loop()
        broker: AbstractConnection = self._template
        if isinstance(broker, UnixDomainSocketConnection):
            await self._dial(loop.create_unix_connection(factory, broker.path))
        elif isinstance(broker, Connection):
            await self._dial(loop.create_connection(factory, broker.host, broker.port, ssl=self._tls))
        return ""

    async def _dial(self, connecting: Awaitable[tuple[asyncio.Transport, asyncio.Protocol]]) -> None:
        """Connect with the options that the URL has for that."""
        seconds: float | None = self._options.get("socket_connect_timeout")
        try:
            async with asyncio.timeout(seconds):
                transport, _ = await connecting
        except TimeoutError:
            raise BrokerUnavailable("it could not be reached in time") from None
        sock: socket.socket | None = transport.get_extra_info("socket")  # none where the other side has ended it again
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            _notice_dead_peers(sock, keepalive=self._options.get("socket_keepalive", True))


def _notice_dead_peers(sock: socket.socket, *, keepalive: bool) -> None:
    """Have the system end a connection whose other side is gone without a word, where the PINGs should not do that."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED * 1000)
    if keepalive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", KEEPALIVE), ("TCP_KEEPINTVL", KEEPALIVE), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
