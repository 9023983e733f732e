"""Problem documents for the errors of the API, and what clients are told of a broker that cannot be reached.

Source: RFC 9457.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from math import ceil
from typing import Final, NamedTuple

from realizehit.common.seldom import REMINDER, Seldom, more
from realizehit.errors import (
    AccessDenied,
    BrokerError,
    BrokerUnavailable,
    ErrorCode,
    PatternError,
    PublishUnclear,
    RequestError,
)
from realizehit.node.messages import problem

logger: Final = logging.getLogger(__name__)

RETRY_AFTER: Final = 2  # seconds, in every 503
LOG_INTERVAL: Final = REMINDER  # seconds between two lines about a broker that cannot be reached

PROBLEM: Final = b"application/problem+json"

_STATUS: Final = {
    ErrorCode.NOT_AUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    ErrorCode.FORBIDDEN: HTTPStatus.FORBIDDEN,
    ErrorCode.RATE_LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorCode.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.BROKER_REFUSED: HTTPStatus.BAD_GATEWAY,
    ErrorCode.NO_HISTORY: HTTPStatus.NOT_FOUND,
    ErrorCode.NO_PRESENCE: HTTPStatus.NOT_FOUND,
    ErrorCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}


DEFECT: Final = problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; its log says how")


class BrokerErrorReporter:
    """Reports errors of the broker: the log gets the cause, now and then; clients get what they may know."""

    def __init__(self) -> None:
        self._seldom = Seldom(LOG_INTERVAL)

    def report(self, error: BrokerError) -> str:
        """Log an error, and return what a client may know of it: of a broker that is away a generic message."""
        if not isinstance(error, BrokerUnavailable):
            left_out = self._seldom.passes("refused")
            if left_out is not None:
                logger.warning("the broker refused a request: %s%s", error, more(left_out))
            return str(error)
        left_out = self._seldom.passes("broker")
        if left_out is not None:
            logger.warning("the broker does not serve: %s%s", error, more(left_out))
        if isinstance(error, PublishUnclear):
            return "the broker did not answer in time; it may have taken the message"
        return "the broker cannot be reached; try again later"


def problem_of(code: str, detail: str) -> tuple[HTTPStatus, bytes, bytes]:
    """Return status, media type and body of the problem document for an error."""
    status = _STATUS.get(ErrorCode(code), HTTPStatus.BAD_REQUEST)
    return status, PROBLEM, problem(status, detail, code)


class Refusal(NamedTuple):
    """The answer to a request that failed."""

    status: HTTPStatus
    media_type: bytes
    body: bytes
    headers: list[tuple[bytes, bytes]]


def refusal_of(error: BaseException, broker_errors: BrokerErrorReporter) -> Refusal | None:
    """Return the answer to a request that failed for a known reason; ``None`` for a defect of the server."""
    wait: float | None = None
    if isinstance(error, AccessDenied):
        wait = error.retry_after
        status, media_type, body = problem_of(error.code, str(error))
    elif isinstance(error, RequestError | PatternError):
        status, media_type, body = problem_of(error.code, str(error))
    elif isinstance(error, BrokerUnavailable):
        # Clients send again where they find Retry-After.
        wait = None if isinstance(error, PublishUnclear) else RETRY_AFTER
        status, media_type, body = problem_of(error.code, broker_errors.report(error))
    elif isinstance(error, BrokerError):
        status, media_type, body = problem_of(ErrorCode.BROKER_REFUSED, broker_errors.report(error))
    else:
        return None
    headers = [] if wait is None else [(b"retry-after", b"%d" % ceil(wait))]
    if status is HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    return Refusal(status, media_type, body, headers)
