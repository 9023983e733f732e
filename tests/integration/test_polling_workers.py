"""Engine.IO polling with several workers: each request of a session may reach any of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tests.integration.test_command_workers import publish, worker_pids
from tests.support.processes import Server, serving
from tests.support.valkey import Valkey
from tests.support.wire import unique

SEPARATOR = "\x1e"


class Session:
    """A polling client whose requests come over a connection of their own each, and so reach any worker."""

    def __init__(self, server: Server, headers: dict[str, str] | None = None) -> None:
        self._url = f"{server.ws.replace('ws', 'http', 1)}?EIO=4&transport=polling"
        self._headers = headers or {}
        self.workers: set[str] = set()

    async def request(self, body: str | None = None) -> httpx2.Response:
        async with httpx2.AsyncClient(timeout=15, headers=self._headers) as http:
            if body is None:
                return await http.get(self._url)
            return await http.post(self._url, content=body)

    async def open(self) -> None:
        sid = json.loads((await self.request()).text[1:])["sid"]
        self.workers.add(sid.partition("-")[0])
        self._url += f"&sid={sid}"

    async def act(self, **action: object) -> None:
        assert (await self.request(f"4{json.dumps(action)}")).text == "ok"

    async def packets(self) -> list[str]:
        return (await self.request()).text.split(SEPARATOR)

    def websocket(self, **headers: str) -> connect:
        """A WebSocket that asks to take over the session, at any worker."""
        url = self._url.replace("http", "ws", 1).replace("transport=polling", "transport=websocket")
        return connect(url, additional_headers={**self._headers, **headers})

    async def upgrade(self) -> ClientConnection:
        """Have a WebSocket take over the session, as engine.io-client does."""
        websocket = await self.websocket()
        await websocket.send("2probe")
        assert await websocket.recv() == "3probe"
        assert await self.packets() == ["6"]
        await websocket.send("5")
        return websocket


@asynccontextmanager
async def opened(server: Server, headers: dict[str, str] | None = None) -> AsyncIterator[Session]:
    session = Session(server, headers)
    await session.open()
    yield session


@pytest.mark.slow
async def test_a_session_works_whichever_workers_its_requests_reach(shared_valkey: Valkey) -> None:
    with serving("--workers", "4", "--drain-seconds", "0.1", "--redis", shared_valkey.url) as server:
        worker_pids(server, 4)
        pattern = unique("polling")
        async with opened(server) as session:
            await session.act(id="s", act="sub", pat=pattern)
            (reply,) = await session.packets()
            assert json.loads(reply[1:])["id"] == "s"
            for number in range(12):  # all by one worker: once in 17 million runs
                await publish(server, pattern, number)
                (message,) = await session.packets()
                assert message.endswith(f"?{number}")
            waiting = [asyncio.create_task(session.packets())]
            await publish(server, pattern, "late")
            assert (await waiting[0])[0].endswith('?"late"')


@pytest.mark.slow
async def test_a_body_over_the_bound_closes_the_session_wherever_it_arrives(shared_valkey: Valkey) -> None:
    words = ("--workers", "2", "--drain-seconds", "0.1", "--redis", shared_valkey.url)
    with serving(*words) as server:
        worker_pids(server, 2)
        for _ in range(4):
            async with opened(server) as session:
                answer = await session.request("4" + "x" * 70_000)
                assert answer.status_code == 400
                assert "a body has at most 65536 bytes" in answer.text
                assert (await session.request()).text == "1"  # the close packet


@pytest.mark.slow
async def test_the_sessions_of_a_killed_worker_are_unknown_and_the_others_go_on(shared_valkey: Valkey) -> None:
    with serving("--workers", "2", "--drain-seconds", "0.1", "--redis", shared_valkey.url) as server:
        worker_pids(server, 2)
        sessions: list[Session] = []
        for _ in range(64):
            sessions.append(Session(server))
            await sessions[-1].open()
            if len({worker for each in sessions for worker in each.workers}) == 2:
                break
        pattern = unique("polling")
        for session in sessions:
            await session.act(id="s", act="sub", pat=pattern)
            await session.packets()
        first = worker_pids(server, 2)[0]
        os.kill(first, signal.SIGKILL)
        await asyncio.to_thread(worker_pids, server, 3)
        await publish(server, pattern, "after")
        outcomes = [await session.request() for session in sessions]
        known = [answer for answer in outcomes if answer.status_code == 200]
        assert 0 < len(known) < len(sessions)
        assert all(answer.text.endswith('?"after"') for answer in known)
        assert all(answer.json()["code"] == 1 for answer in outcomes if answer.status_code != 200)


@pytest.mark.slow
async def test_an_unknown_session_is_refused_by_any_worker(shared_valkey: Valkey) -> None:
    with serving("--workers", "2", "--drain-seconds", "0.1", "--redis", shared_valkey.url) as server:
        worker_pids(server, 2)
        for sid in ("7-unknown", "1-unknown", "0-unknown", "9999-unknown", "99999-unknown"):
            session = Session(server)
            session._url += f"&sid={sid}"
            for _ in range(4):
                answer = await session.request()
                assert (answer.status_code, answer.json()["code"]) == (400, 1), sid


@pytest.mark.slow
async def test_an_upgrade_works_whichever_worker_it_reaches(shared_valkey: Valkey) -> None:
    with serving("--workers", "4", "--drain-seconds", "0.1", "--redis", shared_valkey.url) as server:
        worker_pids(server, 4)
        pattern = unique("upgrade")
        websockets: list[ClientConnection] = []
        for _ in range(8):  # all by the workers of their sessions: once in 65,000 runs
            async with opened(server) as session:
                await session.act(id="s", act="sub", pat=pattern)
                await session.packets()
                websocket = await session.upgrade()
                await websocket.send('4{"id": "p", "act": "ping"}')
                assert await message_of(websocket) == '4{"id":"p","ret":"pong"}'
                websockets.append(websocket)
        await publish(server, pattern, "live")
        for websocket in websockets:
            assert (await message_of(websocket)).endswith('?"live"')
            await websocket.close()


async def message_of(websocket: ClientConnection) -> str:
    """The next message; heartbeats are left out."""
    async with asyncio.timeout(15):
        while (text := str(await websocket.recv())) == "2":
            pass
    return text


@pytest.mark.slow
async def test_what_came_with_the_handshake_of_an_upgrade_is_passed_on_too(shared_valkey: Valkey) -> None:
    with serving("--workers", "4", "--drain-seconds", "0.1", "--redis", shared_valkey.url) as server:
        worker_pids(server, 4)
        for _ in range(6):  # all by the worker of their session: once in 4,096 runs
            async with opened(server) as session:
                url = urlsplit(session._url.replace("polling", "websocket"))
                head = (
                    f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nUpgrade: websocket\r\n"
                    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
                )
                reader, writer = await asyncio.open_connection(url.hostname, url.port)
                writer.write(head.encode() + b"\x81\x86" + bytes(4) + b"2probe")
                async with asyncio.timeout(15):
                    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
                    assert await reader.readexactly(8) == b"\x81\x063probe"
                writer.close()


@pytest.mark.slow
async def test_an_upgrade_of_a_session_of_somebody_else_is_refused_by_any_worker(shared_valkey: Valkey) -> None:
    words = ("--identify", "user=X-User", "--trusted-proxies", "127.0.0.1", "--redis", shared_valkey.url)
    with serving("--workers", "2", "--drain-seconds", "0.1", *words) as server:
        worker_pids(server, 2)
        async with opened(server, {"X-User": "42"}) as session:
            for headers in [{"X-User": "7"}, {}] * 4:
                session._headers = headers
                with pytest.raises(InvalidStatus) as refused:
                    await session.websocket()
                assert refused.value.response.status_code in (401, 403)
            session._headers = {"X-User": "42"}
            websocket = await session.upgrade()
            await websocket.close()


@pytest.mark.slow
async def test_an_upgrade_of_a_session_that_is_gone_is_refused_by_any_worker(shared_valkey: Valkey) -> None:
    with serving("--workers", "2", "--drain-seconds", "0.1", "--redis", shared_valkey.url) as server:
        worker_pids(server, 2)
        async with opened(server) as session:
            mine = session._url
            for sid in ("0-unknown", "1-unknown", "7-unknown", "9999-unknown"):
                session._url = f"{mine.partition('&sid=')[0]}&sid={sid}"
                for _ in range(4):
                    with pytest.raises(InvalidStatus) as refused:
                        await session.websocket()
                    assert refused.value.response.status_code == 400
                    assert json.loads(refused.value.response.body)["code"] == 1
