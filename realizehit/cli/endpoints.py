"""Makes the URLs that clients use from addresses as people write them."""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, urlsplit, urlunsplit

from realizehit.common.masking import masked
from realizehit.errors import SettingsError

DEFAULT_WS: Final = "ws://127.0.0.1:8080/ws"
DEFAULT_API: Final = "http://127.0.0.1:8080/"

_WS: Final = "the URL cannot be used; write ws://host:port/ws"
_API: Final = "the API's URL cannot be used; write http://host:port/"


def ws_endpoint(given: str) -> str:
    """Return the WebSocket URL of an address: ``https://example.org`` is ``wss://example.org/ws``.

    Raises:
        SettingsError: it is not an address; the text says what is wrong. The clients check the scheme.
    """
    parts = _split(given, "ws", _WS)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") or "/ws", parts.query, ""))


def api_endpoint(given: str, prefix: str = "/") -> str:
    """Return the API's URL of an address: ``example.org`` is ``http://example.org/`` with the prefix.

    Raises:
        SettingsError: as `ws_endpoint`.
    """
    parts = _split(given, "http", _API)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    path = parts.path if parts.path not in ("", "/") else prefix
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


def _split(given: str, scheme: str, message: str) -> SplitResult:
    """Split an address, which may lack its scheme."""
    message = f"{message}, not {masked(given)!r}"
    try:
        parts = urlsplit(given if "://" in given else f"{scheme}://{given}")
    except ValueError:
        raise SettingsError(f"{message}: the host cannot be read") from None
    try:
        _ = parts.port
    except ValueError:
        raise SettingsError(f"{message}: the port is not a number from 0 to 65535") from None
    if not parts.hostname:
        raise SettingsError(f"{message}: it has no host")
    if any(character <= " " or character == "\x7f" for character in given):
        raise SettingsError(f"{message}: there is a blank in it")
    return parts
