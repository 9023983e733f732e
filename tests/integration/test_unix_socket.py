"""A server that listens on a Unix socket as well, as a proxy on the same machine uses it."""

from __future__ import annotations

import asyncio
import signal
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import orjson
import pytest
from websockets.asyncio.client import unix_connect

from realizehit.errors import SettingsError
from realizehit.process.server import serve
from realizehit.process.sockets import unix_socket
from realizehit.settings import Settings
from tests.support.processes import serving
from tests.support.valkey import Valkey
from tests.support.wire import act, unique

SECONDS = 20


@pytest.fixture
def path() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="rh-") as directory:  # short: such a path has 108 bytes at most
        yield f"{directory}/s.sock"


def mode(path: str) -> int | None:
    """The permissions of a file; ``None`` where there is none."""
    return stat.S_IMODE(Path(path).stat().st_mode) if Path(path).exists() else None


def over(path: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds=path), base_url="http://rt.example")


async def test_clients_publishers_and_identities_over_a_unix_socket(shared_valkey: Valkey, path: str) -> None:
    settings = Settings(
        port=0, redis=shared_valkey.url, unix_socket=path, identify=("user=X-User",), trusted_proxies=("unix",)
    )
    pattern = {"user": "42", **unique("unix")}
    async with serve(settings) as node:
        assert mode(path) == 0o660
        async with (
            unix_connect(path, "ws://rt.example/ws", additional_headers={"X-User": "42"}) as ws,
            over(path) as http,
        ):
            assert "ret" in await act(ws, "sub", pattern)
            assert (await act(ws, "sub", {"user": "43"}))["code"] == "forbidden"
            for payload in (1, 2):
                published = await http.post("/", json={"pattern": pattern, "payload": payload})
                assert published.json()["nodes"] == 1
                async with asyncio.timeout(SECONDS):
                    assert str(await ws.recv()).endswith(f"?{payload}")
            # Who speaks for others is none of this machine.
            refused = await http.post(
                "/", json={"pattern": pattern, "payload": 3}, headers={"X-Forwarded-For": "9.9.9.9"}
            )
            assert refused.status_code == 403
        assert node.guard.gate.clients.ignored_headers == 0
    assert mode(path) is None


async def test_identity_headers_on_the_port_are_ignored(shared_valkey: Valkey, path: str) -> None:
    settings = Settings(
        port=0, redis=shared_valkey.url, unix_socket=path, identify=("user=X-User",), trusted_proxies=("unix",)
    )
    async with serve(settings) as node, httpx2.AsyncClient(base_url=node.api_url) as http:
        answer = await http.get("/sse", params={"pat": "user=42"}, headers={"X-User": "42"})
        assert answer.json()["code"] == "forbidden"
        assert node.guard.gate.clients.ignored_headers == 1


async def test_all_workers_accept_from_one_unix_socket(valkey: Valkey, path: str) -> None:
    with serving("--redis", valkey.url, "--workers", "2", "--unix-socket", path, "--drain-seconds", "0") as server:
        pattern = unique("unix")
        async with over(path) as http:
            answers = await asyncio.gather(
                *(http.post("/", content=orjson.dumps({"pattern": pattern, "payload": n}), headers={
                    "Content-Type": "application/json", "Connection": "close"}) for n in range(40))
            )  # fmt: skip
        assert {answer.status_code for answer in answers} == {200}
        assert any(path in line for line in server.out)
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait) == 0
    assert mode(path) is None


def test_paths_that_cannot_be_bound(path: str) -> None:
    with unix_socket(None) as none:
        assert none is None
    with unix_socket(path) as one:
        assert one is not None
        one.listen()
        with (
            pytest.raises(SettingsError, match=r"--unix-socket: cannot listen on .*: somebody listens there"),
            unix_socket(path),
        ):
            pass
        assert Path(path).exists()
    left = socket.socket(socket.AF_UNIX)
    left.bind(path)
    left.close()  # as a killed server leaves it
    with unix_socket(path) as again:
        assert again is not None
    Path(path).write_text("precious")
    with pytest.raises(SettingsError, match="not a socket"), unix_socket(path):
        pass
    assert Path(path).read_text() == "precious"
    for wrong in (f"{path}/no/such", "/" + "x" * 200):
        with pytest.raises(SettingsError, match="--unix-socket"), unix_socket(wrong):
            pass
