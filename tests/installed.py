"""Run the tests against the installed package: ``python tests/installed.py [pytest's arguments]``.

They run in a copy of the checkout without ``realizehit/``, so that they import the installed package.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = {"realizehit", "build", "dist", "node_modules", "setup.py"}


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="realizehit-tests-") as directory:
        for item in ROOT.iterdir():
            if item.name in LEFT_OUT or item.name.startswith(".") or item.name.endswith(".egg-info"):
                continue
            if item.is_dir():
                left_out = shutil.ignore_patterns("__pycache__", "node_modules")
                shutil.copytree(item, Path(directory, item.name), ignore=left_out)
            else:
                shutil.copy(item, directory)
        os.environ["REALIZEHIT_CHECKOUT"] = str(ROOT)  # for the tests of how to install from one
        os.chdir(directory)
        return pytest.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
