"""Drive a server through a proxy, from within the proxy's host: ``python -m tests.docs.through_proxy '{…}'``.

The argument is JSON: ``ca`` (a file), ``key`` (of the API), and ``sessions`` (the cookies of alice and bob). It
ends with 0 where everything is as `docs/proxies.md` says.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from realizehit import APIClient, WSClient
from realizehit.errors import Rejected

WS, API = "wss://rt.example/ws", "https://rt.example/"
ALICE = {"user": "alice"}


class Through:
    def __init__(self, ca: str, key: str, sessions: dict[str, str]) -> None:
        self.tls = ssl.create_default_context(cafile=ca)
        self.key = key
        self.cookies = {name: {"Cookie": f"session={value}"} for name, value in sessions.items()}

    def client(self, **headers: str) -> WSClient:
        return WSClient(WS, headers=headers, ssl=self.tls, proxy=None)

    def http(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=API, verify=self.tls, trust_env=False, timeout=20)

    async def refused(self, **headers: str) -> str | None:
        """Tell why a client with these headers may not have what is alice's."""
        async with self.client(**headers) as client:
            try:
                await client.subscribe(ALICE)
            except Rejected as error:
                return error.code
            return None

    async def who_clients_are(self) -> None:
        assert await self.refused(**self.cookies["alice"]) is None
        assert await self.refused(**self.cookies["bob"], **{"X-User": "alice"}) == "forbidden"
        assert await self.refused(**{"X-User": "alice"}) == "forbidden"
        assert await self.refused(**{"x-user": "alice", "Cookie": "session=forged"}) == "forbidden"
        async with self.client() as nobody:
            await nobody.subscribe({"kind": "news"})

    async def messages(self, api: APIClient) -> None:
        """What is published arrives over WebSockets and event streams, while these go on."""
        async with (
            self.client(**self.cookies["alice"]) as client,
            self.http() as http,
            http.stream("GET", "/sse?pat=user=alice", headers=self.cookies["alice"]) as stream,
        ):
            assert stream.status_code == 200, await stream.aread()
            lines = stream.aiter_lines()
            await until(lines, "event: subscribed")
            mine = await client.subscribe(ALICE)
            for number in range(3):  # each before the next: nothing waits for more
                assert (await api.publish(ALICE, number)).nodes == 1
                assert await anext(mine) == number
                await until(lines, f"data: {number}")

    async def pages(self) -> None:
        """A page of the proxy's own name may use the server, others may not."""
        async with connect(WS, origin="https://rt.example", ssl=self.tls, proxy=None):  # type: ignore[arg-type]
            pass
        with pytest.raises(InvalidStatus) as caught:
            async with connect(WS, origin="https://other.example", ssl=self.tls, proxy=None):  # type: ignore[arg-type]
                pass
        assert caught.value.response.status_code == 403

    async def addresses(self) -> None:
        async with self.http() as http:
            for path in ("/realizehit.js", "/realizehit-0.1.0.js"):
                answer = await http.get(path)
                assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/javascript")
            for path in ("/metrics", "/console", "/session", "/healthz", "/wsx"):
                assert (await http.get(path)).status_code == 404, path
            answer = await http.get("/sse", params={"pat": "kind=", "token": "s3cret-token"})
            assert answer.status_code >= 400

    async def publishing(self, api: APIClient) -> None:
        async with APIClient(API, verify=self.tls, trust_env=False) as stranger:
            with pytest.raises(Rejected) as caught:
                await stranger.publish(ALICE, 1)
            assert caught.value.status == 401
        before = connections_made()
        for number in range(30):
            await api.publish({"kind": "news"}, number)
        outcomes = await api.publish_many(({"kind": "news"}, number) for number in range(100))
        assert len(outcomes) == 100
        assert connections_made() - before < 10, "the proxy makes a connection for each request"

    async def all(self) -> None:
        async with APIClient(API, key=self.key, verify=self.tls, trust_env=False) as api:
            await self.who_clients_are()
            await self.messages(api)
            await self.pages()
            await self.addresses()
            await self.publishing(api)


async def until(lines: Any, wanted: str) -> None:
    async for line in lines:
        if line == wanted:
            return
    raise AssertionError(f"the stream ended before {wanted!r}")


def connections_made() -> int:
    """Count the connections to the server's port, closed ones that the system still knows of too."""
    rows = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    return sum(row.split()[2].endswith(f":{8080:04X}") or row.split()[1].endswith(f":{8080:04X}") for row in rows)


async def main() -> None:
    async with asyncio.timeout(60):
        await Through(**json.loads(sys.argv[1])).all()


if __name__ == "__main__":
    asyncio.run(main())
