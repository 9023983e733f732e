"""The fuzzers, and where their cases lie.

A fuzzer is a module of this package with a function ``one(data)``, which takes any bytes and raises where the invariant
in the module's head does not hold. Its small corpus, and each case that once broke it, are files in ``corpus/NAME``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

NAMES: Final = (
    "actions",
    "broker_publisher",
    "broker_subscriber",
    "connections",
    "engine_calls",
    "engineio_payloads",
    "history_rules",
    "load_client",
    "opening_heads",
    "pattern_text",
    "patterns",
    "plain_subs",
    "publications",
    "queries",
    "request_bodies",
    "request_heads",
    "settings_files",
    "shape_registry",
    "websocket_frames",
)
CORPUS: Final = Path(__file__).parent / "corpus"

MINUTE: Final = (
    ("websocket_frames",),
    ("actions",),
    ("patterns",),
    ("engineio_payloads",),
    ("connections", "publications", "request_bodies"),
    ("broker_publisher", "broker_subscriber", "shape_registry"),
)
"""What is fuzzed for a minute of each kind wherever all is: WebSocket bytes, actions, patterns, Engine.IO's payloads,
HTTP connections and bodies, and what brokers answer. Fuzzers of one kind share its minute."""

PYTHON: Final = (
    "broker_publisher",
    "connections",
    "history_rules",
    "request_bodies",
    "request_heads",
    "settings_files",
    "shape_registry",
)
"""Whose cases go through no extension, or hardly; the others are fuzzed under the sanitizers too."""


def seconds_of(name: str) -> float:
    """Return for how long a fuzzer is run where nobody says for how long."""
    return next((60 / len(kind) for kind in MINUTE if name in kind), 5.0)


def load(name: str) -> Callable[[bytes], None]:
    """Import a fuzzer and return its function."""
    return cast("Callable[[bytes], None]", importlib.import_module(f"tests.fuzz.{name}").one)


def cases(name: str) -> list[Path]:
    """Return the files of a fuzzer's corpus."""
    return sorted(path for path in (CORPUS / name).iterdir() if path.is_file())
