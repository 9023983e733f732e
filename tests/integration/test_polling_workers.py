"""Engine.IO polling with several workers: each request of a session may reach any of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2

from tests.integration.test_command_workers import publish, worker_pids
from tests.support.processes import Server, serving
from tests.support.valkey import Valkey
from tests.support.wire import unique

SEPARATOR = "\x1e"


class Session:
    """A polling client whose requests come over a connection of their own each, and so reach any worker."""

    def __init__(self, server: Server) -> None:
        self._url = f"{server.ws.replace('ws', 'http', 1)}?EIO=4&transport=polling"
        self.workers: set[str] = set()

    async def request(self, body: str | None = None) -> httpx2.Response:
        async with httpx2.AsyncClient(timeout=15) as http:
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


@asynccontextmanager
async def opened(server: Server) -> AsyncIterator[Session]:
    session = Session(server)
    await session.open()
    yield session


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


async def test_an_unknown_session_is_refused_by_any_worker(shared_valkey: Valkey) -> None:
    with serving("--workers", "2", "--drain-seconds", "0.1", "--redis", shared_valkey.url) as server:
        worker_pids(server, 2)
        for sid in ("7-unknown", "1-unknown", "0-unknown", "9999-unknown", "99999-unknown"):
            session = Session(server)
            session._url += f"&sid={sid}"
            for _ in range(4):
                answer = await session.request()
                assert (answer.status_code, answer.json()["code"]) == (400, 1), sid
