"""Who is on this machine: the one place that decides it, for publishing without keys, the console and its figures.

The peer must be a loopback address or a Unix socket, and speak for itself: a proxy on this machine speaks for others,
and a browser for the page that it shows. Whose page that is says ``Origin``, by its own host, and without one
``Sec-Fetch-Site``.

Source: RFC 6454; Fetch Metadata Request Headers, W3C.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from realizehit.access.origins import is_foreign
from realizehit.access.peers import is_loopback

_FORWARDED: Final = frozenset((b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via"))
_HOST: Final = re.compile(rb"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
_SCHEME: Final = re.compile(rb"https?://", re.IGNORECASE)


def is_local_host(host: bytes) -> bool:
    """Whether a ``Host`` is this machine's own name for itself, which no stranger's page can have."""
    return _HOST.fullmatch(host) is not None


def is_local_page(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request comes from a page of this machine, or from none at all."""
    origin = headers.get(b"origin")
    if origin is None:
        return not is_foreign(headers)
    scheme = _SCHEME.match(origin)
    return scheme is not None and is_local_host(origin[scheme.end() :])


def is_forwarded(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a proxy says that it passes on what somebody else asks."""
    return not _FORWARDED.isdisjoint(headers)


def speaks_for_itself(peer: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request comes from this machine and through no proxy; a browser on it may still show any page."""
    return is_loopback(peer) and not is_forwarded(headers)
