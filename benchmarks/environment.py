"""The environment of an interpreter that may have another revision of realizehit installed."""

from __future__ import annotations

import os
import sys


def environment_for(python: str) -> dict[str, str]:
    """Return the environment in which an interpreter finds its own realizehit.

    For another interpreter than this one, that is without ``PYTHONPATH``: it would put this checkout first.
    """
    own = python == sys.executable
    return {name: value for name, value in os.environ.items() if own or name != "PYTHONPATH"}
