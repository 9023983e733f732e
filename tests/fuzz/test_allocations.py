"""Runs of engine calls in which one allocation fails: some of the extension's own, and in the slow tests many more."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or shutil.which("gcc") is None or "libasan" in os.environ.get("LD_PRELOAD", ""),
    reason="needs glibc and gcc, and to be the only one that stands in for malloc",
)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--every", "7"], id="some"),
        pytest.param([], id="each", marks=pytest.mark.slow),
        pytest.param(["--all", "--every", "97"], id="pythons-too", marks=pytest.mark.slow),
    ],
)
def test_an_allocation_that_fails_breaks_nothing(options: list[str]) -> None:
    command = [sys.executable, "-m", "tests.fuzz.allocations", *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert int(result.stdout.split()[0]) > 10, "so few runs show nothing"
