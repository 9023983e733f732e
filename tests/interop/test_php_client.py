"""The PHP client: its package as Composer installs it, its tests and style, and the conformance cases."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import realizehit
from realizehit.sync import APIClient
from tests.conformance.running import failures_of
from tests.support.processes import SECONDS, running, serving
from tests.support.programs import needs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "clients" / "php"
SERVER = Path(sys.executable).with_name("realizehit-server")


def run(*words: str, directory: Path = CLIENT, **env: str) -> str:
    """Run a command to its end, and return what it wrote to its standard output."""
    needs(words[0])
    own = {**os.environ, "COMPOSER_ALLOW_SUPERUSER": "1", "COMPOSER_DISABLE_NETWORK": "1", **env}
    done = subprocess.run(
        words,
        cwd=directory,
        env=own,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(directory: Path) -> None:
    """Build the archive of the package, and install it with Composer into a project that has nothing else."""
    package, project = directory / "package", directory / "project"
    run("composer", "archive", "--format=zip", f"--dir={directory}", "--file=package", "--no-interaction")
    with zipfile.ZipFile(directory / "package.zip") as archive:
        archive.extractall(package)
    assert {path.name for path in package.iterdir()} >= {"composer.json", "LICENSE", "README.md", "CHANGELOG.md", "src"}
    assert not {"tests", "conformance"} & {path.name for path in package.iterdir()}
    project.mkdir()
    versions = {"realizehit/client": realizehit.__version__}
    path = {"type": "path", "url": str(package), "options": {"symlink": False, "versions": versions}}
    (project / "composer.json").write_text(
        json.dumps(
            {
                "require": {"realizehit/client": realizehit.__version__},
                "repositories": [path, {"packagist.org": False}],
            }
        )
    )
    run("composer", "install", "--no-interaction", "--no-progress", directory=project)


def test_composer_accepts_the_package() -> None:
    run("composer", "validate", "--strict", "--no-interaction")


def test_its_tests_pass() -> None:
    assert SERVER.exists()
    needs("phpunit")
    told = run("phpunit", "--colors=never", REALIZEHIT_SERVER=str(SERVER))
    assert re.search(r"^OK \(\d+ tests", told, re.MULTILINE), told  # none was skipped


def test_its_style() -> None:
    run("phpcs", "-q", "--no-colors")


def test_first_message_of_its_readme_from_an_installed_package(tmp_path: Path) -> None:
    install(tmp_path)
    blocks = [
        re.findall(r"```php\n(<\?php\n.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for page in (CLIENT / "README.md", ROOT / "docs" / "clients" / "php.md")
    ]
    assert len(blocks[0]) == 1
    assert blocks[0] == blocks[1]
    with serving() as server:
        program = blocks[0][0].replace("ws://127.0.0.1:8080/ws", server.ws)
        program = program.replace("http://127.0.0.1:8080/", server.api)
        (tmp_path / "project" / "first.php").write_text(program)
        assert run("php", "first.php", directory=tmp_path / "project", no_proxy="127.0.0.1") == "hello\n"


def test_it_follows_the_ticker() -> None:
    needs("php")
    php, follow = shutil.which("php"), ROOT / "examples" / "ticker" / "follow.php"
    price = {"symbol": "AAPL", "date": "2000-01-01", "price": 25.94}
    with (
        serving() as server,
        running(str(php), str(follow), "--ws", server.ws, "aapl", env={"no_proxy": "*"}) as ticker,
        APIClient(server.api, trust_env=False) as api,
    ):
        deadline = time.monotonic() + SECONDS
        while not api.publish({"kind": "stock", "symbol": "AAPL"}, price).nodes:  # until it has subscribed
            assert ticker.poll() is None, ticker.output
            assert time.monotonic() < deadline
            time.sleep(0.02)
        ticker.find(r"^2000-01-01  AAPL     25\.94$")


async def test_it_passes_the_conformance_cases() -> None:
    assert not await failures_of("php")
