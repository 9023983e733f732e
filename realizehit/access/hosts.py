"""The host names under which a server on loopback may be asked.

A foreign page can let its own name point to this machine (DNS rebinding). The browser then takes the server for the
page's own, sends the page's name as ``Host``, and no ``Origin`` with plain requests. So an unknown name is refused.
Other headers prove nothing, since a page may set most of them on requests to its own server.
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
    """The host names of a server.

    Args:
        urls: its public addresses, with or without a scheme; ``*.example.org`` for all subdomains.
    """

    def __init__(self, urls: Iterable[str] = ()) -> None:
        self._names: Final = {_name(url.rpartition("://")[2].partition("/")[0].lower()) for url in urls} - {None}
        self._suffixes: Final = tuple(name[1:] for name in self._names if name is not None and name.startswith("*."))

    def knows(self, host: bytes) -> bool:
        """Whether a ``Host`` is an IP address, which no page can have as its name, or a name of this server."""
        name = _name(host.decode("latin-1").lower())
        if name is None or name.startswith("*"):
            return False
        return name in self._names or name.endswith(self._suffixes) or _is_common_name(name)


def is_own_name(host: str) -> bool:
    """Whether a server that listens on this host can be reached only from its own machine."""
    name = host.lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost") or is_loopback(host)


def _name(host: str) -> str | None:
    return _short_name(host) if len(host) <= _LONGEST else None  # so that the cache is bounded in bytes


@lru_cache(maxsize=1024)
def _short_name(host: str) -> str | None:
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises where the port is wrong
    except ValueError:
        return None
    if parts.netloc != host or "@" in host or not parts.hostname:
        return None
    return parts.hostname.rstrip(".")


@lru_cache(maxsize=1024)
def _is_common_name(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
