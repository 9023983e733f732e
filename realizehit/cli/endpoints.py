"""Addresses as people write them, made into the URLs that clients use."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit, urlunsplit

DEFAULT_WS: Final = "ws://127.0.0.1:8080/ws"
DEFAULT_API: Final = "http://127.0.0.1:8080/"


def ws_endpoint(given: str) -> str:
    """Return the WebSocket URL of an address: ``https://example.org`` is ``wss://example.org/ws``."""
    parts = urlsplit(given if "://" in given else f"ws://{given}")
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") or "/ws", parts.query, ""))


def api_endpoint(given: str, prefix: str = "/") -> str:
    """Return the API's URL of an address: ``example.org`` is ``http://example.org/`` with the prefix."""
    parts = urlsplit(given if "://" in given else f"http://{given}")
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    path = parts.path if parts.path not in ("", "/") else prefix
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))
