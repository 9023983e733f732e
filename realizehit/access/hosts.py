"""Under which names a server that listens on loopback alone is asked for.

A stranger's page can have its own name point to this machine (DNS rebinding): the browser then takes the server for the
page's own, sends the page's name as ``Host``, and no ``Origin`` with plain requests. Such a name is none of the
server's. What a request's other headers say shows nothing, since a page may set most of them on requests to its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from realizehit.access.peers import is_loopback

_LONGEST: Final = 300  # characters of a Host: a name of 253, port


class Hosts:
    """The names of a server.

    Args:
        urls: addresses at which it is reached from elsewhere, with or without a scheme; ``*.example.org`` for all hosts
            below that name.
    """

    def __init__(self, urls: Iterable[str] = ()) -> None:
        self._names: Final = {_name(url.rpartition("://")[2].partition("/")[0].lower()) for url in urls} - {None}
        self._suffixes: Final = tuple(name[1:] for name in self._names if name is not None and name.startswith("*."))

    def knows(self, host: bytes) -> bool:
        """Whether a ``Host`` names this server: an address, which no page can have for a name, or a name of its own."""
        name = _name(host.decode("latin-1").lower())
        if name is None or name.startswith("*"):
            return False
        return name in self._names or name.endswith(self._suffixes) or _is_of_every_machine(name)


def is_own_name(host: str) -> bool:
    """Whether a server that listens on this host is reached from its own machine alone."""
    name = host.lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost") or is_loopback(host)


def _name(host: str) -> str | None:
    return _short_name(host) if len(host) <= _LONGEST else None  # what is kept has a bound


@lru_cache(maxsize=1024)
def _short_name(host: str) -> str | None:
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # where it is none, the whole is no host
    except ValueError:
        return None
    if parts.netloc != host or "@" in host or not parts.hostname:
        return None
    return parts.hostname.rstrip(".")


@lru_cache(maxsize=1024)
def _is_of_every_machine(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
