"""Which web pages may use the server, and under which host names it may be asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from realizehit.access.hosts import Hosts, is_own_name
from realizehit.access.origins import Origins
from realizehit.access.peers import UNIX, Networks
from realizehit.access.refusals import Refusals
from realizehit.errors import AccessDenied, ErrorCode
from realizehit.settings import Settings


class PageGate:
    """Checks the ``Origin`` and the ``Host`` of requests.

    Args:
        settings: name the allowed origins, the server's public addresses and the trusted proxies.
        refusals: counts and logs what is refused.

    Attributes:
        origins: the pages that are allowed.

    Raises:
        SettingsError: an origin or a network is malformed.
    """

    def __init__(self, settings: Settings, refusals: Refusals) -> None:
        self.origins: Final = Origins(settings.allow_origin)
        self._trusted = Networks(settings.trusted_proxies)
        self._hosts = _known_hosts(settings, self.origins)
        self._refusals = refusals

    def check_origin(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuse a web page that is neither this server's nor allowed.

        Raises:
            AccessDenied: ``forbidden``.
        """
        if not self.origins.admits(headers):
            text = "web pages of this origin may not use the server; --allow-origin names those that may"
            raise AccessDenied(text, ErrorCode.FORBIDDEN, "origin")

    def check_host(self, peer: str, headers: Mapping[bytes, bytes]) -> None:
        """Refuse a page whose own name was made to point to this machine (DNS rebinding).

        Raises:
            AccessDenied: ``forbidden``; the server listens on loopback only and does not know the ``Host``.
        """
        if self._hosts is None or peer in self._trusted or peer == UNIX:  # no browser opens a Unix socket
            return
        host, origin = headers.get(b"host"), headers.get(b"origin")
        if host is None or self._hosts.knows(host) or (origin is not None and self.origins.listed(origin)):
            return
        text = (
            "the server listens on this machine alone and does not know this Host: name its public address with "
            "--endpoint, or its pages with --allow-origin, or the proxy before it with --trusted-proxies"
        )
        raise AccessDenied(text, ErrorCode.FORBIDDEN, "host")

    def check_use(self, peer: str, headers: Mapping[bytes, bytes], *, figures: bool = False) -> None:
        """Decide about a request that neither connects nor publishes; a refusal is counted and logged.

        Args:
            peer: where the TCP connection comes from.
            headers: values by lower-case name.
            figures: whether it asks for metrics or health. Only the server's own pages and pages that the configuration
                names may read these; ``--allow-origin '*'`` names no page. The ``Host`` is not checked, since monitors
                use any name.

        Raises:
            AccessDenied: ``forbidden``; the page may not have what it asks for.
        """
        try:
            if not figures:
                self.check_origin(headers)
                return
            # Following a link is allowed: the browser then shows the figures, and the other page cannot read them.
            followed = b"origin" not in headers and headers.get(b"sec-fetch-mode") == b"navigate"
            if not followed and not self.origins.knows(headers):
                text = "pages of this origin may not see the server's figures; --allow-origin names those that may"
                raise AccessDenied(text, ErrorCode.FORBIDDEN, "origin")  # noqa: TRY301
        except AccessDenied as error:
            self._refusals.denied(error, peer, headers)
            raise


def _known_hosts(settings: Settings, origins: Origins) -> Hosts | None:
    """Return the names of a server on loopback; ``None`` for one that others reach, which answers to any name."""
    if "*" in settings.allow_origin or not is_own_name(settings.host):
        return None
    endpoints = (settings.endpoint, settings.endpoint_ws, settings.endpoint_api)
    return Hosts([*origins.hosts, *(endpoint for endpoint in endpoints if endpoint)])
