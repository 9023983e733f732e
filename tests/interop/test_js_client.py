"""The JavaScript client's own checks, as CI runs them: its tests on this server, its types, its size."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import realizehit
from realizehit.errors import PatternError
from tests.interop.npm import require_node
from tests.support.valkey import Valkey

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "clients" / "js"


def npm(directory: Path, *words: str, valkey: Valkey | None = None) -> None:
    """Run one command of npm, with the server of this environment, and a broker for its tests."""
    server = Path(sys.executable).with_name("realizehit-server")
    assert server.exists()
    done = subprocess.run(
        ["npm", *words],
        cwd=directory,
        env={
            **os.environ,
            "REALIZEHIT_SERVER": str(server),
            "REALIZEHIT_VALKEY": "" if valkey is None else str(valkey.socket),
        },
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_package_has_the_version_of_the_server() -> None:
    package = json.loads((CLIENT / "package.json").read_text(encoding="utf-8"))
    assert package["version"] == realizehit.__version__


def test_readme_and_docs_show_the_same_page() -> None:
    page = re.compile(r"```html\n.*?```", re.DOTALL)
    texts = [path.read_text(encoding="utf-8") for path in (CLIENT / "README.md", ROOT / "docs" / "javascript.md")]
    pages = [page.findall(text) for text in texts]
    assert len(pages[0]) == 1
    assert pages[0] == pages[1]


def test_readme_shows_the_page_of_the_ticker_example() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = (ROOT / "examples" / "ticker" / "page.html").read_text(encoding="utf-8")
    assert re.findall(r"```html\n(.*?)```", readme, re.DOTALL) == [page]


def test_console_reads_patterns() -> None:
    """The console reads pattern texts as ``Pattern.parse`` does, wildcards included."""
    require_node()
    texts = ["kind=news,channel=*", "user=42, **", "*=*", "**", "a%2Cb=c%3Dd%25", "kind=", "**=x", "kind=**", "news"]
    module = Path(realizehit.__file__).parent / "static" / "console" / "json.js"
    program = f"""
        import {{ readPattern }} from {json.dumps(module.as_uri())};
        import {{ channel }} from {json.dumps((CLIENT / "pattern.js").as_uri())};
        const read = (text) => {{
            try {{ return channel(readPattern(text), {{ wildcard: true }}) }} catch {{ return null }}
        }};
        console.log(JSON.stringify({json.dumps(texts)}.map(read)));
    """
    done = subprocess.run(
        ["node", "--input-type=module", "-e", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr

    def expected(text: str) -> str | None:
        try:
            return realizehit.Pattern.parse(text).channel
        except PatternError:
            return None

    assert json.loads(done.stdout) == [expected(text) for text in texts]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_npm_checks_and_tests(tmp_path: Path, shared_valkey: Valkey) -> None:
    require_node()
    directory = tmp_path / "clients" / "js"
    shutil.copytree(CLIENT, directory, ignore=shutil.ignore_patterns("node_modules"))
    (tmp_path / "tests").mkdir()
    for shared in ("LICENSE", "tests/vectors.json", "tests/event_streams.json"):
        shutil.copy(ROOT / shared, tmp_path / shared)
    npm(directory, "ci", "--no-audit", "--no-fund")
    npm(directory, "run", "check")
    npm(directory, "test", valkey=shared_valkey)
