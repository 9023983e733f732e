"""The Ruby client: its tests and linter, the gem as `gem` builds and installs it, its pages, the conformance cases."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from clients.conformance.real import RealServer
from tests.conformance.running import failures_of
from tests.support.processes import SCRIPTS
from tests.support.programs import needs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "clients" / "ruby"
PAGES = (CLIENT / "README.md", ROOT / "docs" / "clients" / "ruby.md")
_PROGRAM = re.compile(r"^```ruby\n(require .*?)^```$", re.MULTILINE | re.DOTALL)


def run(*words: str, directory: Path = CLIENT, env: Mapping[str, str] | None = None) -> str:
    """Run a program, and return what it wrote."""
    for program in {"ruby", words[0]}:
        needs(program)
    proxies = ("http_proxy", "https_proxy")
    own = {name: value for name, value in os.environ.items() if name.lower() not in proxies}
    done = subprocess.run(
        words,
        cwd=directory,
        env={**own, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
async def server() -> AsyncIterator[RealServer]:
    server = RealServer(())
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Build the gem, install it into an empty directory, and return the environment of programs that use it."""
    directory = tmp_path_factory.mktemp("gem")
    gem = directory / "realizehit.gem"
    assert "WARNING" not in run("gem", "build", "--strict", "realizehit.gemspec", "-o", str(gem))
    others = run("gem", "env", "gempath").strip()
    env = {"GEM_HOME": str(directory / "home"), "GEM_PATH": f"{directory / 'home'}:{others}"}
    run("gem", "install", "--local", "--no-document", str(gem), directory=directory, env=env)
    return env


def test_its_own_tests() -> None:
    written = run("rake", "test", env={"REALIZEHIT_SERVER": str(SCRIPTS / "realizehit-server")})
    assert ", 0 failures, 0 errors, 0 skips" in written, written


def test_its_linter() -> None:
    assert "no offenses detected" in run("rubocop", "--cache", "false")


def test_the_gem_holds_what_it_needs_and_nothing_else(installed: dict[str, str]) -> None:
    (home,) = Path(installed["GEM_HOME"]).glob("gems/realizehit-*")
    files = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    sources = {str(path.relative_to(CLIENT)) for path in CLIENT.glob("lib/**/*.rb")}
    assert files == sources | {"README.md", "CHANGELOG.md", "LICENSE"}


async def test_the_programs_of_its_pages(installed: dict[str, str], server: RealServer, tmp_path: Path) -> None:
    programs = [program for page in PAGES for program in _PROGRAM.findall(page.read_text())]
    printed = []
    for number, program in enumerate(programs):
        file = tmp_path / f"{number}.rb"
        file.write_text(program.replace("127.0.0.1:8080", f"127.0.0.1:{server.port}"))
        printed.append(run("ruby", "-w", str(file), directory=tmp_path, env=installed))
    own = [re.sub(r"^/.*/websocket/driver/.* warning: .*\n", "", text, flags=re.MULTILINE) for text in printed]
    assert own == ["hello\n", "hello\n", "", "3bf1d979 reached 0 servers\n0\n0\n"]


async def test_the_ticker_is_followed(installed: dict[str, str], server: RealServer) -> None:
    needs("ruby")
    process = await asyncio.create_subprocess_exec(
        "ruby",
        str(ROOT / "examples" / "ticker" / "follow.rb"),
        "AAPL",
        env={**os.environ, **installed, "TICKER_WS": server.ws},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        assert process.stdout is not None
        assert await process.stderr.readline() == b"following AAPL\n"
        price = '{"symbol": "AAPL", "date": "2000-01-01", "price": 25.94}'
        await server.publish({"kind": "stock", "symbol": "AAPL"}, price)
        assert await process.stdout.readline() == b"AAPL 2000-01-01 25.94\n"
    finally:
        process.terminate()
        await process.wait()


async def test_the_conformance_cases() -> None:
    assert not await failures_of("ruby")
