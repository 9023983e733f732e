"""Who sends the requests of a polling session: all of them must come from the client that opened it.

The session's id alone is not enough, since it can leak through a proxy's log, a browser's history or a header.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from realizehit.access.identity import NOBODY, Identity

UNNAMED_PAGE: Final = "?"
"""The page of a request from another site that the browser does not name; it equals no page, itself included."""


class Claimant(NamedTuple):
    """What a request says about its sender.

    Attributes:
        page: the origin of the web page; ``None`` for a page of this server or for a client that is not a browser.
        own: whether the page is this server's own; browsers do not name such a page in every request.
        identity: what the headers of a trusted proxy say.
        token: SHA-256 of the request's token; ``None`` without one, or if the server accepts no tokens.
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
        # For pages of this server, a browser sends Origin with a POST and not with a plain GET.
        return self.page == other.page or (self.own and other.own and None in (self.page, other.page))
