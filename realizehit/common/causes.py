"""Turns errors of sockets, name look-ups and TLS into texts for people, in the system's words."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Final

from realizehit.errors import RealizehitError

_HIDES: Final = "httpcore"  # a library that raises its errors "from None", though their contexts say why
_NUMBER: Final = re.compile(r"\[Errno (\d+)\]")


def reason_of(error: BaseException) -> str:
    """Return the text of the cause: ``Connection refused`` for what asyncio and the HTTP library wrap differently."""
    for cause in causes_of(error):
        text = _reason(cause)
        if text:
            return text
    return str(error) or type(error).__name__


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it, the error itself first; of a group the first of its members."""
    cause: BaseException | None = error
    for _ in range(20):  # a bound for a chain that is a circle
        if cause is None:
            return
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        elif cause.__suppress_context__ and not type(cause).__module__.startswith(_HIDES):
            cause = cause.__cause__
        else:
            cause = cause.__cause__ or cause.__context__


def _reason(cause: BaseException) -> str:
    if isinstance(cause, RealizehitError):
        return str(cause)  # it says all of it
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the server's certificate is not accepted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed: {cause.reason.replace('_', ' ').lower() if cause.reason else cause}"
    if isinstance(cause, socket.gaierror):
        return str(cause.strerror or cause)
    if not isinstance(cause, OSError):
        return ""
    # If a name has several addresses, asyncio puts the error of each into the text.
    numbers = {cause.errno} if cause.errno else {int(number) for number in _NUMBER.findall(str(cause))}
    return os.strerror(numbers.pop()) if len(numbers) == 1 else ""
