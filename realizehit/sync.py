"""The publishers for programs without an event loop.

The same methods, results and errors as their namesakes in `realizehit`, over the synchronous side of the same
libraries: no thread, no hidden loop. Each may be shared by threads. Names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realizehit.client.messages import PublishOutcome, PublishResult, RawJSON
    from realizehit.client.sync_api import APIClient
    from realizehit.client.sync_publisher import Publisher

__all__ = ["APIClient", "PublishOutcome", "PublishResult", "Publisher", "RawJSON"]

_HOMES = {
    "APIClient": "realizehit.client.sync_api",
    "Publisher": "realizehit.client.sync_publisher",
    "PublishOutcome": "realizehit.client.messages",
    "PublishResult": "realizehit.client.messages",
    "RawJSON": "realizehit.client.messages",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
