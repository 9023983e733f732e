"""How few lines an outage of the broker writes into the log, with one worker and with several and their relay."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
import socket
import subprocess
import sys
from functools import partial
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from realizehit.broker.base import BusState, Interest
from realizehit.broker.link_settings import LinkSettings
from realizehit.broker.subscriber import Link
from realizehit.broker.url import Address
from realizehit.errors import BrokerRefused
from realizehit.process.server import serve
from realizehit.settings import Settings
from tests.support.bus_recorder import QUICK, Recorder
from tests.support.processes import serving
from tests.support.valkey import Valkey
from tests.support.wire import act, client, unique

LINK = "realizehit.broker.outage_log"


def told(caplog: pytest.LogCaptureFixture, logger: str = LINK) -> list[str]:
    records = [record for record in caplog.records if record.name == logger]
    return [record.getMessage() for record in records if record.levelno > logging.DEBUG]


async def attempts(caplog: pytest.LogCaptureFixture, count: int) -> None:
    """Wait until that many attempts to reach the broker have failed, each of which is a line for debugging."""
    async with asyncio.timeout(30):
        while sum(1 for record in caplog.records if record.name == LINK) < count:
            await asyncio.sleep(0.01)


def lost(recorder: Recorder, times: int) -> bool:
    return recorder.states.count(BusState.DOWN) >= times


async def test_an_outage_is_logged_once_and_its_end_too(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LINK)
    link = Link(Address(valkey.url), recorder := Recorder(), settings=QUICK)
    await link.start()
    try:
        valkey.kill()
        await attempts(caplog, 40)
        lines = told(caplog)
        assert 1 <= len(lines) <= 2  # that it was lost, and why it cannot be reached, which is another cause
        assert all(" is away: " in line for line in lines)
        valkey.start()
        await recorder.until(lambda: recorder.states[-1:] == [BusState.UP])
        assert "is back" in told(caplog)[-1]
        assert len(told(caplog)) == len(lines) + 1
    finally:
        await link.close()


async def test_a_connection_that_keeps_breaking_is_logged_at_intervals(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, LINK)
    link = Link(Address(valkey.url), recorder := Recorder(), settings=QUICK)
    await link.start()
    try:
        for broken in range(1, 16):
            await recorder.until(lambda: recorder.states[-1:] == [BusState.UP])
            valkey.command("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")
            valkey.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await recorder.until(partial(lost, recorder, broken))
        assert link.reconnects >= 14
        assert 1 <= len(told(caplog)) <= 4
    finally:
        await link.close()


async def test_a_worker_leaves_it_to_the_relay_to_tell(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LINK)
    quiet = LinkSettings(backoff_first=0.01, backoff_most=0.02, quiet_for=3600.0)
    link = Link(Address(valkey.url), Recorder(), settings=quiet)
    await link.start()
    try:
        valkey.kill()
        await attempts(caplog, 10)
        assert told(caplog) == []
    finally:
        await link.close()


async def test_a_broker_that_ends_each_connection_counts_as_unavailable(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """As a relay does while the broker is away."""
    caplog.set_level(logging.DEBUG, LINK)

    class Abort(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.abort()  # type: ignore[attr-defined]

    server = await asyncio.get_running_loop().create_unix_server(Abort, tmp_path / "s")
    link = Link(Address(f"unix://{tmp_path / 's'}"), Recorder(), settings=QUICK)
    await link.start()
    try:
        await attempts(caplog, 100)
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
        assert 1 <= len(told(caplog)) <= 4
    finally:
        await link.close()
        server.close()


async def test_channels_revoked_together_are_one_log_line(
    shared_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(Settings(port=0, redis=shared_valkey.url)) as node, client(node.ws_url) as ws:
        for _ in range(20):
            await act(ws, "sub", unique("taken"))
        (conn,) = node.engine.handles()
        for channel in node.engine.subscriptions(conn):
            node.hub.refused(Interest(channel), BrokerRefused("NOPERM"))
        (line,) = told(caplog, "realizehit.node.hub")[-1:]
        assert "which was in force before" in line
        assert sum("in force before" in line for line in told(caplog, "realizehit.node.hub")) == 1


@pytest.mark.parametrize("workers", [1, 4])
async def test_a_server_says_little_of_an_outage(valkey: Valkey, workers: int) -> None:
    with serving("--redis", valkey.url, "--workers", str(workers)) as server:
        before = len(server.err)
        valkey.kill()
        body = b'{"pattern": {"a": 1}, "payload": 1}'
        headers = {"Content-Type": "application/json"}
        async with httpx2.AsyncClient(timeout=20) as http:
            for _ in range(100):
                # A connection of its own for each, so that all workers have some.
                answer = await http.post(server.api, content=body, headers={**headers, "Connection": "close"})
                assert answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE
        valkey.start()
        await asyncio.to_thread(server.find, "is back")
        lines = server.err[before:]
        assert any("is away" in line for line in lines)
        assert len(lines) <= 5 + workers, lines


def test_an_error_that_ends_the_process_is_logged() -> None:
    code = "from realizehit.logs.lines import configure; configure('json', 'info'); int('broken')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    entry = json.loads(done.stderr)
    assert (entry["level"], entry["message"]) == ("critical", "ended by an error")
    assert entry["exception"].endswith("ValueError: invalid literal for int() with base 10: 'broken'")


@pytest.mark.parametrize("workers", [1, 2])
def test_every_request_is_in_the_access_log_when_the_server_has_ended(shared_valkey: Valkey, workers: int) -> None:
    count = 300
    words = ("--redis", shared_valkey.url, "--access-log", "--drain-seconds", "0", "--workers", str(workers))
    with serving(*words) as server:
        port = urlsplit(server.api).port
        for part in range(3):
            with socket.create_connection(("127.0.0.1", port or 0), timeout=20) as sock:
                request = f"GET /nothing?n={part} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
                sock.sendall(request * (count // 3))
                seen = 0
                while seen < count // 3:
                    data = sock.recv(1 << 16)
                    assert data
                    seen += data.count(b"HTTP/1.1 404")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        lines = [line for line in server.err if "uvicorn.access" in line]
    form = re.compile(r'\S+Z info    uvicorn\.access\.realizehit\[\d+\]: [\d.:]+ - "GET /nothing\?n=\d HTTP/1\.1" 404')
    assert [line for line in lines if not form.fullmatch(line)] == []
    assert len(lines) == count
