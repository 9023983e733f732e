"""Which web pages may use the server: those that it serves itself, and those that were allowed.

A browser says in ``Origin`` which page a request comes from, and no page can change that. Plain requests have none:
then ``Sec-Fetch-Site`` says whether the page is this server's. Who sends neither is no browser.

Source: RFC 6454; RFC 6455, section 10.2; Fetch Metadata Request Headers, W3C.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from realizehit.access.allowed_origins import read_allowed
from realizehit.access.claimants import UNNAMED_PAGE
from realizehit.access.origin import Origin, parse_origin

_OWN_SITES: Final = (b"same-origin", b"none")  # a page of this server; what somebody typed


def is_foreign(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser says that a page asks which is not this server's, without saying which one."""
    site = headers.get(b"sec-fetch-site")
    return site is not None and site.strip(b" \t").lower() not in _OWN_SITES


class Origins:
    """Decides about origins.

    Args:
        allowed: origins such as ``https://example.org``, ``https://*.example.org`` for all hosts below that name, or
            ``*`` for any.

    Raises:
        SettingsError: one is no origin.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = read_allowed(allowed)

    @property
    def hosts(self) -> list[str]:
        """The hosts of the web pages that are named, ``*.example.org`` for all below that name."""
        allowed = self._allowed
        return [
            *(origin.host for origin in allowed.origins if origin.is_web),
            *(f"*{below.suffix}" for below in allowed.below),
        ]

    def allows(self, origin: bytes | None, host: bytes | None) -> bool:
        """Whether a request may be served.

        Args:
            origin: its ``Origin`` header, ``None`` where there is none.
            host: its ``Host`` header.
        """
        if origin is None or self._allowed.any:
            return True
        parsed = _parse(origin)
        return parsed is not None and (self._allowed.names(parsed) or _is_own(parsed, host))

    def admits(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the page that a request comes from may use the server, or there is none."""
        origin = headers.get(b"origin")
        if origin is None:
            return self._allowed.any or not is_foreign(headers)
        return self.allows(origin, headers.get(b"host"))

    def knows(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the page that a request comes from is the server's own or named, or there is none; ``*`` names none.

        It is for what pages that nobody named have no business with, such as the server's figures.
        """
        origin = headers.get(b"origin")
        if origin is None:
            return not is_foreign(headers)
        parsed = _parse(origin)
        return parsed is not None and (self._allowed.names(parsed) or _is_own(parsed, headers.get(b"host")))

    def page_of(self, headers: Mapping[bytes, bytes]) -> tuple[str | None, bool]:
        """Return the origin that a request names, in one spelling, and whether it is the server's own or there is none.

        A page of another site that is not named is `UNNAMED_PAGE`.
        """
        origin = headers.get(b"origin")
        if origin is None:
            return (UNNAMED_PAGE, False) if is_foreign(headers) else (None, True)
        parsed = _parse(origin)
        if parsed is None:
            return origin.decode("latin-1"), False
        return str(parsed), _is_own(parsed, headers.get(b"host"))

    def listed(self, origin: bytes) -> bool:
        """Whether an origin was allowed by name, and is nobody else's."""
        parsed = _parse(origin)
        return parsed is not None and parsed.names_a_page and self._allowed.names(parsed)


def _parse(origin: bytes) -> Origin | None:
    return parse_origin(origin.decode("latin-1"))


def _is_own(origin: Origin, host: bytes | None) -> bool:
    """Whether a page is of the server that is asked."""
    # The Host has no scheme: a proxy may have ended the TLS that the browser sees.
    return host is not None and origin.is_web and parse_origin(f"{origin.scheme}://{host.decode('latin-1')}") == origin
