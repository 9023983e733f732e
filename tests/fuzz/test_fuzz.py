"""Every fuzzer for a few seconds: ``REALIZEHIT_FUZZ_SECONDS`` for each, 5 by default."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.fuzz.targets import NAMES

SECONDS = float(os.environ.get("REALIZEHIT_FUZZ_SECONDS", "5"))


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_breaks_it(name: str) -> None:
    command = [sys.executable, "-m", f"tests.fuzz.{name}", "--seconds", str(SECONDS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
