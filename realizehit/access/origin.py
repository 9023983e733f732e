"""One origin: what a browser sends in ``Origin``, parsed.

Source: RFC 6454; the HTML standard, section 7.1.1. Apps and browser extensions have schemes of their own, such as
``capacitor://localhost``. ``null`` is the origin of pages without one, such as sandboxed frames; some browsers
send ``file://`` for files.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final, NamedTuple

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_LONGEST: Final = 300  # characters of an origin: scheme, a name of 253, port
_ORIGIN: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII,
)


class Origin(NamedTuple):
    """An origin in normal form.

    Attributes:
        scheme: in lower case; ``null`` for pages without an origin.
        host: a name in lower case, or an address; empty for ``null`` and ``file``.
        port: 0 if none is given and the scheme has no default port.
    """

    scheme: str
    host: str = ""
    port: int = 0

    @property
    def is_web(self) -> bool:
        """Whether it is the origin of a web server, so that its host is a host name or address."""
        return self.scheme in _DEFAULT_PORTS

    @property
    def names_a_page(self) -> bool:
        """Whether it identifies the owner of a page; everybody can create ``null`` and ``file`` pages."""
        return bool(self.host)

    def __str__(self) -> str:
        if not self.host:
            return "null" if self.scheme == "null" else f"{self.scheme}://"
        port = "" if self.port == _DEFAULT_PORTS.get(self.scheme, 0) else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"


NULL: Final = Origin("null")
FILE: Final = Origin("file")


def parse_origin(text: str) -> Origin | None:
    """Parse an origin.

    Args:
        text: the header's value; upper and lower case are the same.

    Returns:
        The origin; ``None`` for a malformed one.
    """
    return _parse_short(text.lower()) if len(text) <= _LONGEST else None  # so that the cache is bounded in bytes


@lru_cache(maxsize=1024)
def _parse_short(text: str) -> Origin | None:
    if text == "null":
        return NULL
    if text == "file://":
        return FILE
    match = _ORIGIN.fullmatch(text)
    if match is None:
        return None
    scheme, host = match["scheme"], match["host"]
    port = _DEFAULT_PORTS.get(scheme, 0) if match["port"] is None else int(match["port"])
    if port > 65535:
        return None
    if host.startswith("["):
        try:
            host = f"[{IPv6Address(host[1:-1])}]"
        except ValueError:
            return None
    return Origin(scheme, host, port)
