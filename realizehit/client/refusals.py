"""The error classes of a server's refusals."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from realizehit.errors import (
    BadPattern,
    ErrorCode,
    Forbidden,
    NotAuthenticated,
    RateLimited,
    Rejected,
    TooLarge,
    Unavailable,
)

_BY_CODE: Final[dict[str, type[Rejected]]] = {
    ErrorCode.BAD_PATTERN: BadPattern,
    ErrorCode.WILDCARD_UNSUPPORTED: BadPattern,
    ErrorCode.FORBIDDEN: Forbidden,
    ErrorCode.NOT_AUTHENTICATED: NotAuthenticated,
    ErrorCode.RATE_LIMITED: RateLimited,
    ErrorCode.TOO_LARGE: TooLarge,
}

# For answers without a code, for example of a proxy in front of the server.
_BY_STATUS: Final[dict[int | None, type[Rejected]]] = {
    HTTPStatus.UNAUTHORIZED: NotAuthenticated,
    HTTPStatus.FORBIDDEN: Forbidden,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: TooLarge,
    HTTPStatus.TOO_MANY_REQUESTS: RateLimited,
}


def rejection(message: str, code: str = "", status: int | None = None) -> Rejected:
    """Return the error for a refusal.

    Args:
        message: the server's explanation.
        code: the server's stable code; empty if it gave none.
        status: the HTTP status, or ``None`` over WebSocket.

    Returns:
        A subclass of `Rejected` if the code, or else the status, has one.
    """
    kind = _BY_CODE.get(code) if code else _BY_STATUS.get(status)
    return (kind or Rejected)(message, code, status)


def refusal(message: str, code: str) -> Rejected | Unavailable:
    """Return the error for a refused action, or for a refused message of a batch."""
    return Unavailable(message) if code == ErrorCode.UNAVAILABLE else rejection(message, code)
