"""Every error that realizehit raises, and the codes that it puts on the wire.

The tree::

    RealizehitError
    +-- PatternError              a pattern breaks a rule             bad-pattern
    |   +-- WildcardUnsupported   it carries the reserved "*"         wildcard-unsupported
    +-- RequestError              an action or a body is malformed    bad-json, bad-request, ...
    +-- AccessDenied              the client may not do this          forbidden, not-authenticated, ...
    +-- SettingsError             a flag, variable or file is wrong
    +-- BrokerError               the broker and what it says
    |   +-- BrokerUnavailable     it cannot be reached (retry later)  unavailable
    |   |   +-- BrokerUnclear     it may have taken the message       unavailable
    |   +-- BrokerRefused         it answered with an error
    |   |   +-- RegistryFull      it has no room for another shape     too-many-shapes
    |   +-- EmbeddedUnavailable   no Valkey binary for this platform
    +-- LoadTestError             a load test could not be carried out
    +-- ClientError               what the Python clients raise
    |   +-- Unavailable           no answer, or 503 (retry later)     unavailable
    |   +-- Rejected              the server said no, with a code
    |   |   +-- BadPattern        it refuses the pattern              bad-pattern, wildcard-unsupported
    |   |   +-- Forbidden         the client may not do this          forbidden
    |   |   +-- NotAuthenticated  key or token is missing or wrong    not-authenticated
    |   |   +-- RateLimited       too many requests (retry later)     rate-limited
    |   |   +-- TooLarge          the request is too large            too-large
    |   +-- Disconnected          the connection went away meanwhile
    |   |   +-- AnswerLost        ... after a publication was sent
    |   +-- ResponseTimeout       the answer did not come in time
    |   |   +-- AnswerLate        ... to a publication
    |   +-- QueueOverflow         a subscription was read too slowly
    |   +-- TokenUnavailable      the function that gives tokens failed
    +-- PublishUnclear            a publication may have happened: BrokerUnclear, AnswerLost, AnswerLate

Each class is caught by its own name; ``code`` is the stable string for programs, the text is for people.

Source: the wire protocol, ``docs/protocol.md``.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class ErrorCode(StrEnum):
    """Codes of the replies to actions and of HTTP problem documents; they never change their meaning."""

    BAD_JSON = "bad-json"
    BAD_REQUEST = "bad-request"
    UNKNOWN_ACTION = "unknown-action"
    BAD_PATTERN = "bad-pattern"
    WILDCARD_UNSUPPORTED = "wildcard-unsupported"
    NOT_SUBSCRIBED = "not-subscribed"
    ID_COLLISION = "id-collision"
    TOO_MANY_SUBSCRIPTIONS = "too-many-subscriptions"
    TOO_MANY_CHANNELS = "too-many-channels"
    TOO_MANY_SHAPES = "too-many-shapes"
    NOT_AUTHENTICATED = "not-authenticated"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate-limited"
    UNAVAILABLE = "unavailable"
    # HTTP only:
    TOO_LARGE = "too-large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    BROKER_REFUSED = "broker-refused"
    NO_HISTORY = "no-history"
    NO_PRESENCE = "no-presence"
    TOO_MANY_CONNECTIONS = "too-many-connections"
    TIMEOUT = "timeout"


class CloseCode(IntEnum):
    """WebSocket close codes that the server sends.

    1000-1015 are RFC 6455's (section 7.4.1). In 4000-4499 the client is welcome to reconnect, in 4500-4999 it is not.
    """

    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_DATA = 1007
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    DRAIN = 4001
    SLOW_CONSUMER = 4002
    HEARTBEAT_MISSED = 4003
    NOT_AUTHENTICATED = 4501
    FORBIDDEN = 4502
    TOO_MANY_CONNECTIONS = 4503

    @property
    def reconnect(self) -> bool:
        """Whether a client that was closed with this code may connect again."""
        return self < 4500


class RealizehitError(Exception):
    """Root of all errors of this package.

    Attributes:
        code: the stable code for programs; an empty string if the wire has no code for it.
    """

    code: str = ""


class PatternError(RealizehitError, ValueError):
    """A pattern breaks a rule; the text names the filter and the bound."""

    code = ErrorCode.BAD_PATTERN


class WildcardUnsupported(PatternError):
    """The pattern carries ``*``, which is reserved and not served yet."""

    code = ErrorCode.WILDCARD_UNSUPPORTED


class RequestError(RealizehitError, ValueError):
    """An action or a request body is not valid.

    Args:
        message: what is wrong and where, for a person.
        code: one of `ErrorCode`.
    """

    def __init__(self, message: str, code: str = ErrorCode.BAD_REQUEST) -> None:
        super().__init__(message)
        self.code = code


class AccessDenied(RealizehitError):
    """The client may not do this, or not now.

    Args:
        message: what is missing, for a person; it reveals no policy.
        code: one of `ErrorCode`.
        reason: its name in metrics.
        retry_after: seconds after which the same request may work; ``None`` if it never will.
    """

    def __init__(self, message: str, code: str, reason: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.retry_after = retry_after


class SettingsError(RealizehitError, ValueError):
    """A flag, an environment variable or the configuration file has a value that cannot be used."""


class BrokerError(RealizehitError):
    """The broker failed to do what it was asked."""


class BrokerUnavailable(BrokerError, ConnectionError):
    """The broker cannot be reached now; the same request may work later."""

    code = ErrorCode.UNAVAILABLE


class PublishUnclear(RealizehitError):
    """The connection broke or the time ran out after a message was sent: it may have been published.

    Sending it again could deliver it twice, unless it has an idempotency key.
    """


class BrokerUnclear(PublishUnclear, BrokerUnavailable):
    """The broker may have taken the message."""


class BrokerRefused(BrokerError):
    """The broker answered with an error, such as a missing permission or a full memory."""

    code = ErrorCode.BROKER_REFUSED


class RegistryFull(BrokerRefused):
    """So many shapes of wildcard subscriptions are in use that the broker takes no other."""

    code = ErrorCode.TOO_MANY_SHAPES


class EmbeddedUnavailable(BrokerError):
    """This platform has no Valkey to embed; the text says what to set instead."""


class LoadTestError(RealizehitError):
    """A load test cannot run: no server, no broker or no connection."""


class ClientError(RealizehitError):
    """Root of what the Python clients raise.

    Attributes:
        retry_after: seconds after which the same request may work, by the server; ``None`` if it does not say.
    """

    retry_after: float | None = None


class Unavailable(ClientError, ConnectionError):
    """The server did not answer, or answered that it cannot serve now; the same request may work later.

    Args:
        message: what happened.
        status: the HTTP status, or ``None`` if there was no answer or it came over WebSocket.
    """

    code = ErrorCode.UNAVAILABLE

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


ServerUnavailable = Unavailable
"""The earlier name of `Unavailable`."""


class Rejected(ClientError):
    """The server refused the request.

    Args:
        message: the server's explanation.
        code: the server's stable code, one of `ErrorCode` or a later addition.
        status: the HTTP status, or ``None`` over WebSocket.
    """

    def __init__(self, message: str, code: str = "", status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class BadPattern(Rejected):
    """The server refused the pattern. A `PatternError` is what this side finds wrong with one."""


class Forbidden(Rejected):
    """The client may not do this."""


class NotAuthenticated(Rejected):
    """The server does not know who the client is: a key or token is missing, wrong or expired."""


class RateLimited(Rejected):
    """The client sent too many requests; the same request may work later."""


class TooLarge(Rejected):
    """The request is larger than the server accepts."""


class Disconnected(ClientError, ConnectionError):
    """The connection went away before the answer came.

    Args:
        message: what happened.
        close_code: the WebSocket close code, or ``None`` if there was none.
    """

    def __init__(self, message: str, close_code: int | None = None) -> None:
        super().__init__(message)
        self.close_code = close_code


class AnswerLost(PublishUnclear, Disconnected):
    """The connection went away after a publication was sent; whether it was published is not known."""


class ResponseTimeout(ClientError, TimeoutError):
    """The answer did not come in time; whether the request took effect is not known."""


class AnswerLate(PublishUnclear, ResponseTimeout):
    """The answer to a publication did not come in time; whether it was published is not known."""


class QueueOverflow(ClientError):
    """A subscription's queue was full, and its overflow policy is ``error``."""


class TokenUnavailable(ClientError):
    """The function that returns a client's tokens failed, or returned no token; the cause is its error."""
