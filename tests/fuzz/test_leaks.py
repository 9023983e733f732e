"""Under valgrind: twice the work loses no more memory."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")
def test_nothing_is_lost() -> None:
    command = [sys.executable, "-m", "tests.fuzz.leaks", "2"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=390, check=False)
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-4000:]
    assert "definitely lost after 2 rounds" in result.stdout
