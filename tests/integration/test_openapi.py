"""The description at ``/openapi.json`` holds: schemathesis asks a running server for what it allows and forbids."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realizehit.http.admin import Admin
from realizehit.http.openapi.document import document
from realizehit.pattern import channel_of
from realizehit.process.server import serve
from realizehit.settings import Settings
from tests.support.valkey import Valkey


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("examples", "prefix"),
    [(40, "/publish/"), pytest.param(500, "/", marks=pytest.mark.slow)],
)
async def test_schemathesis_finds_nothing(valkey: Valkey, tmp_path: Path, examples: int, prefix: str) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[[history]]\npattern = {}\nsize = 5\nttl = "1m"\n')
    presence = tmp_path / "presence.toml"
    presence.write_text("[[presence]]\npattern = {}\n")
    # Rules are for a whole broker, so this is not the shared one.
    settings = Settings(port=0, redis=valkey.url, prefix=prefix, history=str(rules), presence=str(presence))
    async with serve(settings) as node:
        address = node.api_url.removesuffix(prefix)
        await _test(
            tmp_path, address, examples, 6, "--exclude-path-regex", "(history|presence|nodes|clients.*|reload)$"
        )
        # Each of these asks all processes over the broker.
        await _test(tmp_path, address, min(examples // 4, 40), 6, "--include-path-regex", "(nodes|clients.*|reload)$")
        # A wrong object among its parameters, such as one with an empty list, may leave nothing in the query.
        here = ("--include-path-regex", "(history|presence)$", "--exclude-checks", "negative_data_rejection")
        await _test(tmp_path, address, examples, 2, *here)
        assert node.bus.state.value == "up"


async def _test(directory: Path, address: str, examples: int, operations: int, *options: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json"),
        *("--checks", "all", "--mode", "all", "--max-examples", str(examples)),
        *("--phases", "examples,coverage,fuzzing", "--seed", "1", "--generation-database", "none"),
        *("--no-color", "--suppress-health-check", "all", "--output-truncate", "true", *options),
        cwd=directory,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},  # theirs are not ours to mend
        stdout=PIPE,
        stderr=STDOUT,
    )
    try:
        async with asyncio.timeout(140):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    report = output.decode()[-4_000:]
    assert process.returncode == 0, report
    # It tested what there is, and published for real while at it.
    assert f"Tested: {operations}" in report, report
    assert "Unsupported" not in report, report


def test_the_admin_api_is_described_where_it_is_served() -> None:
    settings = Settings(prefix="/p/", keys="keys.toml")
    administers = document(settings, publish=True, administer=True)["paths"]
    plain = document(settings, publish=True)["paths"]
    admin = Admin(fleet=None, overview=None, gate=None, broker_errors=None)  # type: ignore[arg-type]  # its routes need none of them
    own = {path: operations for path, operations in administers.items() if path not in plain}
    served = {(route.path, method) for route in admin.routes("/p/") for method in (route.methods or {"GET"}) - {"HEAD"}}
    assert {(path, method.upper()) for path, operations in own.items() for method in operations} == served
    for operations in own.values():
        for operation in operations.values():
            assert operation["security"] == [{"key": []}]
            assert {"401", "403", "503"} <= set(operation["responses"])


_PATTERN = document(Settings(), publish=True)["components"]["schemas"]["Pattern"]
_KEY = _PATTERN["propertyNames"]
_VALUE = _PATTERN["additionalProperties"]["anyOf"][0]


@given(key=st.from_regex(_KEY["pattern"], fullmatch=True), value=st.from_regex(_VALUE["pattern"], fullmatch=True))
def test_every_text_that_is_described_fits(key: str, value: str) -> None:
    if "*" not in (key, value):
        assert len(channel_of({key: value})) <= 64 + 1 + 256
