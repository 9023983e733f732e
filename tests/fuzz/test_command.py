"""What is left of a case that breaks a fuzzer."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.command import run

BREAKING = """
import os
from pathlib import Path
from tests.fuzz import watched

def one(data):
    if len(data) > 40:
        {what}

watched.load = lambda name: one
watched.blind("patterns", 60.0, Path({found!r}), Path({seeds!r}), 1)
"""


@pytest.mark.parametrize("what", ["raise ValueError", "os.abort()"])
def test_the_case_is_there_also_where_the_process_is_not(what: str, tmp_path: Path) -> None:
    found, seeds = tmp_path / "found", tmp_path / "seeds"
    found.mkdir()
    seeds.mkdir()
    seeds.joinpath("seed").write_bytes(b"a" * 39)
    script = BREAKING.format(what=what, found=str(found), seeds=str(seeds))
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode
    (case,) = found.iterdir()
    assert case.name.startswith("crash-")
    assert len(case.read_bytes()) > 40


def test_a_blind_run_that_finds_nothing_leaves_nothing(tmp_path: Path) -> None:
    assert run("pattern_text", 0.1, blind=True, corpus=tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_what_is_printed_puts_the_case_into_the_corpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = bytes(range(256)) * 16

    def broken(command: list[str], *, env: dict[str, str], check: bool) -> subprocess.CompletedProcess[bytes]:
        found = Path(command[5])
        found.joinpath("crash-1").write_bytes(case)
        found.joinpath("0123").write_bytes(b"a case that reached new code")
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr("tests.fuzz.command.subprocess.run", broken)
    assert run("patterns", 1.0) == 1
    printed = capsys.readouterr().out
    match = re.search(r"echo (\S+) \| base64 -d > tests/fuzz/corpus/patterns/crash-1$", printed, re.MULTILINE)
    assert match
    assert base64.b64decode(match[1]) == case
    assert printed.count("echo") == 1
