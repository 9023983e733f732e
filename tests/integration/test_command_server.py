"""``realizehit-server`` as a process: what it prints, how it drains, and how it fails."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.exceptions import ConnectionClosed, InvalidStatus

from realizehit.access.keys import generate
from realizehit.cli import banner
from realizehit.process.server import serve
from realizehit.settings import Settings
from tests.integration.test_listening_sockets import needs_ipv6
from tests.support.ports import free_port
from tests.support.processes import (
    SCRIPTS,
    SECONDS,
    Process,
    Server,
    embedded_pids,
    is_alive,
    private_tmp,
    running,
    serving,
)
from tests.support.programs import needs
from tests.support.valkey import Valkey
from tests.support.wire import RawClient, act, client, unique


def request(url: str, body: str | None = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Do what curl does; return the status and the JSON or text of the answer."""
    data = None if body is None else body.encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers or {}), timeout=20) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            status, text = error.code, error.read()
    return status, json.loads(text) if text.startswith(b"{") else text.decode()


def paste_curl(line: str) -> tuple[int, Any]:
    """Do what a printed curl line says."""
    curl, url, flag, header, data, body = shlex.split(line)
    assert (curl, flag, data) == ("curl", "-H", "-d")
    name, value = header.split(": ")
    return request(url, body, {name: value})


def until_ready(api: str) -> int:
    """Ask a server that is just starting; return the status of its first answer."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return request(api + "readyz")[0]
        except urllib.error.URLError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server with its embedded Valkey, on a free port."""
    with private_tmp() as tmp, serving("--drain-seconds", "0.2", env=tmp) as server:
        yield server


async def test_the_printed_commands_work(server: Server) -> None:
    assert server.out[0].startswith("realizehit 0")
    (subscribe,) = server.find("realizehit subscribe (.*)")
    words = shlex.split(subscribe[1])
    assert words[:2] == ["--url", server.ws]
    pattern = dict(word.split("=") for word in words[2:])
    (curl,) = server.find("curl .*")
    async with client(server.ws) as ws:
        subscription = (await act(ws, "sub", pattern))["ret"]
        answer = await asyncio.to_thread(paste_curl, curl[0])
        assert answer == (200, {"status": "queued", "id": subscription, "nodes": 1})
        assert await ws.recv() == subscription + '?{"title": "hello"}'


async def test_it_listens_on_loopback_only(server: Server) -> None:
    assert server.ws.startswith("ws://127.0.0.1:")
    port = int(server.api.rstrip("/").rpartition(":")[2])
    with socket.socket() as other:
        other.settimeout(5)
        assert other.connect_ex(("127.0.0.2", port)) != 0


@needs_ipv6
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_localhost_is_listened_on_at_all_its_addresses(shared_valkey: Valkey, workers: str) -> None:
    words = ("--host", "localhost", "--workers", workers, "--redis", shared_valkey.url, "--drain-seconds", "0.2")
    with serving(*words) as server:
        port = int(server.api.rstrip("/").rpartition(":")[2])
        assert server.ws == f"ws://localhost:{port}/ws"
        assert f"  listens    127.0.0.1:{port}, [::1]:{port}" in server.out
        for address in ("127.0.0.1", "[::1]"):
            for _ in range(10):  # each worker has its turn
                assert await asyncio.to_thread(request, f"http://{address}:{port}/healthz") == (200, "ok\n")
            async with client(f"ws://{address}:{port}/ws") as ws:
                assert "ret" in await act(ws, "sub", unique("localhost"))
        with running("realizehit-server", "healthcheck", "--host", "localhost", "--port", str(port)) as check:
            assert await asyncio.to_thread(check.wait) == 0


def test_json_logs(shared_valkey: Valkey) -> None:
    words = ("--port", "0", "--redis", shared_valkey.url, "--log-format", "json")
    with running("realizehit-server", *words) as process:
        (line,) = process.find('"message": "serving"')
        entry = json.loads(line.string)
        assert request(entry["api"] + "healthz") == (200, "ok\n")
        assert entry["ws"].startswith("ws://127.0.0.1:")
        assert process.stop() == 0
    assert process.out == []
    for text in process.err:
        assert {"time", "level", "logger", "message", "pid"} <= set(json.loads(text))


def test_the_embedded_valkey_ends_with_the_server() -> None:
    with private_tmp() as tmp:
        with serving(env=tmp) as server:
            (pid,) = embedded_pids(tmp)
            assert is_alive(pid)
            assert server.stop() == 0
        assert not is_alive(pid)
        assert list(Path(tmp["TMPDIR"]).glob("realizehit-*/*/")) == []


@pytest.mark.parametrize("count", [4, 100])
async def test_drain(shared_valkey: Valkey, count: int) -> None:
    with serving("--redis", shared_valkey.url, "--drain-seconds", "3") as server:
        clients = [await RawClient.connect(server.ws) for _ in range(count)]
        assert await asyncio.to_thread(request, server.api + "readyz") == (200, "ready\n")
        loop = asyncio.get_running_loop()
        closed: list[float] = []

        async def watch(one: RawClient) -> None:
            await one.closed.wait()
            closed.append(loop.time())

        watchers = asyncio.gather(*(watch(one) for one in clients))
        server.signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            while (answer := await asyncio.to_thread(request, server.api + "readyz"))[0] == 200:
                pass
            status, problem = answer
            assert (status, problem["code"]) == (503, "unavailable")
            with pytest.raises(InvalidStatus) as refused:
                async with client(server.ws):
                    pass
            assert refused.value.response.status_code == 503
            await watchers
        assert {one.close_code for one in clients} == {4001}
        assert max(closed) - min(closed) > 1.5  # the last of 4 leaves after 3/4 of the time
        assert await asyncio.to_thread(server.wait) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_second_signal_ends_the_drain(shared_valkey: Valkey, workers: str) -> None:
    with serving("--redis", shared_valkey.url, "--drain-seconds", "3600", "--workers", workers) as server:
        clients = [await RawClient.connect(server.ws) for _ in range(400)]
        server.signal(signal.SIGINT)
        async with asyncio.timeout(20):
            await asyncio.wait(
                [asyncio.ensure_future(one.closed.wait()) for one in clients], return_when=asyncio.FIRST_COMPLETED
            )
            server.signal(signal.SIGINT)
            await asyncio.gather(*(one.closed.wait() for one in clients))
        assert await asyncio.to_thread(server.wait) == 0
        assert not all(one.close_code == 4001 for one in clients)


async def test_the_roles_work_together_and_apart(shared_valkey: Valkey) -> None:
    broker = ("--redis", shared_valkey.url)
    with serving("--role", "ws", *broker) as ws_server, serving("--role", "api", *broker) as api_server:
        assert (ws_server.api, api_server.ws) == ("", "")
        pattern = unique("roles")
        body = json.dumps({"pattern": pattern, "payload": 1})
        headers = {"Content-Type": "application/json"}
        async with client(ws_server.ws) as ws:
            subscription = (await act(ws, "sub", pattern))["ret"]
            status, answer = await asyncio.to_thread(request, api_server.api, body, headers)
            assert (status, answer["nodes"]) == (200, 1)
            assert await ws.recv() == f"{subscription}?1"
        http = ws_server.ws.replace("ws://", "http://").removesuffix("ws")
        assert (await asyncio.to_thread(request, http, body, headers))[0] == 404
        with pytest.raises(InvalidStatus):
            async with client(api_server.api.replace("http://", "ws://") + "ws"):
                pass


def test_the_server_runs_although_its_output_is_not_read(shared_valkey: Valkey) -> None:
    port = free_port()
    words = [str(SCRIPTS / "realizehit-server"), "--port", str(port), "--redis", shared_valkey.url]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert "broker: up" in process.stderr.readline()
        assert until_ready(f"http://127.0.0.1:{port}/") == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
        assert "Error" not in process.stderr.read()


def test_separate_ports(shared_valkey: Valkey) -> None:
    with serving("--ws-port", "0", "--api-port", "0", "--prefix", "/v1", "--redis", shared_valkey.url) as server:
        assert server.api.endswith("/v1/")
        ports = {url.split(":")[2].split("/")[0] for url in (server.ws, server.api)}
        assert len(ports) == 2


def health(*words: str, **env: str) -> tuple[int, str]:
    """Run the health check; return its exit status and what it said."""
    with running("realizehit-server", "healthcheck", *words, env=env) as process:
        return process.wait(), process.output


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_health_at_each_port(shared_valkey: Valkey, tmp_path: Path, workers: str, tls: bool) -> None:
    ports = [free_port(), free_port()]
    env = {"SERVER_WS_PORT": str(ports[0]), "SERVER_API_PORT": str(ports[1]), "SERVER_PORT": "1"}
    env |= {"SERVER_HOST": "0.0.0.0", "SERVER_API_PREFIX": "/v1", "REALIZEHIT_WORKERS": workers}
    if tls:
        certificate = trustme.CA().issue_cert("server.example")
        certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
        env |= {"REALIZEHIT_TLS_CERT": str(tmp_path / "both.pem"), "REALIZEHIT_TLS_KEY": str(tmp_path / "both.pem")}
    with serving("--redis", shared_valkey.url, env=env):
        assert health(**env) == (0, "ok")
        status, text = health(**{**env, "SERVER_WS_PORT": str(free_port())})
        assert (status, "Connection refused" in text) == (1, True)
        assert health(**{**env, "REALIZEHIT_ROLE": "api", "SERVER_WS_PORT": "1"}) == (0, "ok")
        assert health("--role", "ws", **{**env, "SERVER_API_PORT": "1"}) == (0, "ok")


def test_health_of_a_silent_or_foreign_server() -> None:
    port = free_port()
    assert health("--port", str(port)) == (
        1,
        f"Error: http://127.0.0.1:{port}/healthz: Connection refused",
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert health("--port", str(port), "--timeout", "0.2") == (
            1,
            f"Error: http://127.0.0.1:{port}/healthz: timed out",
        )
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(health, "--port", str(port), "--timeout", "30")
            connection, _ = silent.accept()  # of the first check, which has given up
            connection.close()
            connection, _ = silent.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            assert asked.result() == (1, f"Error: http://127.0.0.1:{port}/healthz: HTTP status 404")
    status, text = health("--port", "0")
    assert status == 2
    assert text.startswith("Error: port 0 lets the system choose")


def failing(*words: str) -> tuple[int, Process]:
    with running("realizehit-server", *words) as process:
        return process.wait(), process


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use(shared_valkey: Valkey, workers: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        status, process = failing("--port", str(port), "--workers", workers, "--redis", shared_valkey.url)
    assert status == 2
    assert process.err[-1] == f"Error: cannot listen on 127.0.0.1:{port}: Address already in use"
    assert process.out == []


@pytest.mark.slow
def test_a_second_server_does_not_share_the_port_of_a_first(shared_valkey: Valkey) -> None:
    with serving("--workers", "2", "--redis", shared_valkey.url) as server:
        port = server.api.rstrip("/").rpartition(":")[2]
        status, process = failing("--port", port, "--workers", "2", "--redis", shared_valkey.url)
        assert status == 2
        assert process.err[-1] == f"Error: cannot listen on 127.0.0.1:{port}: Address already in use"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_wrong_password_is_named_and_not_shown(shared_valkey: Valkey, workers: str) -> None:
    url = shared_valkey.url.replace("unix://", "unix://somebody:wrong-one@")
    status, process = failing("--port", "0", "--workers", workers, "--redis", url)
    assert status == 1
    assert process.err[-1].startswith("Error: broker unix://somebody:***@/")
    assert "WRONGPASS" in process.err[-1]
    assert "wrong-one" not in process.output
    assert process.out == []


async def test_it_starts_while_the_broker_is_away(tmp_path: Path) -> None:
    valkey = Valkey(tmp_path)
    with serving("--redis", valkey.url) as server:
        assert (await asyncio.to_thread(request, server.api + "readyz"))[0] == 503
        assert (await asyncio.to_thread(request, server.api + "healthz"))[0] == 200
        async with client(server.ws) as ws:
            with valkey:
                await asyncio.to_thread(server.find, "broker: up")
                assert "ret" in await act(ws, "sub", unique("away"))
                with pytest.raises(ConnectionClosed):
                    server.signal(signal.SIGTERM)
                    await ws.recv()
                assert ws.close_code == 4001


async def test_the_printed_curl_line_publishes_with_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs("curl")
    key, lines = generate("a")
    file = tmp_path / "keys.toml"
    file.write_text(lines)
    settings = Settings(port=0, redis="memory://", keys=str(file))
    async with serve(settings) as node:
        banner.announce(settings, node.ws_url, node.api_url)
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  curl ")]
        env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # no sanitizer for curl
        shell = await asyncio.create_subprocess_shell(
            line, env={**env, "REALIZEHIT_KEY": key}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        answer, _ = await asyncio.wait_for(shell.communicate(), 30)
    assert json.loads(answer)["status"] == "queued"
