"""The Java client: built and tested as Maven does it, used from other programs, and the conformance cases."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from realizehit.sync import APIClient
from tests.conformance.running import failures_of
from tests.support.processes import serving
from tests.support.programs import needs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
JAVA = ROOT / "clients" / "java"
SMALL = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")  # a virtual machine that starts fast
README_PROGRAM = re.compile(r"```java\n(import .*?)```", re.DOTALL)


def run(*words: str, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(words, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def programs() -> None:
    for program in ("java", "javac", "mvn"):
        needs(program)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a build: tests pass, no warnings, jars with classes, sources and Javadoc."""
    programs()
    target = tmp_path_factory.mktemp("java")
    server = Path(sys.executable).with_name("realizehit-server")
    assert server.exists()
    output = run(
        "mvn", "-B", "-ntp", "-f", str(JAVA / "pom.xml"), f"-DbuildDirectory={target}",
        "verify", "dependency:copy-dependencies", "-DincludeScope=runtime",
        env={"MAVEN_OPTS": " ".join(SMALL), "REALIZEHIT_SERVER": str(server)},
    )  # fmt: skip
    assert "[WARNING]" not in output
    summary = re.findall(r"Tests run: (\d+), Failures: 0, Errors: 0, Skipped: 0$", output, re.MULTILINE)
    assert summary, output
    assert int(summary[-1]) > 50
    return target


@pytest.mark.timeout(300)
def test_the_package_is_complete(built: Path) -> None:
    stem = built / "realizehit-client-0.1.0"
    with zipfile.ZipFile(f"{stem}.jar") as classes:
        names = classes.namelist()
        assert "io/github/realizehit/client/WSClient.class" in names
        assert "MIT License" in classes.read("META-INF/LICENSE").decode()
        assert "Automatic-Module-Name: io.github.realizehit.client" in classes.read("META-INF/MANIFEST.MF").decode()
        assert not [name for name in names if "conformance" in name]
    with zipfile.ZipFile(f"{stem}-sources.jar") as sources:
        assert "io/github/realizehit/client/WSClient.java" in sources.namelist()
    with zipfile.ZipFile(f"{stem}-javadoc.jar") as javadoc:
        assert any(name.endswith("/realizehit/client/WSClient.html") for name in javadoc.namelist())


@pytest.mark.timeout(300)
def test_programs_with_the_package(built: Path, tmp_path: Path) -> None:
    classpath = f"{built}/realizehit-client-0.1.0.jar:{built}/dependency/*"
    texts = [path.read_text(encoding="utf-8") for path in (JAVA / "README.md", ROOT / "docs" / "clients" / "java.md")]
    first, in_docs = (README_PROGRAM.findall(text) for text in texts)
    assert first == in_docs
    assert len(first) == 1
    with serving() as server:
        program = first[0].replace("ws://127.0.0.1:8080/ws", server.ws).replace("http://127.0.0.1:8080/", server.api)
        (tmp_path / "First.java").write_text(program, encoding="utf-8")
        assert run("java", *SMALL, "-cp", classpath, str(tmp_path / "First.java")) == '"hello"\n'

        example = ROOT / "examples" / "ticker" / "Follow.java"
        words = ["java", *SMALL, "-cp", classpath, f"-Dws={server.ws}", str(example), "*"]
        follow = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            with APIClient(server.api) as api:
                price = {"symbol": "IBM", "date": "2010-03-01", "price": 125.55}
                pattern = {"kind": "stock", "symbol": "IBM"}
                while not api.publish(pattern, price).nodes:  # until the program has subscribed
                    assert follow.poll() is None
            assert follow.stdout is not None
            assert follow.stdout.readline() == "2010-03-01 IBM     125.55\n"
        finally:
            follow.kill()
            follow.communicate()


@pytest.mark.timeout(300)
async def test_the_conformance_cases() -> None:
    programs()
    assert not await failures_of("java")
