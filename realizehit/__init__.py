"""realizehit: publish to patterns, deliver over WebSockets.

The public names. They are imported on first use, so that a program that only subscribes does not load what a server
needs, and the clients work where the extension was not built.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from realizehit.client.api import APIClient
    from realizehit.client.publisher import Publisher
    from realizehit.client.ws import Subscription, WSClient
    from realizehit.errors import RealizehitError
    from realizehit.pattern import Pattern

__all__ = ["APIClient", "Pattern", "Publisher", "RealizehitError", "Subscription", "WSClient", "__version__"]

_HOMES = {
    "APIClient": "realizehit.client.api",
    "Pattern": "realizehit.pattern",
    "Publisher": "realizehit.client.publisher",
    "RealizehitError": "realizehit.errors",
    "Subscription": "realizehit.client.ws",
    "WSClient": "realizehit.client.ws",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
