"""The clients for programs without an event loop.

`APIClient` and `Publisher` have the methods, results and errors of their namesakes in `realizehit`, and threads may
share one. `Subscriber` follows one pattern. All use the synchronous side of the same libraries: there is no hidden
event loop. Names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realizehit.client.messages import PublishOutcome, PublishResult, RawJSON
    from realizehit.client.sync_api import APIClient
    from realizehit.client.sync_publisher import Publisher
    from realizehit.client.sync_ws import Subscriber

__all__ = ["APIClient", "PublishOutcome", "PublishResult", "Publisher", "RawJSON", "Subscriber"]

_HOMES = {
    "APIClient": "realizehit.client.sync_api",
    "Publisher": "realizehit.client.sync_publisher",
    "PublishOutcome": "realizehit.client.messages",
    "PublishResult": "realizehit.client.messages",
    "RawJSON": "realizehit.client.messages",
    "Subscriber": "realizehit.client.sync_ws",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
