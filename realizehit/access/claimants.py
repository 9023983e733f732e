"""Who sends the requests of one session: its later requests must come from whom its first one came.

A polling session's id is enough to find the session. It may stand in the logs of a proxy, in a browser's history or in
a header of another request, so it alone opens nothing.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from realizehit.access.identity import NOBODY, Identity

UNNAMED_PAGE: Final = "?"
"""The page of a request from another site that does not say from which one; nobody can show to be the same page."""


class Claimant(NamedTuple):
    """What a request says about its sender.

    Attributes:
        page: the origin of the web page that sent it; ``None`` for this server's own page or for no browser.
        own: whether that origin is the server's own, which a browser does not name in each request.
        identity: what a trusted proxy says in headers.
        token: SHA-256 of the token that came with it; ``None`` without one, or where the server takes none.
    """

    page: str | None = None
    own: bool = True
    identity: Identity = NOBODY
    token: bytes | None = None

    def is_same(self, other: Claimant) -> bool:
        """Whether both are the same page with the same identity and token."""
        return self.token == other.token and self.identity == other.identity and self._is_same_page(other)

    def _is_same_page(self, other: Claimant) -> bool:
        if UNNAMED_PAGE in (self.page, other.page):
            return False
        # A browser leaves the Origin out of plain GETs of the server's own pages, and names it in a POST.
        return self.page == other.page or (self.own and other.own and None in (self.page, other.page))
