"""Every fuzzer for a while: what takes bytes from a wire for a minute of each kind, the others for seconds.

``REALIZEHIT_FUZZ_SECONDS`` is for how long each is run instead. All start from one seed: a run that fails then shows
what a change broke, and does not depend on chance. ``REALIZEHIT_FUZZ_SEED`` names another one, and
``python -m tests.fuzz`` looks with a new one each time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from tests.fuzz.targets import NAMES, seconds_of

SECONDS = os.environ.get("REALIZEHIT_FUZZ_SECONDS")
SEED = os.environ.get("REALIZEHIT_FUZZ_SEED", "1")


def runs() -> list[Any]:
    """The fuzzers with their times; the longest first, so that nothing waits for it at the end."""
    times = {name: seconds_of(name) if SECONDS is None else float(SECONDS) for name in NAMES}
    return [
        pytest.param(name, times[name], id=name, marks=pytest.mark.timeout(times[name] + 120))
        for name in sorted(NAMES, key=lambda name: -times[name])
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seconds"), runs())
def test_nothing_breaks_it(name: str, seconds: float) -> None:
    command = [sys.executable, "-m", f"tests.fuzz.{name}", "--seconds", str(seconds), "--seed", SEED]
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        command.append("--blind")  # atheris brings a sanitizer of its own
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    # The case that broke it is the last that stands in the output, and longer than the rest.
    assert result.returncode == 0, result.stderr[-4000:] + result.stdout[-12_000:]
