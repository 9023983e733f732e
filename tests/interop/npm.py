"""Packages from the npm registry, for the tests that drive them with Node.js."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def require_node() -> None:
    """Fail a test where Node.js or npm is missing: what it shows can be shown by nothing else."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.fail(f"{tool} is not installed; this needs Node.js 20 with npm, and a network to install packages")


def install(directory: Path, script: Path, *specs: str, optional: bool = False) -> Path:
    """Install packages into a directory, without running their scripts, put our script beside them, and return it.

    Args:
        directory: where to; it is empty.
        script: the JavaScript that uses the packages.
        *specs: which, as npm names them, each with its version.
        optional: whether what they merely would like to have is installed too.
    """
    require_node()
    (directory / "package.json").write_text('{"private": true}')
    words = ["--no-audit", "--no-fund", "--ignore-scripts", *([] if optional else ["--omit=optional"])]
    done = subprocess.run(
        ["npm", "install", *words, *specs],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.copy(script, directory)
    return directory
