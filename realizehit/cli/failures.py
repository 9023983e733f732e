"""What a failure of a client is to the person at the terminal: its text, what may help, and its stable code."""

from __future__ import annotations

import errno
import ssl
from typing import Final

from realizehit.causes import causes_of
from realizehit.errors import Disconnected, LoadTestError, RealizehitError, ServerUnavailable

_UNKNOWN_ISSUER: Final = (18, 19, 20, 21)  # OpenSSL's codes for a certificate whose authority is not trusted
_NO_HTTP: Final = ("InvalidMessage", "RemoteProtocolError")  # what the libraries raise for an answer that is no HTTP


def told(error: RealizehitError) -> str:
    """Return one line: what went wrong, what to look at, and the code in parentheses where there is one."""
    advice = _advice(error)
    return f"{error}{f'; {advice}' if advice else ''}{f'  ({error.code})' if error.code else ''}"


def _advice(error: RealizehitError) -> str:
    if not isinstance(error, ServerUnavailable | Disconnected | LoadTestError):
        return ""
    over_tls = any(scheme in str(error) for scheme in ("https://", "wss://"))
    for cause in causes_of(error):
        if isinstance(cause, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(cause):
            return "is the server running there?"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "--ca FILE names the certificates to trust" if cause.verify_code in _UNKNOWN_ISSUER else ""
        if over_tls and (isinstance(cause, ssl.SSLError | TimeoutError) or "Timeout" in type(cause).__name__):
            return "does the server speak TLS there? without TLS it is http:// or ws://"
        if not over_tls and type(cause).__name__ in _NO_HTTP:
            return "does the server speak TLS there? then it is https:// or wss://"
    return ""
