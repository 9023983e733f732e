"""The Go client: its own tests under the race detector, what `go vet` says, and the conformance cases."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conformance.running import failures_of
from tests.support.programs import needs

pytestmark = pytest.mark.slow

GO = Path(__file__).resolve().parents[2] / "clients" / "go"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("words", [("vet", "./..."), ("test", "-race", "./...")], ids=["vet", "test"])
def test_the_go_client(words: tuple[str, ...]) -> None:
    needs("go")
    done = subprocess.run(["go", *words], cwd=GO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_go_client_is_formatted() -> None:
    needs("gofmt")
    done = subprocess.run(["gofmt", "-l", "."], cwd=GO, capture_output=True, text=True, check=True)
    assert not done.stdout


@pytest.mark.timeout(300)
async def test_the_go_client_passes_the_cases() -> None:
    assert not await failures_of("go")
