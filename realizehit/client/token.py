"""A client's token: getting it, sending it, and keeping it out of logs.

The opening handshake sends it in ``Authorization``; a renewal sends it in an ``auth`` action.
"""

from __future__ import annotations

import inspect
import logging
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from websockets.frames import Frame

from realizehit.errors import SettingsError, TokenUnavailable

SyncToken = str | Callable[[], str]
"""A token, or a function that returns a fresh one each time."""

Token = str | Callable[[], str | Awaitable[str]]
"""The same, where the function may be a coroutine function."""

_HEADER: Final = "Authorization"
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")


def check(token: object, headers: Mapping[str, str] | None) -> None:
    """Check that a client can use what it was given as its token.

    Raises:
        SettingsError: it is not a text that a header can carry, or the headers have an ``Authorization`` too.
    """
    if token is None:
        return
    if not callable(token):
        _checked(token)
    if any(name.lower() == _HEADER.lower() for name in headers or ()):
        raise SettingsError("both a token and an Authorization header were given; give one of them")


async def current(token: Token) -> str:
    """Return the token; if the setting is a function, call it for a fresh one.

    Raises:
        TokenUnavailable: the function failed.
    """
    try:
        value = token() if callable(token) else token
        return _checked(await value if inspect.isawaitable(value) else value)
    except Exception as error:
        raise _unavailable(error) from error


def current_sync(token: SyncToken) -> str:
    """Return the token, as `current` does, for functions that are not coroutine functions."""
    try:
        return _checked(token() if callable(token) else token)
    except Exception as error:
        raise _unavailable(error) from error


def with_token(headers: Mapping[str, str] | None, token: str) -> dict[str, str]:
    """Return the headers of an opening handshake that carries a token."""
    return {**(headers or {}), _HEADER: f"Bearer {token}"}


def renewal_delay(seconds: float) -> float:
    """Return the seconds after which to renew a token that ends in ``seconds``.

    The delay is random, so that clients whose tokens expire together do not renew together. It is never 0, so that a
    client whose tokens are shorter than the server's warning time pauses between renewals.
    """
    return seconds * random.uniform(0.25, 0.5)  # noqa: S311 - no secret, a spread


def _checked(token: object) -> str:
    if not isinstance(token, str) or not _VISIBLE.fullmatch(token):
        raise SettingsError("the token is not a text of visible ASCII characters")
    return token


def _unavailable(error: Exception) -> TokenUnavailable:
    return TokenUnavailable(f"there is no token: {str(error) or type(error).__name__}")


class _HideTokens(logging.Filter):
    """Remove tokens from the library's debug lines: headers, and frames of the action ``auth``."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; return true, so that every record is logged."""
        if isinstance(record.args, tuple):
            record.args = tuple(map(_shown, record.args, (None, *record.args)))
        return True


def _shown(value: Any, before: Any) -> Any:
    if before == _HEADER:
        return "***"
    return "an auth action" if isinstance(value, Frame) and b'"act":"auth"' in bytes(value.data) else value


LOGGER: Final = logging.getLogger("websockets.client.realizehit")
"""For the library's connections of these clients; its level and handlers are those of ``websockets.client``."""

LOGGER.addFilter(_HideTokens())
