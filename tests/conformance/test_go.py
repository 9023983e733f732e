"""The Go client: its own tests under the race detector, what `go vet` says, and the conformance cases."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conformance.running import failures_of
from tests.support.processes import serving
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


@pytest.mark.timeout(300)
def test_the_first_message_of_its_readme(tmp_path: Path) -> None:
    needs("go")
    block = re.search(r"```go\n(.*?)```", (GO / "README.md").read_text(), re.DOTALL)
    assert block is not None
    with serving() as server:
        text = block[1].replace("ws://127.0.0.1:8080/ws", server.ws).replace("http://127.0.0.1:8080/", server.api)
        (tmp_path / "main.go").write_text(text)
        module = "github.com/realizehit/realizehit-go"
        (tmp_path / "go.mod").write_text(
            f"module first\n\ngo 1.23\n\nrequire {module} v0.0.0\n\nreplace {module} => {GO}\n"
        )
        subprocess.run(["go", "mod", "tidy"], cwd=tmp_path, check=True, capture_output=True)
        done = subprocess.run(["go", "run", "."], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == '"hello"\n'
