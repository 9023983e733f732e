"""Idempotency keys: what they may be, and new ones."""

from __future__ import annotations

import re
import secrets
from typing import Any, Final

from realizehit.errors import RequestError

MAX_KEY: Final = 64  # characters

_KEY: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?", re.ASCII)
_BYTES: Final = 16


def check_key(key: Any, place: str) -> bytes:
    """Return a key as bytes.

    Args:
        key: what was given.
        place: where it was given, for the error.

    Raises:
        RequestError: ``bad-request``; it is no text of 1 to 64 printable ASCII characters, or begins or ends with a
            blank.
    """
    if not isinstance(key, str):
        raise RequestError(f"{place} must be a text")
    if not 0 < len(key) <= MAX_KEY:
        raise RequestError(f"{place} has {len(key)} characters; use 1 to {MAX_KEY}")
    if not _KEY.fullmatch(key):
        raise RequestError(f"{place} may have printable ASCII characters only, and no blank at its begin or end")
    return key.encode("ascii")


def new_key() -> str:
    """Return a random key of 128 bits."""
    return secrets.token_urlsafe(_BYTES)
