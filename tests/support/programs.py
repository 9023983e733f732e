"""Programs that a test needs and that a machine may not have."""

from __future__ import annotations

import os
import shutil

import pytest


def needs(program: str) -> None:
    """Skip a test if a program is not installed; fail it if all must be installed, as in CI.

    Args:
        program: its name; what administrators' paths have counts too.
    """
    if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        (pytest.fail if os.environ.get("REALIZEHIT_ALL_PROGRAMS") else pytest.skip)(f"{program} is not installed")
