"""Engine.IO as its clients see it, with raw requests and frames; the npm packages are driven by the interop tests."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import ssl
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import trustme
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from realizehit import _fanout
from realizehit.pattern import Pattern
from realizehit.process import parts
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.support.valkey import Valkey
from tests.support.wire import client, publisher, unique

SECONDS = 20
REVISIONS = pytest.mark.parametrize("revision", [3, 4])
BOTH_KINDS = pytest.mark.parametrize(
    "epoll",
    [pytest.param(True, marks=pytest.mark.skipif(not _fanout.HAVE_EPOLL, reason="needs epoll")), False],
    ids=["epoll", "transport"],
)
PAYLOADS = ['{"title": "é?😀"}', '"?"', "null", '"' + "x" * 70_000 + '"', "[1.0, 1e400]"]


def answer(request_id: str | int, ret: str) -> str:
    """The packet that answers an action."""
    return "4" + orjson.dumps({"id": request_id, "ret": ret}).decode()


def escaped(payload: str) -> str:
    return payload.replace("?", "\\u003f")


class Poller:
    """A client that polls, one request after another unless a test says otherwise."""

    def __init__(self, http: httpx2.AsyncClient, revision: int, path: str = "/ws/") -> None:
        self.http = http
        self.revision = revision
        self.path = path
        self.opened: dict[str, Any] = {}
        self._packets: list[str] = []

    @property
    def query(self) -> str:
        sid = f"&sid={self.opened['sid']}" if self.opened else ""
        return f"EIO={self.revision}&transport=polling{sid}"

    async def open(self) -> Poller:
        packet = await self.packet()
        assert packet[0] == "0"
        self.opened = orjson.loads(packet[1:])
        return self

    async def get(self) -> httpx2.Response:
        return await self.http.get(f"{self.path}?{self.query}")

    async def poll(self) -> list[str]:
        response = await self.get()
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].lower() == "text/plain; charset=utf-8"
        return self.split(response.text)

    def split(self, text: str) -> list[str]:
        if self.revision == 4:
            return text.split("\x1e")
        packets = []
        while text:
            length, _, rest = text.partition(":")
            packets.append(rest[: int(length)])
            text = rest[int(length) :]
        return packets

    async def packet(self) -> str:
        """The next packet, whatever requests that takes."""
        while not self._packets:
            self._packets = await self.poll()
        return self._packets.pop(0)

    async def post(self, *packets: str, **headers: str) -> httpx2.Response:
        if self.revision == 4:
            body = "\x1e".join(packets)
        else:
            body = "".join(f"{len(packet.encode('utf-16-le')) // 2}:{packet}" for packet in packets)
        return await self.http.post(
            f"{self.path}?{self.query}",
            content=body.encode(),
            headers={"Content-Type": "text/plain;charset=UTF-8", **headers},
        )

    async def act(self, *actions: dict[str, Any]) -> None:
        response = await self.post(*("4" + orjson.dumps(action).decode() for action in actions))
        assert (response.status_code, response.text) == (200, "ok")

    async def subscribe(self, pattern: dict[str, Any]) -> None:
        await self.act({"id": "s", "act": "sub", "pat": pattern})
        assert orjson.loads((await self.packet())[1:]) == {"id": "s", "ret": Pattern(pattern).id}


@asynccontextmanager
async def http(node: Node) -> AsyncIterator[httpx2.AsyncClient]:
    base = node.ws_url.replace("ws", "http", 1).removesuffix("/ws")
    async with asyncio.timeout(60), httpx2.AsyncClient(base_url=base, timeout=SECONDS) as session:
        yield session


@asynccontextmanager
async def poller(node: Node, revision: int = 4) -> AsyncIterator[Poller]:
    async with http(node) as session:
        yield await Poller(session, revision).open()


@asynccontextmanager
async def websocket(node: Node, revision: int, sid: str | None = None) -> AsyncIterator[ClientConnection]:
    query = f"?EIO={revision}&transport=websocket" + ("" if sid is None else f"&sid={sid}")
    async with asyncio.timeout(60), client(node.ws_url + "/" + query, max_size=1 << 20) as ws:
        yield ws


def error(response: httpx2.Response, code: int) -> str:
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert answer["code"] == code
    return str(answer["message"])


@REVISIONS
async def test_over_a_websocket(node: Node, shared_valkey: Valkey, revision: int) -> None:
    pattern = unique("eio-ws")
    async with websocket(node, revision) as ws, publisher(shared_valkey) as broker:
        opened = await ws.recv()
        assert isinstance(opened, str)
        assert opened[0] == "0"
        details = orjson.loads(opened[1:])
        assert len(details.pop("sid")) == 20
        assert details == {"upgrades": [], "pingInterval": 25000, "pingTimeout": 20000, "maxPayload": 65536}
        await ws.send("4" + orjson.dumps({"id": 1, "act": "sub", "pat": pattern}).decode())
        assert await ws.recv() == answer(1, Pattern(pattern).id)
        for payload in PAYLOADS:
            await broker.publish(str(Pattern(pattern)), payload)
        for payload in PAYLOADS:
            assert await ws.recv() == f"4{Pattern(pattern).id}?{escaped(payload)}"
        await ws.send("6")
        if revision == 3:
            await ws.send("2hello")
            assert await ws.recv() == "3hello"
        else:
            await ws.send("3")
        # A message in fragments, and one with a control frame between.
        await ws.send(["4{", '"act":', '"ping","id":"f"}'])
        assert await ws.recv() == answer("f", "pong")
        await ws.send("1")
        await ws.wait_closed()
        assert ws.close_code == 1000


@pytest.mark.parametrize(
    ("revision", "packet", "code"),
    [
        (4, "2", 1002),
        (3, "3", 1002),
        (4, "9", 1002),
        (4, "", 1002),
        (4, "5", 1002),
        (4, "bAQID", 1003),
        (4, b"x", 1003),
    ],
)
async def test_packets_that_end_a_websocket(node: Node, revision: int, packet: str | bytes, code: int) -> None:
    async with websocket(node, revision) as ws:
        await ws.recv()
        await ws.send(packet)
        await ws.wait_closed()
        assert ws.close_code == code


@pytest.mark.parametrize(("revision", "packet"), [(4, "3"), (4, "6"), (3, "6"), (3, "2")])
async def test_all_packets_count_against_the_rate(shared_valkey: Valkey, revision: int, packet: str) -> None:
    settings = Settings(port=0, redis=shared_valkey.url, max_actions=1, max_subscriptions=5)
    async with serve(settings) as node:
        async with websocket(node, revision) as ws:
            with pytest.raises(ConnectionClosed):
                for _ in range(300):
                    await ws.send(packet)
                while True:
                    await ws.recv()
            assert (ws.close_code, ws.close_reason) == (4502, "rate-limited")
        async with poller(node, revision) as polling:
            await polling.post(*[packet] * 300)
            await until(lambda: node.engine.stats()["connections"] == 0)
        async with poller(node, revision) as polling, websocket(node, revision, polling.opened["sid"]) as probe:
            with pytest.raises(ConnectionClosed):
                for _ in range(300):
                    await probe.send("6")
                while True:
                    await probe.recv()
            assert (probe.close_code, probe.close_reason) == (4502, "rate-limited")


@REVISIONS
async def test_by_polling(node: Node, shared_valkey: Valkey, revision: int) -> None:
    pattern = unique("eio-é?")
    async with poller(node, revision) as polling, publisher(shared_valkey) as broker:
        assert polling.opened["upgrades"] == ["websocket"]
        await polling.subscribe(pattern)
        for payload in PAYLOADS:
            await broker.publish(str(Pattern(pattern)), payload)
        for payload in PAYLOADS:
            packet = await polling.packet()
            assert packet.startswith(f"4{Pattern(pattern).id}?")
            assert packet.count("?") == 1
            assert (
                orjson.loads(packet[10:]) == orjson.loads(payload) if "e400" not in payload else packet[10:] == payload
            )
        # Several packets in one request, and a poll that waits for what comes.
        poll = asyncio.create_task(polling.packet())
        await until(lambda: waiting(node))
        await polling.act({"id": 1, "act": "ping"}, {"id": 2, "act": "ping"})
        assert await poll == answer(1, "pong")
        assert await polling.packet() == answer(2, "pong")
        await polling.act({"id": "u", "act": "unsub", "pat": pattern})
        assert await polling.packet() == answer("u", Pattern(pattern).id)
        if revision == 3:
            await polling.post("2")
            assert await polling.packet() == "3"
        assert (await polling.post("1")).status_code == 200
        assert await polling.packet() == "1"
        assert node.engineio is not None
        await until(lambda: node.engineio.sessions == 0)
        assert error(await polling.get(), 1) == "Session ID unknown"


def waiting(node: Node) -> bool:
    """Whether a poll waits at the server."""
    assert node.engineio is not None
    return any(session.connection.waiting for session in node.engineio._sessions.values())


async def until(condition: Any) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


@REVISIONS
async def test_wildcards_over_a_websocket_and_by_polling(node: Node, shared_valkey: Valkey, revision: int) -> None:
    one, two = unique("eio-wildcard"), unique("eio-wildcard")
    async with websocket(node, revision) as ws, poller(node, revision) as polling:
        await ws.recv()
        await ws.send("4" + orjson.dumps({"id": "s", "act": "sub", "pat": {**one, "*": "*"}}).decode())
        assert await ws.recv() == answer("s", Pattern({**one, "*": "*"}).id)
        await polling.subscribe({**two, "topic": "*"})
        for pattern, wildcard in ((one, {**one, "*": "*"}), (two, {**two, "topic": "*"})):
            label = "@c=" + Pattern({**pattern, "topic": "a"}).channel
            assert shared_valkey.command("PUBLISH", Pattern(wildcard).channel, label + "?1") == 1
            text = await (ws.recv() if pattern is one else polling.packet())
            assert text == f"4{Pattern(wildcard).id}{label}?1"


@BOTH_KINDS
@REVISIONS
async def test_an_upgrade_loses_and_duplicates_nothing(shared_valkey: Valkey, revision: int, epoll: bool) -> None:
    pattern = unique("eio-upgrade")
    total = 3000
    async with (
        serve(Settings(port=0, redis=shared_valkey.url), epoll=epoll) as node,
        poller(node, revision) as polling,
        publisher(shared_valkey) as broker,
    ):
        await polling.subscribe(pattern)
        count = 0

        async def publish() -> None:
            nonlocal count
            while count < total:
                await broker.publish(str(Pattern(pattern)), str(count))
                count += 1

        received: list[str] = []
        publishing = asyncio.create_task(publish())
        while len(received) < 200:
            received += await polling.poll()
        poll = asyncio.create_task(polling.poll())
        async with websocket(node, revision, polling.opened["sid"]) as ws:
            await ws.send("2probe")
            assert await ws.recv() == "3probe"
            received += await poll  # which has come to its end
            # More waits at the server when the client changes over.
            more = count + 100
            await until(lambda: count >= more)
            await ws.send("5")
            await ws.send('4{"act":"ping","id":"behind"}')
            pongs = 0
            while received.count(f"4{Pattern(pattern).id}?{total - 1}") == 0:
                packet = await ws.recv()
                assert isinstance(packet, str)
                if packet == answer("behind", "pong"):
                    pongs += 1
                else:
                    received.append(packet)
            await publishing
            assert pongs == 1
            assert [packet for packet in received if packet != "6"] == [
                f"4{Pattern(pattern).id}?{number}" for number in range(total)
            ]
            # The session is one with the WebSocket now, and no poll is answered.
            assert error(await polling.get(), 1)
            assert node.engine.stats()["connections"] == 1
            await ws.send("4" + orjson.dumps({"id": "u", "act": "unsub", "pat": pattern}).decode())
            assert await ws.recv() == answer("u", Pattern(pattern).id)
        await until(lambda: node.engine.stats()["connections"] == 0)


async def test_invalid_upgrades(node: Node) -> None:
    async with poller(node) as polling:
        for words in (["4x"], ["5"], ["2probe", "2probe"], ["2"]):
            async with websocket(node, 4, polling.opened["sid"]) as ws:
                for word in words:
                    await ws.send(word)
                with pytest.raises(ConnectionClosed):
                    while True:
                        assert await ws.recv() == "3probe"
                assert ws.close_code == 1002
        # The session is none the worse for it, and no second WebSocket may probe beside a first.
        async with websocket(node, 4, polling.opened["sid"]) as ws:
            await ws.send("2probe")
            assert await ws.recv() == "3probe"
            with pytest.raises(InvalidStatus) as refused:
                async with websocket(node, 4, polling.opened["sid"]):
                    pass
            assert refused.value.response.status_code == 400
            assert await polling.poll() == ["6"]  # no poll stays open meanwhile
        await polling.act({"act": "ping", "id": 1})
        while (packet := await polling.packet()) == "6":
            pass
        assert packet == answer(1, "pong")


@pytest.mark.parametrize(
    ("method", "query", "code"),
    [
        ("GET", "EIO=4", 0),
        ("GET", "EIO=4&transport=flashsocket", 0),
        ("GET", "EIO=4&transport=polling&sid=guessed", 1),
        ("POST", "EIO=4&transport=polling&sid=guessed", 1),
        ("GET", "EIO=4&transport=polling&sid=", 1),
        ("POST", "EIO=4&transport=polling", 2),
        ("GET", "EIO=4&transport=polling&j=0", 3),
        ("GET", "EIO=4&transport=websocket", 3),
        ("GET", "EIO=4&transport=websocket&sid=guessed", 3),
        ("GET", "EIO=2&transport=polling", 5),
        ("GET", "EIO=5&transport=polling", 5),
        ("GET", "EIO=&transport=polling", 5),
        ("GET", "EIO=4&transport=polling&" + "&".join("a" * 40), 3),
        ("PUT", "EIO=4&transport=polling", 2),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/ws", "/ws/"])
async def test_refused_requests(node: Node, path: str, method: str, query: str, code: int) -> None:
    async with http(node) as session:
        response = await session.request(method, f"{path}?{query}")
        message = error(response, code)
        assert ("j=" in message) == ("j=" in query)
        assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("EIO=4&transport=websocket&sid=guessed", 1),
        ("EIO=4&transport=polling", 3),
        ("EIO=4", 0),
        ("EIO=9&transport=websocket", 5),
    ],
)
async def test_refused_handshakes(node: Node, query: str, code: int) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with client(f"{node.ws_url}?{query}"):
            pass
    response = refused.value.response
    assert response.status_code == 400
    assert orjson.loads(response.body or b"")["code"] == code


async def test_a_session_belongs_to_one_revision(node: Node) -> None:
    async with poller(node, 4) as polling:
        polling.revision = 3
        assert "EIO=4" in error(await polling.get(), 3)
        with pytest.raises(InvalidStatus):
            async with websocket(node, 3, polling.opened["sid"]):
                pass
        polling.revision = 4
        await polling.act({"act": "ping"})


async def test_other_requests_get_426(node: Node) -> None:
    async with http(node) as session:
        response = await session.get("/ws")
        assert (response.status_code, response.headers["upgrade"]) == (426, "websocket")
        assert "EIO" not in response.text
        assert "Engine.IO" in response.text


@pytest.mark.parametrize("allowed", ["*", "http://example.org"])
async def test_pages_of_other_origins_may_read_with_credentials(shared_valkey: Valkey, allowed: str) -> None:
    settings = Settings(port=0, redis=shared_valkey.url, allow_origin=(allowed,))
    query = "/ws/?EIO=4&transport=polling"
    page = {"Origin": "http://example.org"}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    async with serve(settings) as node, http(node) as session:
        preflight = await session.options(query, headers={**page, **asked})
        assert preflight.status_code == 200
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert preflight.headers["access-control-allow-headers"].lower().count("content-type")
        opened = await session.get(query, headers=page)
        assert opened.status_code == 200
        refused = await session.get(query + "&sid=unknown", headers=page)
        assert refused.status_code == 400
        for response in (preflight, opened, refused):
            # A browser takes "*" for an answer to nobody who sends credentials, as engine.io-client 1 to 3.4 does.
            assert response.headers.get_list("access-control-allow-origin") == [page["Origin"]]
            assert response.headers.get_list("access-control-allow-credentials") == ["true"]
            assert "Origin" in response.headers["vary"]


async def test_two_polls_at_once_end_the_session(node: Node) -> None:
    async with poller(node) as polling:
        first = asyncio.create_task(polling.poll())
        await until(lambda: waiting(node))
        assert "closed" in error(await polling.get(), 3)
        assert await first == ["1"]
        assert error(await polling.get(), 1)


async def test_two_posts_at_once_end_the_session(node: Node) -> None:
    async with poller(node) as polling:
        half = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield b"4{"
            half.set()
            await asyncio.sleep(SECONDS)

        first = asyncio.create_task(polling.http.post(f"/ws/?{polling.query}", content=slowly()))
        await half.wait()
        assert node.engineio is not None
        await until(lambda: all(session.sending for session in node.engineio._sessions.values()))
        assert "closed" in error(await polling.post("3"), 3)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert await polling.poll() == ["1"]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"4x", "application/octet-stream"),
        (b"bAQID", "text/plain"),
        (b"\xff", "text/plain"),
        (b"", "text/plain"),
        (b"2", "text/plain"),
        (b"4" + b"x" * 16385, "text/plain"),
        (b"4" + b"x" * 70_000, "text/plain"),
    ],
    ids=["octets", "base64", "no-utf8", "empty", "ping", "message", "body"],
)
async def test_packets_that_end_a_polling_session(node: Node, body: bytes, content_type: str) -> None:
    async with poller(node) as polling:
        poll = asyncio.create_task(polling.poll())
        await until(lambda: waiting(node))
        response = await polling.http.post(
            f"/ws/?{polling.query}", content=body, headers={"Content-Type": content_type}
        )
        assert response.status_code in (200, 400)
        assert await poll == ["1"]
        await until(lambda: node.engine.stats()["connections"] == 0)


async def test_a_client_that_aborts_a_poll_is_disconnected(node: Node) -> None:
    async with poller(node) as polling:
        poll = asyncio.create_task(polling.poll())
        await until(lambda: waiting(node))
        poll.cancel()
        await asyncio.gather(poll, return_exceptions=True)
        await until(lambda: node.engine.stats()["connections"] == 0)


async def test_a_slow_poller_is_closed(shared_valkey: Valkey) -> None:
    pattern = unique("eio-slow")
    settings = Settings(port=0, redis=shared_valkey.url, max_queue_messages=5, slow_grace=0.0)
    async with serve(settings) as node, poller(node) as polling, publisher(shared_valkey) as broker:
        await polling.subscribe(pattern)
        for number in range(7):
            await broker.publish(str(Pattern(pattern)), str(number))
        await until(lambda: node.engine.stats()["slow_disconnects"] == 1)
        assert await polling.poll() == ["1"]
        assert error(await polling.get(), 1)


@REVISIONS
async def test_heartbeats(shared_valkey: Valkey, revision: int) -> None:
    settings = Settings(port=0, redis=shared_valkey.url, heartbeat_interval=0.3, heartbeat_timeout=0.6)
    async with serve(settings) as node, poller(node, revision) as polling:
        assert polling.opened["pingInterval"] == 300
        for _ in range(4):
            if revision == 4:
                assert await polling.packet() == "2"
                await polling.post("3")
            else:
                await asyncio.sleep(0.3)
                await polling.post("2")
                assert await polling.packet() == "3"
        assert node.engine.stats()["connections"] == 1
        # Who shows itself no more is gone after a while.
        await until(lambda: node.engine.stats()["heartbeat_disconnects"] == 1)
        assert node.engine.stats()["connections"] == 0


async def test_draining_ends_sessions(shared_valkey: Valkey) -> None:
    settings = Settings(port=0, redis=shared_valkey.url, drain_seconds=0.1)
    async with serve(settings) as node, poller(node) as polling, websocket(node, 4) as ws:
        await ws.recv()
        poll = asyncio.create_task(polling.poll())
        await until(lambda: waiting(node))
        drain = asyncio.create_task(node.drain())
        assert await poll == ["1"]
        await ws.wait_closed()
        assert ws.close_code == 4001
        assert (ws.close_reason or "").startswith("delay=")
        polling.opened = {}
        response = await polling.get()
        assert (response.status_code, response.json()["code"]) == (503, 4)
        await drain


async def test_closing_a_server_ends_its_polls(shared_valkey: Valkey) -> None:
    async with asyncio.timeout(SECONDS):
        async with serve(Settings(port=0, redis=shared_valkey.url)) as node:
            session = httpx2.AsyncClient(base_url=node.api_url, timeout=SECONDS)
            polling = await Poller(session, 4).open()
            poll = asyncio.create_task(polling.poll())
            await until(lambda: waiting(node))
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 4  # uvicorn waits 5 seconds for requests
        assert await poll == ["1"]
        await session.aclose()


@pytest.mark.parametrize("clients", [500, pytest.param(4000, marks=pytest.mark.slow)])
async def test_abandoned_sessions_leave_nothing(
    shared_valkey: Valkey, clients: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that open a session, subscribe and are never seen again: what they cost does not stay."""
    monkeypatch.setattr(parts, "CLOSE_TIMEOUT", 0.5)
    settings = Settings(port=0, redis=shared_valkey.url, heartbeat_interval=0.4, heartbeat_timeout=0.4)
    pattern = unique("eio-abandoned")

    async def ask(scope: dict[str, Any], body: bytes = b"") -> bytes:
        sent = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            sent.append(message.get("body", b""))

        assert node.engineio is not None
        await node.engineio({"type": "http", "headers": [], "client": ("127.0.0.1", 1), **scope}, receive, send)
        return b"".join(sent)

    async def abandon() -> None:
        query = b"EIO=4&transport=polling"
        opened = orjson.loads((await ask({"method": "GET", "query_string": query}))[1:])
        query += b"&sid=" + opened["sid"].encode()
        action = b"4" + orjson.dumps({"act": "sub", "pat": pattern})
        assert await ask({"method": "POST", "query_string": query}, action) == b"ok"

    async def a_round() -> int:
        """Abandon all of them, wait until nothing is left to do for them, and return how many there were at a time."""
        assert node.engineio is not None
        most = 0
        for number in range(clients):
            await abandon()
            if number % 100 == 0:
                await asyncio.sleep(0)  # the loop's other work, such as the heartbeats
                most = max(most, node.engineio.sessions)
        await until(lambda: node.engine.stats()["connections"] == node.engine.stats()["closing"] == 0)
        # A `sub` keeps its deadline, a few hundred bytes, until that has passed; the broker's confirmation is no reason
        # to look for it.
        node.hub.tick(math.inf)
        gc.collect()
        return most

    async with serve(settings) as node:
        assert node.engineio is not None
        tracemalloc.start()
        try:
            # Caches fill in the first round, and tables grow with the most that there ever were at a time; a leak grows
            # in every round.
            peaks, sizes = [], []
            for _ in range(3):
                peaks.append(await a_round())
                sizes.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert min(peaks) >= 100
        assert node.engineio.sessions == 0
        assert node.engine.channel_names() == []
        grown = min(after - before for before, after in itertools.pairwise(sizes))
        assert grown < 5000, f"{sizes} bytes after {clients} sessions each"


async def test_over_tls(shared_valkey: Valkey, tmp_path: Path) -> None:
    """A connection whose bytes go through Python changes over too."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    certificate.private_key_pem.write_to_path(key)
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    pattern = unique("eio-tls")
    settings = Settings(port=0, redis=shared_valkey.url, tls_cert=str(chain), tls_key=str(key))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with (
        serve(settings) as node,
        httpx2.AsyncClient(
            base_url=node.api_url.replace("127.0.0.1", "localhost"), timeout=SECONDS, verify=context
        ) as session,
        publisher(shared_valkey) as broker,
    ):
        polling = await Poller(session, 4).open()
        await polling.subscribe(pattern)
        url = node.ws_url.replace("127.0.0.1", "localhost")
        sid = polling.opened["sid"]
        async with client(f"{url}?EIO=4&transport=websocket&sid={sid}", ssl=context) as ws:
            await ws.send("2probe")
            assert await ws.recv() == "3probe"
            await ws.send("5")
            await ws.send('4{"act":"ping","id":1}')
            assert await ws.recv() == answer(1, "pong")
            await broker.publish(str(Pattern(pattern)), "1")
            assert await ws.recv() == f"4{Pattern(pattern).id}?1"
