"""The environment of an interpreter that may have another revision of realizehit installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def environment_for(python: str) -> dict[str, str]:
    """Return the environment in which an interpreter finds its own realizehit.

    For another interpreter than this one, that is without ``PYTHONPATH``: it would put this checkout first.
    """
    own = python == sys.executable
    return {name: value for name, value in os.environ.items() if own or name != "PYTHONPATH"}


def environment_for_script(python: str) -> dict[str, str]:
    """Return the environment of a script that imports ``engines``, and runs with its interpreter's realizehit."""
    environment = environment_for(python)
    places = [str(Path(__file__).parent), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, places))}
