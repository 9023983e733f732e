"""A test of the guard itself: it must reject a build whose writer sends each frame by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.guard import facts


def build(directory: Path, **environment: str) -> None:
    """Build the extensions from a copy of the sources."""
    shutil.copytree(
        facts.ROOT / "realizehit", directory / "realizehit", ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__")
    )
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(facts.ROOT / name, directory)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "-j2"],
        check=True, cwd=directory, capture_output=True, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.timeout(400)
def test_the_guard_rejects_a_build_without_coalescing(tmp_path: Path) -> None:
    assert facts.complaints() == []
    build(tmp_path, REALIZEHIT_NO_COALESCE="1")
    sends = facts.MESSAGES * facts.BATCHES * facts.SUBSCRIBERS
    assert facts.complaints(tmp_path) == [
        f"sends: {sends} for {facts.BATCHES} batches to {facts.SUBSCRIBERS} connections"
    ]
