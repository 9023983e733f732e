"""What the WebSocket client says and hears, and when it comes back: values in, values out, no socket.

Source: section 1 of the wire protocol, ``docs/protocol.md``.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import orjson

from realizehit.common.masking import masked
from realizehit.errors import (
    CloseCode,
    ErrorCode,
    PatternError,
    Rejected,
    ServerUnavailable,
    SettingsError,
    TokenUnavailable,
)

_DELAY: Final = re.compile(r"delay=(\d{1,9})")  # milliseconds, in the reason of close code 4001
MAX_SECONDS: Final = 86_400.0  # of what a server tells; more would overflow timers and says nothing
MAX_DELAY: Final = 300.0  # seconds that a server may keep a client from coming back
_DO_NOT_RETURN: Final = range(4500, 5000)
_NEVER_STATUS: Final = (401, 403)  # of a handshake; others may be a deployment under way


class Reply(NamedTuple):
    """The server's answer to one action.

    Attributes:
        id: the action's id.
        ret: what it returned; ``None`` where the server leaves it out, as the original JavaScript server does.
        error: the server's explanation, empty where there is no error.
        code: the error's stable code.
    """

    id: str
    ret: str | None
    error: str
    code: str

    def failure(self) -> Rejected | ServerUnavailable | None:
        """Return the error that this reply means, if any."""
        if not self.error:
            return None
        if self.code == ErrorCode.UNAVAILABLE:
            return ServerUnavailable(self.error)
        return Rejected(self.error, self.code)


def action(request_id: str, act: str, filters: Mapping[str, Any] | None = None, *, token: str | None = None) -> str:
    """Build the JSON text of one action."""
    message: dict[str, Any] = {"id": request_id, "act": act}
    if filters is not None:
        message["pat"] = filters
    if token is not None:
        message["token"] = token
    return orjson.dumps(message).decode()


def parse_reply(message: bytes) -> Reply | None:
    """Read a message that is no payload; ``None`` where it is no reply either, which a client ignores."""
    try:
        values = orjson.loads(message)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(values, dict) or not isinstance(values.get("id"), str):
        return None
    ret, error = values.get("ret"), values.get("err")
    return Reply(
        values["id"],
        ret if isinstance(ret, str) else None,
        "" if error is None else str(error),
        str(values.get("code", "")),
    )


class Notice(NamedTuple):
    """What a server tells without having been asked.

    Attributes:
        name: ``gap``, ``unsubscribed`` or ``expiring``; there may be others, which a client ignores.
        labels: the ids of the subscriptions that it concerns.
        seconds: of a gap, how long it was; of a token that expires, how long it still holds.
        reason: why a subscription was ended, for a person.
        code: the same for programs.
    """

    name: str
    labels: tuple[str, ...]
    seconds: float = 0.0
    reason: str = ""
    code: str = ""


def parse_event(message: bytes) -> Notice | None:
    """Read a message that is neither a payload nor a reply; ``None`` where it is no event either."""
    try:
        values = orjson.loads(message)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(values, dict) or not isinstance(values.get("evt"), str):
        return None
    labels, seconds = values.get("ids"), values.get("seconds")
    return Notice(
        values["evt"],
        tuple(label for label in labels if isinstance(label, str)) if isinstance(labels, list) else (),
        max(0.0, min(MAX_SECONDS, seconds)) if isinstance(seconds, int | float) else 0.0,
        str(values.get("reason", "")),
        str(values.get("code", "")),
    )


def filters_of(pattern: object) -> dict[str, Any]:
    """Return a pattern's filters as a plain dict that can be written as JSON; the server judges them.

    Raises:
        PatternError: it is no mapping, or holds what JSON cannot.
    """
    if not isinstance(pattern, Mapping):
        raise PatternError(f"a pattern is a mapping of filters, not {type(pattern).__name__}")
    filters = dict(pattern)
    try:
        orjson.dumps(filters)
    except TypeError as error:
        raise PatternError(f"the pattern {filters!r} cannot be written as JSON: {error}") from None
    return filters


def computed_id(filters: Mapping[str, Any]) -> str:
    """Return a pattern's id where the server does not tell it. This alone needs the extension."""
    from realizehit.pattern import Pattern

    return Pattern(filters).id


def may_return(close_code: int | None, token: object = None) -> bool:
    """Whether a client may reconnect after a close code.

    Args:
        close_code: ``None`` is a connection that broke.
        token: the client's; a function can give a fresh one where the old one has ended (4501).
    """
    return close_code not in _DO_NOT_RETURN or (close_code == CloseCode.NOT_AUTHENTICATED and callable(token))


def may_try_again(failure: Rejected | ServerUnavailable | TokenUnavailable) -> bool:
    """Whether a client that cannot come back now may come back later."""
    return not isinstance(failure, Rejected) or failure.status not in (*_NEVER_STATUS, None)


def asked_delay(close_code: int | None, reason: str) -> float | None:
    """Return the seconds after which the server asked the client to come back, `MAX_DELAY` at most.

    ``None`` where it did not say.
    """
    match = _DELAY.fullmatch(reason) if close_code == CloseCode.DRAIN else None
    return min(MAX_DELAY, int(match[1]) / 1000) if match else None


def no_socks(package: str) -> SettingsError:
    """Return the error for a SOCKS proxy whose library is missing."""
    return SettingsError(
        f"the environment names a SOCKS proxy (ALL_PROXY or HTTPS_PROXY), which needs the package {package}: install"
        " it, or put the server's host into NO_PROXY"
    )


def bad_proxy(error: Exception) -> SettingsError:
    """Return the error for a proxy that the library does not understand; the text shows no login."""
    return SettingsError(
        f"the environment names a proxy (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) that cannot be used: {masked(str(error))}"
    )


def was_silent(began: float, timeout: float) -> bool:
    """Whether an attempt that failed took all the time that a publication has: another one would take as long.

    Args:
        began: by ``time.monotonic()``.
        timeout: seconds that a publication has.
    """
    return time.monotonic() - began >= 0.9 * timeout


class Backoff:
    """Capped exponential back-off with full jitter: each delay is drawn evenly from zero to the bound, which doubles.

    Full jitter keeps the clients of a server that failed from coming back in waves.

    Args:
        base: seconds, the first bound.
        cap: seconds, the last bound.
        draw: returns a number from 0 to 1.
    """

    def __init__(self, base: float, cap: float, draw: Callable[[], float] = random.random) -> None:
        self._base = base
        self._cap = cap
        self._draw = draw
        self._attempts = 0

    def next(self) -> float:
        """Return the next delay in seconds."""
        bound = min(self._cap, self._base * 2.0 ** min(self._attempts, 64))
        self._attempts += 1
        return self._draw() * bound

    def reset(self) -> None:
        """Start over at the first bound."""
        self._attempts = 0
