"""Which requests come from this machine. Every such decision of the server is made here.

Three things are open to this machine only: publishing while no API keys are configured, the page ``/console``, and the
figures that this page subscribes to. In all three cases the connection must come over loopback or a Unix socket, and
not through a proxy, which forwards the requests of others. A browser on this machine shows pages from anywhere, so the
page counts too: ``Origin`` names it, or ``Sec-Fetch-Site`` if ``Origin`` is missing.

Source: RFC 6454; Fetch Metadata Request Headers, W3C.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from realizehit.access.origins import Origins, is_foreign
from realizehit.access.peers import UNIX, is_loopback

_FORWARDED: Final = frozenset((b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via"))
LOCAL_HEADERS: Final = (*sorted(_FORWARDED), b"host", b"origin", b"sec-fetch-site")
"""The headers that `is_local_client` looks at."""

_HOST: Final = re.compile(rb"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
_SCHEME: Final = re.compile(rb"https?://", re.IGNORECASE)
_LONGEST_SHOWN: Final = 100  # bytes of a Host in an error


def is_local_program(peer: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request comes from a program on this machine that is not a browser, without a proxy."""
    # Called for each publication, with the cheapest and most frequent answers first.
    return (
        b"origin" not in headers
        and b"sec-fetch-site" not in headers
        and is_loopback(peer)
        and _FORWARDED.isdisjoint(headers)
    )


def is_local_publisher(peer: str, headers: Mapping[bytes, bytes], origins: Origins) -> bool:
    """Whether a request may publish without an API key.

    Args:
        peer: where the connection comes from, see `realizehit.access.peers`.
        headers: values by lower-case name.
        origins: the pages that the configuration names may publish too, if the browser is on this machine.
    """
    if not _is_direct(peer, headers):
        return False
    origin = headers.get(b"origin")
    return _is_local_page(headers) or (origin is not None and origins.listed(origin))


def is_local_client(peer: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a client may subscribe to the figures that the console shows."""
    return (
        _is_direct(peer, headers)
        and _is_local_page(headers)
        # A stranger's page can have its own name point to this machine (DNS rebinding) and then sends no Origin.
        and _is_local_host(headers.get(b"host", b"localhost"))
    )


def console_refusal(peer: str, headers: Mapping[bytes, bytes]) -> str | None:
    """Return why a request may not have the page ``/console``, or ``None`` where it may."""
    if peer == UNIX or not is_loopback(peer):  # no browser opens a Unix socket
        return "the request comes from another machine"
    host = headers.get(b"host", b"")
    if not _is_local_host(host):
        shown = host[:_LONGEST_SHOWN].decode("latin-1")
        return f"the Host is {shown!r}, which is not this machine's own name for itself"
    if not _FORWARDED.isdisjoint(headers):
        return "the request came through a proxy"
    # Following a link to the console is allowed: the browser then shows the console, and the other page cannot read it.
    followed = b"origin" not in headers and headers.get(b"sec-fetch-mode") == b"navigate"
    if not followed and not _is_local_page(headers):
        return "the request comes from another page"
    return None


def _is_direct(peer: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request comes from this machine and not through a proxy."""
    return is_loopback(peer) and _FORWARDED.isdisjoint(headers)


def _is_local_page(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request comes from a page of this machine, or from no page."""
    origin = headers.get(b"origin")
    if origin is None:
        return not is_foreign(headers)
    scheme = _SCHEME.match(origin)
    return scheme is not None and _is_local_host(origin[scheme.end() :])


def _is_local_host(host: bytes) -> bool:
    """Whether a ``Host`` is a name that every machine has for itself; no foreign page can have such a name."""
    return _HOST.fullmatch(host) is not None
