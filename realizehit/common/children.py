"""Fresh interpreters that run a module of this package: what they import, and what they must not.

An interpreter that is started with ``-m`` or ``-c`` looks into the working directory first, and a file there with the
name of any module would be run. Our children get this process's own list of places instead, without that directory.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
"""The directory that holds this package."""

_PACKAGE: Final = "realizehit"


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of this package in an interpreter like this one."""
    return [sys.executable, "-P", "-m", module, *arguments]  # -P: the working directory is no place to import from


def environment() -> dict[str, str]:
    """Return this process's environment, changed so that a child and its own children import what this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(_places()), "PYTHONSAFEPATH": "1"}


def leave_working_directory() -> None:
    """Import nothing more from the working directory, which ``python -m`` puts in front, unless this package is there.

    To be called first thing by a command; modules that are imported already stay.
    """
    sys.path[:] = _places()


def _places() -> list[str]:
    here = _working_directory()
    places = [place for place in sys.path if place and (Path(place).resolve() != here or here == ROOT)]
    found = PathFinder.find_spec(_PACKAGE, places)
    if found is None or found.origin is None or Path(found.origin).resolve().parents[1] != ROOT:
        places.insert(0, str(ROOT))  # it was found in some other way, and would not be, or another one
    return places


def _working_directory() -> Path | None:
    try:
        return Path.cwd().resolve()
    except FileNotFoundError:  # it was removed
        return None
