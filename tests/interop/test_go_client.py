"""The Go client: the programs of its pages, and the example that follows the ticker."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from realizehit.sync import APIClient
from tests.support.processes import running, serving
from tests.support.programs import needs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "clients" / "go"
PAGES = (CLIENT / "README.md", ROOT / "docs" / "clients" / "go.md")
_PROGRAM = re.compile(r"^```go\n(package main\n.*?)^```$", re.MULTILINE | re.DOTALL)


def build(source: Path, directory: Path) -> str:
    """Compile a program with the client's module, and return the path of what was built."""
    needs("go")
    program = directory / source.stem
    words = ["go", "build", "-o", str(program), str(source)]
    done = subprocess.run(words, cwd=CLIENT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return str(program)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_first_message_of_a_page(page: Path, tmp_path: Path) -> None:
    (text,) = _PROGRAM.findall(page.read_text(encoding="utf-8"))
    source = tmp_path / "first.go"
    with serving() as server:
        text = text.replace("ws://127.0.0.1:8080/ws", server.ws).replace("http://127.0.0.1:8080/", server.api)
        source.write_text(text, encoding="utf-8")
        program = build(source, tmp_path)
        done = subprocess.run([program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, '"hello"\n'), done.stderr


def test_the_ticker_is_followed(tmp_path: Path) -> None:
    follow = build(ROOT / "examples" / "ticker" / "follow.go", tmp_path)
    with (
        serving() as server,
        running(follow, "-ws", server.ws, "AAPL") as ticker,
        APIClient(server.api, trust_env=False) as api,
    ):
        ticker.find(r"following AAPL$")
        api.publish({"kind": "stock", "symbol": "AAPL"}, {"symbol": "AAPL", "date": "2000-01-01", "price": 25.94})
        ticker.find(r"^2000-01-01  AAPL     25\.94$")
