"""Where a broker is and how to log in, read from its URL by redis-py: a URL means the same on every connection."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from typing import Any, Final, cast

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from realizehit.errors import SettingsError

SCHEMES: Final = ("redis", "rediss", "unix")

_SECRET_OPTION: Final = re.compile(r"([?&](?:ssl_|sentinel_)?password=)[^&#]*", re.IGNORECASE)


def redacted(url: str) -> str:
    """Return the URL without its secrets, for logs and error texts.

    A password may hold unescaped characters that end the address for a URL parser, so everything before the last ``@``
    is taken as the login. Better too much hidden than a password shown.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "***" if "@" in url else _SECRET_OPTION.sub(r"\1***", url)
    login, at, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    plain = colon and not set(user) & set("/?#")
    hidden = (f"{user}:***@" if plain else "***@") if at else ""
    shown = _SECRET_OPTION.sub(r"\1***", place)
    return f"{scheme}://{hidden}{shown}"


class Address:
    """One broker's address, ``redis://``, ``rediss://`` or ``unix://``, with everything its URL says.

    Args:
        url: as redis-py reads it: ``redis://user:password@host:port/db``, ``unix:///path?db=0``, options such as
            ``ssl_ca_certs`` in the query.
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
        self._options.setdefault("protocol", 2)
        # Time is bounded for a pipeline as a whole, not by a timer for each reply.
        self._options.update(retry=Retry(NoBackoff(), 0), retry_on_timeout=False, socket_timeout=None)
        try:
            make_connection: Callable[[], AbstractConnection] = self.pool().make_connection
            self._template = make_connection()
            self._tls = self._template.ssl_context.get() if isinstance(self._template, SSLConnection) else None
        except (TypeError, ValueError, RedisError, OSError) as error:
            raise SettingsError(f"broker URL {self._shown}: {self.scrub(str(error))}") from None
        self._check_place()

    def __str__(self) -> str:
        return self._shown

    def _check_place(self) -> None:
        if isinstance(self._template, UnixDomainSocketConnection):
            if not self._template.path:
                raise SettingsError(f"broker URL {self._shown}: the path of the socket is missing; use unix:///path")
        elif isinstance(self._template, Connection):
            try:
                self._template.host.encode("idna")
            except UnicodeError:
                raise SettingsError(f"broker URL {self._shown}: the host is no host name") from None

    def scrub(self, text: str) -> str:
        """Return ``text``, which a broker or a library wrote, without the passwords of this address."""
        for name in ("password", "ssl_password"):
            secret = self._options.get(name)
            if secret:
                text = text.replace(secret, "***")
        return text

    def pool(self) -> ConnectionPool:
        """Make a pool of redis-py connections that never repeats a command on its own.

        A repeated PUBLISH would reach subscribers twice. A pooled connection that went stale while idle is noticed when
        it is taken from the pool, before anything is sent, and is made again there.
        """
        return ConnectionPool(**self._options)

    def login(self) -> list[str]:
        """Return the arguments of AUTH, an empty list where there is nothing to log in with."""
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
            await loop.create_unix_connection(factory, broker.path)
        elif isinstance(broker, Connection):
            await loop.create_connection(factory, broker.host, broker.port, ssl=self._tls)
        return ""
