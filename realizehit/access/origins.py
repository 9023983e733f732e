"""Which web pages may use the server: those that it serves itself, and those that were allowed.

A browser says in ``Origin`` which page a request comes from, and no page can change that. Plain requests have none:
then ``Sec-Fetch-Site`` says whether the page is this server's. Who sends neither is no browser.

Source: RFC 6454; RFC 6455, section 10.2; Fetch Metadata Request Headers, W3C.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from realizehit.access.claimants import UNNAMED_PAGE
from realizehit.errors import SettingsError

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_LONGEST: Final = 300  # characters of an origin: scheme, a name of 253, port
_OWN_SITES: Final = (b"same-origin", b"none")  # a page of this server; what somebody typed


def is_foreign(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser says that a page asks which is not this server's, without saying which one."""
    site = headers.get(b"sec-fetch-site")
    return site is not None and site.strip(b" \t").lower() not in _OWN_SITES


def _split(origin: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of an origin; ``None`` for what names no server, such as ``null``."""
    return _split_short(origin) if len(origin) <= _LONGEST else None  # what is kept has a bound


@lru_cache(maxsize=1024)
def _split_short(origin: str) -> tuple[str, str, int] | None:
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    default = _DEFAULT_PORTS.get(parts.scheme)
    if default is None or not parts.hostname or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return None
    return parts.scheme, parts.hostname, default if port is None else port


class Origins:
    """Decides about origins.

    Args:
        allowed: origins such as ``https://example.org``, or ``*`` for any.

    Raises:
        SettingsError: one is no origin.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        texts = [text.rstrip("/").lower() for text in allowed]
        self._any = "*" in texts
        self._allowed = set()
        for text in texts:
            if text == "*":
                continue
            parts = _split(text)
            if parts is None:
                raise SettingsError(f"--allow-origin: {text!r} is no origin; write https://example.org")
            self._allowed.add(parts)

    def allows(self, origin: bytes | None, host: bytes | None) -> bool:
        """Whether a request may be served.

        Args:
            origin: its ``Origin`` header, ``None`` where there is none.
            host: its ``Host`` header.
        """
        if origin is None or self._any:
            return True
        parts = _split(origin.decode("latin-1").lower())
        if parts is None:
            return False
        if parts in self._allowed:
            return True
        # The Host has no scheme: a proxy may have ended the TLS that the browser sees.
        return host is not None and _split(f"{parts[0]}://{host.decode('latin-1').lower()}") == parts

    def admits(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the page that a request comes from may use the server, or there is none."""
        origin = headers.get(b"origin")
        if origin is None:
            return self._any or not is_foreign(headers)
        return self.allows(origin, headers.get(b"host"))

    def page_of(self, headers: Mapping[bytes, bytes]) -> tuple[str | None, bool]:
        """Return the origin that a request names, in one spelling, and whether it is the server's own or there is none.

        A page of another site that is not named is `UNNAMED_PAGE`.
        """
        origin = headers.get(b"origin")
        if origin is None:
            return (UNNAMED_PAGE, False) if is_foreign(headers) else (None, True)
        text = origin.decode("latin-1").lower()
        parts = _split(text)
        if parts is None:
            return text, False
        scheme, name, port = parts
        host = headers.get(b"host", b"").decode("latin-1").lower()
        return f"{scheme}://{name}:{port}", _split(f"{scheme}://{host}") == parts

    def listed(self, origin: bytes) -> bool:
        """Whether an origin was allowed by name."""
        return _split(origin.decode("latin-1").lower()) in self._allowed
