"""Which web pages may use the server: its own pages, and the pages that the configuration allows.

A browser says in ``Origin`` which page sends a request, and no page can change that. Plain requests have no ``Origin``;
then ``Sec-Fetch-Site`` says whether it is a page of this server. A client that sends neither is not a browser.

Source: RFC 6454; RFC 6455, section 10.2; Fetch Metadata Request Headers, W3C.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from realizehit.access.allowed_origins import read_allowed
from realizehit.access.claimants import UNNAMED_PAGE
from realizehit.access.origin import Origin, parse_origin

_OWN_SITES: Final = (b"same-origin", b"none")  # a page of this server; an address that the user typed


def is_foreign(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser says that the page is not this server's, without naming it."""
    site = headers.get(b"sec-fetch-site")
    return site is not None and site.strip(b" \t").lower() not in _OWN_SITES


class Origins:
    """The origins that may use the server.

    Args:
        allowed: origins such as ``https://example.org``, ``https://*.example.org`` for all hosts below that name, or
            ``*`` for any.

    Raises:
        SettingsError: an origin is malformed.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = read_allowed(allowed)

    @property
    def hosts(self) -> list[str]:
        """The hosts of the pages that are named, ``*.example.org`` for all subdomains."""
        allowed = self._allowed
        return [
            *(origin.host for origin in allowed.origins if origin.is_web),
            *(f"*{below.suffix}" for below in allowed.below),
        ]

    def allows(self, origin: bytes | None, host: bytes | None) -> bool:
        """Whether a page of an origin may use the server.

        Args:
            origin: the ``Origin`` header, ``None`` if there is none.
            host: the ``Host`` header, likewise.
        """
        if origin is None or self._allowed.any:
            return True
        parsed = _parse(origin)
        return parsed is not None and (self._allowed.names(parsed) or _is_own(parsed, host))

    def admits(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a request comes from a page that may use the server, or from no page."""
        origin = headers.get(b"origin")
        if origin is None:
            return self._allowed.any or not is_foreign(headers)
        return self.allows(origin, headers.get(b"host"))

    def knows(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a request comes from a page of the server, from a page that is named, or from no page.

        Used for what is not for every page, such as the server's figures; ``*`` names no page.
        """
        origin = headers.get(b"origin")
        if origin is None:
            return not is_foreign(headers)
        parsed = _parse(origin)
        return parsed is not None and (self._allowed.names(parsed) or _is_own(parsed, headers.get(b"host")))

    def page_of(self, headers: Mapping[bytes, bytes]) -> tuple[str | None, bool]:
        """Return the origin of a request in normal form, and whether it is the server's own or missing.

        The page of another site that the browser does not name is `UNNAMED_PAGE`.
        """
        origin = headers.get(b"origin")
        if origin is None:
            return (UNNAMED_PAGE, False) if is_foreign(headers) else (None, True)
        parsed = _parse(origin)
        if parsed is None:
            return origin.decode("latin-1"), False
        return str(parsed), _is_own(parsed, headers.get(b"host"))

    def listed(self, origin: bytes) -> bool:
        """Whether an origin is allowed by name and identifies the owner of the page."""
        parsed = _parse(origin)
        return parsed is not None and parsed.names_a_page and self._allowed.names(parsed)


def _parse(origin: bytes) -> Origin | None:
    return parse_origin(origin.decode("latin-1"))


def _is_own(origin: Origin, host: bytes | None) -> bool:
    """Whether an origin is the server's own."""
    # The scheme does not count: a proxy may have terminated the TLS that the browser sees.
    return host is not None and origin.is_web and parse_origin(f"{origin.scheme}://{host.decode('latin-1')}") == origin
