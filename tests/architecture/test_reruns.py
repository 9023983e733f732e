"""Which tests ``--reruns`` is for: not those whose failure the next run may not show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import RUN_AGAIN

ROOT = Path(__file__).parents[2]
FAILING = """
from pathlib import Path

def test_once():
    mark = Path(__file__).with_suffix(".ran")
    with mark.open("a") as file:
        file.write(".")
    assert False
"""


def test_random_cases_fail_at_once(tmp_path: Path) -> None:
    names = {directory.name for directory in (ROOT / "tests").iterdir() if (directory / "__init__.py").exists()}
    assert names >= RUN_AGAIN
    for name in names:
        tmp_path.joinpath(name).mkdir()
        tmp_path.joinpath(name, f"test_{name}.py").write_text(FAILING)
    words = ["-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, "-p", "no:cacheprovider", "-p", "tests.conftest"]
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "--reruns", "1", *map(str, words), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert re.search(rf"{len(names)} failed, {len(RUN_AGAIN)} rerun", done.stdout), done.stdout + done.stderr
    again = {name for name in names if tmp_path.joinpath(name, f"test_{name}.ran").read_text() == ".."}
    assert again == RUN_AGAIN
