"""The JavaScript client in Deno and in Bun, which npm has as packages."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.interop.npm import install
from tests.support.processes import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CLIENT = Path(__file__).resolve().parents[2] / "clients" / "js" / "realizehit.js"
SCRIPT = Path(__file__).with_name("runtimes.mjs")
RUNTIMES = {
    "deno": ("2.9.6", "node_modules/.bin/deno", "run", "--allow-net", "--allow-read"),
    "bun": ("1.4.5", "node_modules/@oven/*/bin/bun", "run"),  # where its package's script would take it from
}


@pytest.mark.parametrize("name", RUNTIMES)
def test_it_subscribes_and_publishes(tmp_path: Path, name: str) -> None:
    version, program, *words = RUNTIMES[name]
    try:
        install(tmp_path, SCRIPT, f"{name}@{version}", optional=True)  # the program itself is an optional package
        runtime = next(tmp_path.glob(program), tmp_path / program)
        subprocess.run([runtime, "--version"], capture_output=True, timeout=60, check=True)
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"{name} {version} cannot be installed here: {error}")
    with serving("--redis", "memory://", "--drain-seconds", "0.1") as server:
        done = subprocess.run(
            [runtime, *words, SCRIPT.name, CLIENT.as_uri(), server.ws, server.api],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert said == [{"transport": transport, "same": True} for transport in ("websocket", "sse")]
