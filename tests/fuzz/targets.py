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
    "engine_calls",
    "engineio_payloads",
    "load_client",
    "pattern_text",
    "patterns",
    "publications",
    "queries",
    "request_heads",
    "settings_files",
    "websocket_frames",
)
CORPUS: Final = Path(__file__).parent / "corpus"


def load(name: str) -> Callable[[bytes], None]:
    """Import a fuzzer and return its function."""
    return cast("Callable[[bytes], None]", importlib.import_module(f"tests.fuzz.{name}").one)


def cases(name: str) -> list[Path]:
    """Return the files of a fuzzer's corpus."""
    return sorted(path for path in (CORPUS / name).iterdir() if path.is_file())
