"""Starts modules of this package in fresh interpreters, without importing from the working directory.

An interpreter that is started with ``-m`` or ``-c`` looks into the working directory first: it would run a file there
that has the name of any module. Our children get this process's import path instead, without that directory.
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
    return [sys.executable, "-P", "-m", module, *arguments]  # -P: do not import from the working directory


def environment() -> dict[str, str]:
    """Return this process's environment, changed so that children import the same modules as this process."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(_places()), "PYTHONSAFEPATH": "1"}


def leave_working_directory() -> None:
    """Remove the working directory, which ``python -m`` puts first, from the import path, unless this package is in it.

    A command calls this first. Modules that are imported already stay.
    """
    sys.path[:] = _places()


def _places() -> list[str]:
    here = _working_directory()
    places = [place for place in sys.path if place and (Path(place).resolve() != here or here == ROOT)]
    found = PathFinder.find_spec(_PACKAGE, places)
    if found is None or found.origin is None or Path(found.origin).resolve().parents[1] != ROOT:
        places.insert(0, str(ROOT))  # otherwise a child would not find this package, or find another one
    return places


def _working_directory() -> Path | None:
    try:
        return Path.cwd().resolve()
    except FileNotFoundError:  # it was removed
        return None
