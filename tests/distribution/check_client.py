"""Check the wheel `realizehit-client`: its contents, an environment with it alone, and one with `realizehit` too.

``python -m tests.distribution.check_client DIST``, where DIST holds the wheel of `realizehit` for this Python. The
client's wheel is built into a folder of its own. The environments are new, and the programs run away from the sources.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.distribution.check_wheel import addresses

ROOT = Path(__file__).resolve().parents[2]
SERVERS_ONLY = {"prometheus-client", "pyjwt", "realizehit", "starlette", "uvicorn", "uvloop"}

IMPORT_ALL = """
import importlib, pkgutil, sys
import realizehit
names = [info.name for info in pkgutil.walk_packages(realizehit.__path__, "realizehit.")]
assert len(names) > 60, names
for name in names:
    if name != "realizehit.__main__":
        importlib.import_module(name)
heavy = {"uvicorn", "starlette", "uvloop", "prometheus_client", "jwt"} & set(sys.modules)
assert not heavy, heavy
assert "realizehit.pattern_text" in sys.modules
from realizehit import APIClient, Pattern, Publisher, RealizehitError, Subscription, WSClient
from realizehit import sync
assert Pattern(kind="news", channel="*").shape == "channel:*|kind:="
assert all(getattr(sync, name) for name in sync.__all__)
"""

TALK = """
import asyncio, sys
from realizehit import APIClient, WSClient
from realizehit.sync import APIClient as SyncAPIClient, Subscriber

api_url, ws_url = sys.argv[1:]


async def main():
    async with WSClient(ws_url) as client, APIClient(api_url) as api:
        news = await client.subscribe({"kind": "news", "channel": "*"})
        result = await api.publish({"kind": "news", "channel": "CNN"}, {"n": 1})
        assert result.nodes == 1, result
        async for message in news.messages():
            assert (message.pattern, message.payload) == ({"kind": "news", "channel": "CNN"}, {"n": 1}), message
            break


asyncio.run(main())
with Subscriber(ws_url, {"kind": "news"}) as news, SyncAPIClient(api_url) as api:
    api.publish({"kind": "news"}, 2)
    assert next(iter(news)) == 2
"""


def variables() -> dict[str, str]:
    """Return the environment's variables without those that lead to the sources."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


class Environment:
    """A new virtual environment.

    Args:
        directory: where to make it.
    """

    def __init__(self, directory: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        self.binaries = directory / "bin"
        self.python = self.binaries / "python"
        self.directory = directory

    def pip(self, *words: str | Path) -> None:
        command = [self.python, "-m", "pip", "-q", "--disable-pip-version-check", *words]
        subprocess.run(command, check=True, cwd=self.directory, env=variables())

    def run(self, *words: str | Path, code: int = 0, more: Mapping[str, str] | None = None) -> str:
        """Run a program of the environment, away from the sources; return its output."""
        name, *arguments = words
        done = subprocess.run(
            [self.binaries / name, *arguments],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            cwd=self.directory,
            env={**variables(), **(more or {})},
        )
        assert done.returncode == code, f"{words}: {done.stdout}"
        return done.stdout

    def installed(self) -> set[str]:
        listed = json.loads(self.run("python", "-m", "pip", "--disable-pip-version-check", "list", "--format", "json"))
        return {row["name"].lower().replace("_", "-") for row in listed}

    def left_over(self) -> list[str]:
        """Return the files and commands whose names begin with that of the project."""
        places = [*self.directory.glob("lib/python*/site-packages/*"), *self.binaries.iterdir()]
        return sorted(path.name for path in places if path.name.startswith("realizehit"))


def main(dist: Path) -> None:
    (full,) = dist.resolve().glob("realizehit-*.whl")
    with tempfile.TemporaryDirectory(prefix="realizehit-client-") as name:
        directory = Path(name)
        client = build(directory / "dist")
        check_contents(client)
        both, alone = Environment(directory / "both"), Environment(directory / "alone")
        both.pip("install", f"{full}[embedded]")
        alone.pip("install", "--only-binary", ":all:", client)
        check_alone(alone)
        with server(both) as (api, ws):
            check_talk(alone, api, ws)
        for installer in ("pip", "uv"):
            check_beside(both, installer, full, client)
            print(f"{client.name}: {installer} installs and removes it beside {full.name}", flush=True)
        check_target(both, client, directory / "target")
        print(f"{client.name}: contents and clean environments are right")


def build(directory: Path) -> Path:
    """Build the client's wheel; its sdist is refused."""
    command = [sys.executable, "-m", "build", "--outdir", str(directory), str(ROOT / "clients" / "python")]
    subprocess.run([*command, "--wheel"], check=True, stdout=subprocess.DEVNULL)
    (wheel,) = directory.glob("*.whl")
    refused = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert refused.returncode != 0, "an sdist is built, without its sources"
    assert "python -m build --wheel clients/python" in refused.stdout, refused.stdout
    return wheel


def check_contents(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl"), wheel.name
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        assert archive.read("realizehit_client.pth") == b"realizehit_client\n"
    top = {name.partition("/")[0] for name in files}
    info = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
    assert top == {"realizehit_client", "realizehit_client.pth", info}, f"top level: {top}"
    assert f"{info}/licenses/LICENSE" in files
    assert "realizehit_client/realizehit/client/ws.py" in files
    assert not [name for name in files if name.endswith((".so", ".pyx", ".pxd", ".pyc", ".js"))]


def check_alone(alone: Environment) -> None:
    installed = alone.installed()
    assert "realizehit-client" in installed
    assert not installed & SERVERS_ONLY, installed & SERVERS_ONLY
    alone.run("python", "-m", "pip", "check")
    alone.run("python", "-W", "error", "-c", IMPORT_ALL)
    assert not (alone.binaries / "realizehit-server").exists()
    assert json.loads(alone.run("realizehit-client", "id", "kind=news", "channel=CNN", "--json"))["id"] == "3bf1d979"
    assert json.loads(alone.run("python", "-m", "realizehit", "id", "kind=news", "--json"))["channel"] == "kind:news"
    usage = alone.run("realizehit-client", "--help")
    assert "Usage: realizehit-client" in usage, usage
    listed = {line.split()[0] for line in usage.partition("Commands:\n")[2].splitlines() if line.strip()}
    assert listed == {"audience", "history", "id", "presence", "publish", "subscribe"}, listed
    assert "which has the clients only" in alone.run("realizehit-client", "server", code=2)


def check_talk(alone: Environment, api: str, ws: str) -> None:
    alone.run("python", "-W", "error", "-c", TALK, api, ws)
    with subprocess.Popen(
        [alone.binaries / "realizehit-client", "subscribe", "kind=news", "--url", ws, "--json", "--count", "1"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=alone.directory,
        env=variables(),
    ) as subscriber:
        for _ in range(200):  # it has subscribed when the broker counts a node that the message reached
            out = alone.run("realizehit-client", "publish", "kind=news", '{"n":1.10}', "--url", api, "--json")
            if json.loads(out)["nodes"]:
                break
        printed, _ = subscriber.communicate(timeout=30)
    assert '{"n":1.10}' in printed, f"the subscriber printed {printed!r}"


def check_beside(both: Environment, installer: str, full: Path, client: Path) -> None:
    """Install and remove the two wheels in every order; after each step, that which is there must work.

    Args:
        both: has `full` and its dependencies; and in the end again.
        installer: ``pip`` or ``uv``.
    """

    def change(*words: str | Path) -> None:
        if installer == "pip":
            both.pip(*words, *(["-y"] if words[0] == "uninstall" else ["--no-deps", "--no-index"]))
        else:
            uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
            assert uv, "uv is not installed"
            index = [] if words[0] == "uninstall" else ["--no-deps", "--no-index"]
            action, *rest = ["--reinstall" if word == "--force-reinstall" else str(word) for word in words]
            subprocess.run([uv, "pip", "-q", action, "--python", str(both.python), *index, *rest], check=True)

    def whole() -> None:
        place = both.run("python", "-c", "import realizehit._fanout as engine, realizehit; print(realizehit.__file__)")
        assert "realizehit_client" not in place, place
        both.run("realizehit-server", "check-config")
        both.run("realizehit", "id", "kind=news")

    def clients() -> None:
        both.run("python", "-W", "error", "-c", IMPORT_ALL)
        both.run("realizehit-client", "id", "kind=news")

    whole()
    change("install", client)
    whole()
    both.run("realizehit-client", "id", "kind=news")
    change("uninstall", "realizehit-client")
    whole()
    change("install", client)
    change("uninstall", "realizehit")
    clients()
    change("install", full)
    whole()
    change("install", "--force-reinstall", client)
    whole()
    change("install", "--force-reinstall", full)
    whole()
    change("uninstall", "realizehit")
    clients()
    change("uninstall", "realizehit-client")
    assert both.left_over() == []
    change("install", full)
    whole()


def check_target(both: Environment, client: Path, target: Path) -> None:
    """Use the clients from a folder whose ``.pth`` files Python does not read."""
    both.pip("uninstall", "-y", "realizehit")
    both.pip("install", "--no-deps", "--no-index", "--target", target, client)
    code = "import realizehit_client, realizehit; print(realizehit.Pattern(kind='news').channel, realizehit.__file__)"
    printed = both.run("python", "-c", code, more={"PYTHONPATH": str(target)})
    assert printed.split() == ["kind:news", str(target / "realizehit_client" / "realizehit" / "__init__.py")], printed
    both.run("python", "-c", IMPORT_ALL, more={"PYTHONPATH": str(target / "realizehit_client")})


@contextmanager
def server(environment: Environment) -> Iterator[tuple[str, str]]:
    """Run a server of the environment; yield its addresses for publishers and for subscribers."""
    process = subprocess.Popen(
        [environment.binaries / "realizehit-server", "--port", "0", "--drain-seconds", "0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=environment.directory,
        env=variables(),
    )
    try:
        yield addresses(process)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=30)
    assert code == 0, f"the server ended with {code}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
