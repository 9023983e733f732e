"""Describes a client's error for the person at the terminal: its text, what may help, and its stable code."""

from __future__ import annotations

import errno
import re
import ssl
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from realizehit.common.causes import causes_of
from realizehit.errors import ClientError, Disconnected, LoadTestError, RealizehitError, Unavailable

SHORT: Final = 5.0  # seconds; a shorter wait is not mentioned

_URL: Final = re.compile(r"\b(?:http|ws)s?://[^\s;]+")
_UNKNOWN_ISSUER: Final = (18, 19, 20, 21)  # OpenSSL's codes for a certificate whose authority is not trusted
_RESET: Final = (ConnectionResetError, BrokenPipeError)
_NO_HTTP: Final = ("InvalidMessage", "RemoteProtocolError")  # what the libraries raise for an answer that is not HTTP


def describe_error(error: RealizehitError) -> str:
    """Return one line: what went wrong, what to check, and the code in parentheses if the error has one."""
    advice = _advice(error)
    return f"{error}{f'; {advice}' if advice else ''}{f'  ({error.code})' if error.code else ''}"


def _advice(error: RealizehitError) -> str:
    asked = error.retry_after if isinstance(error, ClientError) else None
    if asked is not None and asked > SHORT:
        return f"it asks to wait {asked:,.0f} s; with a longer --timeout this command waits"
    if not isinstance(error, Unavailable | Disconnected | LoadTestError):
        return ""
    is_first = isinstance(error, Unavailable) or "http://" in str(error)  # not a connection that served before
    over_tls = any(scheme in str(error) for scheme in ("https://", "wss://"))
    for cause in causes_of(error):
        if isinstance(cause, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(cause):
            return _proxy(str(error)) or "is the server running there?"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "--ca FILE names the certificates to trust" if cause.verify_code in _UNKNOWN_ISSUER else ""
        if over_tls and (isinstance(cause, ssl.SSLError | TimeoutError) or "Timeout" in type(cause).__name__):
            return "does the server speak TLS there? without TLS it is http:// or ws://"
        # A server that speaks TLS closes a plain connection without an answer; depending on timing, the system reports
        # that as an end or as a reset.
        if not over_tls and (type(cause).__name__ in _NO_HTTP or (isinstance(cause, _RESET) and is_first)):
            return "does the server speak TLS there? then it is https:// or wss://"
    return ""


def _proxy(text: str) -> str:
    """Return advice if the environment sends the first URL in a text through a proxy; otherwise an empty text."""
    found = _URL.search(text)
    if found is None:
        return ""
    parts = urlsplit(found[0])
    proxies = getproxies()
    names = {"ws": ("socks", "https", "http"), "wss": ("socks", "https")}.get(parts.scheme, (parts.scheme, "all"))
    name = next((name for name in names if proxies.get(name)), None)
    if name is None or proxy_bypass(parts.netloc):
        return ""
    return f"that is the proxy of {name.upper()}_PROXY; NO_PROXY={parts.hostname} goes around it"
