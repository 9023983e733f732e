"""The Perl client: its distribution as `make disttest` builds it, its tests and style, and the conformance cases."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from realizehit.sync import APIClient
from tests.conformance.running import failures_of
from tests.support.processes import SECONDS, running, serving
from tests.support.programs import needs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "clients" / "perl"
MODULES = ("Protocol::WebSocket::Frame", "Cpanel::JSON::XS", "IO::Socket::SSL")
AUTHOR_MODULES = ("Perl::Critic", "Test::Pod", "Test::Pod::Coverage")


def needs_modules(*modules: str) -> None:
    """Skip a test if Perl modules are not installed; fail it if all programs must be installed."""
    needs("perl")
    done = subprocess.run(
        ["perl", *(f"-M{module}=" for module in modules), "-e", "1"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        (pytest.fail if os.environ.get("REALIZEHIT_ALL_PROGRAMS") else pytest.skip)(done.stderr)


def run(*words: str, directory: Path = CLIENT, **env: str) -> str:
    """Run a command to its end, and return what it wrote to its standard output."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        words,
        cwd=directory,
        env={**os.environ, "PATH": path, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the client, without what a build may have left there."""
    copy = tmp_path / "perl"
    left = shutil.ignore_patterns("blib", "Makefile", "MYMETA.*", "pm_to_blib", "Net-RealizeHit-*")
    shutil.copytree(CLIENT, copy, ignore=left)
    return copy


def test_its_distribution_is_complete_and_passes_its_tests(source: Path) -> None:
    needs("make")
    needs_modules(*MODULES)
    made = run("perl", "Makefile.PL", directory=source)
    assert "Warning" not in made
    checked = subprocess.run(["make", "distcheck"], cwd=source, capture_output=True, text=True, check=True)
    assert "Not in MANIFEST" not in checked.stderr
    assert "No such file" not in checked.stderr
    tested = run("make", "disttest", directory=source, REALIZEHIT_VECTORS=str(ROOT / "tests" / "vectors.json"))
    assert "All tests successful" in tested
    assert "skipped" not in tested
    assert (source / "Net-RealizeHit-0.1.0" / "META.json").is_file()


def test_the_first_messages_of_its_pages_from_an_installed_distribution(source: Path, tmp_path: Path) -> None:
    needs("make")
    needs_modules(*MODULES)
    run("perl", "Makefile.PL", f"INSTALL_BASE={tmp_path / 'installed'}", directory=source)
    run("make", "install", directory=source)
    with serving() as server:
        for page in (CLIENT / "README.md", ROOT / "docs" / "clients" / "perl.md"):
            block = re.search(r"```perl\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
            assert block is not None
            text = block[1].replace("ws://127.0.0.1:8080/ws", server.ws).replace("http://127.0.0.1:8080/", server.api)
            (tmp_path / "first.pl").write_text(text)
            modules = str(tmp_path / "installed" / "lib" / "perl5")
            assert run("perl", "first.pl", directory=tmp_path, PERL5LIB=modules, no_proxy="127.0.0.1") == "hello\n"


def test_its_style_and_its_pages() -> None:
    needs_modules(*MODULES, *AUTHOR_MODULES)
    run("prove", "-l", "xt")


def test_it_follows_the_ticker() -> None:
    needs_modules(*MODULES)
    perl, follow = shutil.which("perl"), ROOT / "examples" / "ticker" / "follow.pl"
    price = {"symbol": "IBM", "date": "2000-01-01", "price": 100.52}
    with (
        serving() as server,
        running(str(perl), str(follow), "--ws", server.ws, "ibm") as ticker,
        APIClient(server.api, trust_env=False) as api,
    ):
        deadline = time.monotonic() + SECONDS
        while not api.publish({"kind": "stock", "symbol": "IBM"}, price).nodes:  # until it has subscribed
            assert ticker.poll() is None, ticker.output
            assert time.monotonic() < deadline
            time.sleep(0.02)
        ticker.find(r"^2000-01-01  IBM     100\.52$")


async def test_the_cases() -> None:
    needs_modules(*MODULES)
    assert not await failures_of("perl")
