"""The WebSocket wire, action by action, against a real node and a real Valkey."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import orjson
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from realizehit.pattern import Pattern
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.support.engines import PING, TEXT, client_frame
from tests.support.valkey import Valkey
from tests.support.wire import HANDSHAKE, RawClient, act, client, publisher, unique


async def test_subscribe_receive_unsubscribe(node: Node, shared_valkey: Valkey) -> None:
    pattern = Pattern(unique("basic"))
    async with client(node.ws_url) as ws, publisher(shared_valkey) as redis:
        assert await act(ws, "sub", dict(pattern)) == {"id": "a1", "ret": pattern.id}
        assert await act(ws, "sub", dict(pattern), "again") == {"id": "again", "ret": pattern.id}
        assert await redis.publish(pattern.channel, b'{"title": "hello?"}') == 1
        assert await ws.recv() == pattern.id + '?{"title": "hello?"}'
        assert await act(ws, "unsub", dict(pattern), 7) == {"id": 7, "ret": pattern.id}
        assert await act(ws, "ping") == {"id": "a1", "ret": "pong"}
        refused = await act(ws, "unsub", dict(pattern))
        assert refused["code"] == "not-subscribed"
        # The node has left the channel at the broker too.
        while pattern.channel.encode() in await redis.pubsub_channels():
            await asyncio.sleep(0.01)
        assert await redis.publish(pattern.channel, b"1") == 0


async def test_from_the_reply_on_nothing_is_missed(node: Node, shared_valkey: Valkey) -> None:
    async with client(node.ws_url) as ws, publisher(shared_valkey) as redis:
        for n in range(200):
            pattern = Pattern(unique("prompt"))
            await ws.send(orjson.dumps({"id": "x", "act": "sub", "pat": dict(pattern)}).decode())
            assert orjson.loads(await ws.recv())["ret"] == pattern.id
            assert await redis.publish(pattern.channel, str(n)) == 1
            assert await ws.recv() == f"{pattern.id}?{n}"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "bad-json"),
        ('{"act":"ping"}x', "bad-json"),
        ("[]", "bad-request"),
        ("7", "bad-request"),
        ("{}", "bad-request"),
        ('{"act":7}', "bad-request"),
        ('{"id":[],"act":"ping"}', "bad-request"),
        ('{"id":true,"act":"ping"}', "bad-request"),
        ('{"id":"%s","act":"ping"}' % ("x" * 129), "bad-request"),
        ('{"id":"a1","act":"publish"}', "unknown-action"),
        ('{"id":"a1","act":"sub"}', "bad-pattern"),
        ('{"id":"a1","act":"sub","pat":{}}', "bad-pattern"),
        ('{"id":"a1","act":"sub","pat":{"a":null}}', "bad-pattern"),
        ('{"id":"a1","act":"unsub","pat":[]}', "bad-pattern"),
        ('{"id":"a1","act":"sub","pat":{"*":"a"}}', "bad-pattern"),
        ('{"id":"a1","act":"sub","pat":{"realizehit":"*"}}', "forbidden"),
        ('{"id":"a1","act":"unsub","pat":{"a":"b"}}', "not-subscribed"),
    ],
)
async def test_a_bad_action_is_answered_and_changes_nothing(node: Node, message: str, code: str) -> None:
    async with client(node.ws_url) as ws:
        await ws.send(message)
        answer = orjson.loads(await ws.recv())
        assert answer["code"] == code
        assert len(answer["err"]) > 10
        assert answer["id"] == "a1" or re.fullmatch("[0-9a-f]{8}", answer["id"])
        assert await act(ws, "ping") == {"id": "a1", "ret": "pong"}


async def test_an_action_without_an_id_gets_one(node: Node) -> None:
    async with client(node.ws_url) as ws:
        await ws.send('{"act":"ping"}')
        answer = orjson.loads(await ws.recv())
        assert answer["ret"] == "pong"
        assert re.fullmatch("[0-9a-f]{8}", answer["id"])


async def test_two_patterns_with_one_id_stay_apart(node: Node, shared_valkey: Valkey) -> None:
    one, two = Pattern(user=25442), Pattern(user=28322)
    assert one.id == two.id == "8ca68b72"
    async with (
        client(node.ws_url) as first,
        client(node.ws_url) as second,
        publisher(shared_valkey) as redis,
    ):
        assert (await act(first, "sub", dict(one)))["ret"] == "8ca68b72"
        assert (await act(second, "sub", dict(two)))["ret"] == "8ca68b72"
        assert (await act(first, "sub", dict(two)))["code"] == "id-collision"
        await redis.publish(one.channel, b'"for 25442"')
        await redis.publish(two.channel, b'"for 28322"')
        assert await first.recv() == '8ca68b72?"for 25442"'
        assert await second.recv() == '8ca68b72?"for 28322"'
        for ws in (first, second):
            assert await act(ws, "ping") == {"id": "a1", "ret": "pong"}


async def test_the_limits_of_a_connection(shared_valkey: Valkey) -> None:
    settings = Settings(port=0, redis=shared_valkey.url, max_subscriptions=3, max_message_bytes=200)
    async with serve(settings) as node, client(node.ws_url) as ws:
        patterns = [unique("limit") for _ in range(4)]
        for pattern in patterns[:3]:
            assert "ret" in await act(ws, "sub", pattern)
        assert (await act(ws, "sub", patterns[3]))["code"] == "too-many-subscriptions"
        await act(ws, "unsub", patterns[0])
        assert "ret" in await act(ws, "sub", patterns[3])
        await ws.send(" " * 201)
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert ws.close_code == 1009


async def test_binary_is_closed_with_1003(node: Node) -> None:
    async with client(node.ws_url) as ws:
        await ws.send(b"\x00")
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert ws.close_code == 1003
    async with client(node.ws_url) as ws:
        await ws.send([b"\x00", b"\x01"])
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert ws.close_code == 1003


async def test_a_message_in_fragments_with_a_ping_between(node: Node) -> None:
    async with client(node.ws_url) as ws:
        for _ in range(3):
            text = '{"id":"é","act":"ping"}'.encode()
            frames = [
                Frame(Opcode.TEXT, text[:8], fin=False),  # in the middle of a character
                Frame(Opcode.PING, b"between"),
                Frame(Opcode.CONT, b"", fin=False),
                Frame(Opcode.CONT, text[8:], fin=True),
            ]
            for frame in frames:
                ws.transport.write(frame.serialize(mask=True))
            assert orjson.loads(await ws.recv()) == {"id": "é", "ret": "pong"}
            assert await act(ws, "ping") == {"id": "a1", "ret": "pong"}  # the engine reads on
            assert node.websocket is not None
            assert node.websocket.parsers == 0


async def test_a_message_byte_by_byte(node: Node) -> None:
    async with client(node.ws_url) as ws:
        data = Frame(Opcode.TEXT, b'{"id":"slow","act":"ping"}').serialize(mask=True)
        for i in range(len(data)):
            ws.transport.write(data[i : i + 1])
            await asyncio.sleep(0)
        assert orjson.loads(await ws.recv()) == {"id": "slow", "ret": "pong"}


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (client_frame(TEXT, b"\xff"), 1007),
        (client_frame(TEXT, b"\xff", first=TEXT), 1007),  # at the first fragment
        (client_frame(0, b"a continuation of nothing"), 1002),
        (client_frame(TEXT, b"x", first=0xC1), 1002),
        (client_frame(3, b"x"), 1002),
        (client_frame(PING, b"x" * 126), 1002),
    ],
)
async def test_a_broken_protocol_closes_with_its_code(node: Node, frame: bytes, code: int) -> None:
    async with client(node.ws_url) as ws, client(node.ws_url) as other:
        ws.transport.write(frame)
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert ws.close_code == code
        assert await act(other, "ping") == {"id": "a1", "ret": "pong"}


async def test_an_unmasked_frame_closes_with_1002(node: Node) -> None:
    async with client(node.ws_url) as ws:
        ws.transport.write(Frame(Opcode.TEXT, b"hello").serialize(mask=False))
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert ws.close_code == 1002


async def test_which_clients_may_not_connect(node: Node) -> None:
    base = node.ws_url.removesuffix("/ws")
    with pytest.raises(InvalidStatus) as refused:
        async with client(base + "/elsewhere"):
            pass
    assert refused.value.response.status_code == 404
    with pytest.raises(InvalidStatus) as refused:
        async with client(node.ws_url + "?EIO=5&transport=websocket"):
            pass
    assert refused.value.response.status_code == 400


async def exchange(node: Node, request: bytes) -> bytes:
    """Send raw bytes to the node's port and return what comes until it closes or stops talking."""
    host, port = node.ws_url.removeprefix("ws://").removesuffix("/ws").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        received = b""
        while b"\r\n\r\n" not in received:
            part = await asyncio.wait_for(reader.read(65536), 5)
            if not part:
                break
            received += part
        return received
    finally:
        writer.close()


async def test_the_opening_handshake_of_the_rfc(node: Node) -> None:
    answer = await exchange(node, HANDSHAKE)
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer  # RFC 6455, section 1.3


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"GET", b"POST", 405),
        (b"HTTP/1.1\r\n", b"HTTP/1.0\r\n", 505),
        (b"Version: 13", b"Version: 12", 400),
        (b"Sec-WebSocket-Version: 13\r\n", b"", 400),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"short", 400),
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"", 400),
        (b"keep-alive, Upgrade", b"keep-alive", 426),
        (b"Upgrade: websocket", b"Upgrade: websocket, h2c", 426),
    ],
)
async def test_a_wrong_handshake_is_refused(node: Node, old: bytes, new: bytes, status: int) -> None:
    answer = await exchange(node, HANDSHAKE.replace(old, new))
    assert answer.split(b" ")[1] == str(status).encode(), answer


async def test_a_head_that_is_late_or_too_long(shared_valkey: Valkey) -> None:
    async with serve(Settings(port=0, redis=shared_valkey.url, handshake_timeout=0.2)) as node:
        answer = await exchange(node, b"GET /ws HTTP/1.1\r\nHost: ")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert await exchange(node, b"") == b""
        answer = await exchange(node, b"GET /ws HTTP/1.1\r\nX: " + b"x" * 20_000)
        assert answer.startswith(b"HTTP/1.1 431 ")


async def test_frames_that_come_with_the_handshake(node: Node) -> None:
    frame = Frame(Opcode.TEXT, b'{"id":"early","act":"ping"}').serialize(mask=True)
    host, port = node.ws_url.removeprefix("ws://").removesuffix("/ws").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(HANDSHAKE + frame)
    received = b""
    while b"pong" not in received:
        received += await asyncio.wait_for(reader.read(65536), 5)
    writer.close()


async def test_heartbeat_on_the_wire(shared_valkey: Valkey) -> None:
    settings = Settings(port=0, redis=shared_valkey.url, heartbeat_interval=0.2, heartbeat_timeout=0.2)
    async with serve(settings) as node:
        async with client(node.ws_url) as ws:
            await asyncio.sleep(1.0)  # the library answers pings by itself
            assert await act(ws, "ping") == {"id": "a1", "ret": "pong"}
        host, port = node.ws_url.removeprefix("ws://").removesuffix("/ws").rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(HANDSHAKE)
        received = await asyncio.wait_for(reader.read(), 15)  # silent from here on
        assert received.endswith(b"\x88\x12\x0f\xa3heartbeat missed")
        writer.close()
        assert node.engine.stats()["heartbeat_disconnects"] == 1


async def test_a_stalled_reader_is_closed_without_harm_to_others(shared_valkey: Valkey) -> None:
    settings = Settings(port=0, redis=shared_valkey.url, max_queue_bytes=100_000)
    pattern = Pattern(unique("stall"))
    async with (
        serve(settings) as node,
        client(node.ws_url) as healthy,
        publisher(shared_valkey) as redis,
        client(node.ws_url, max_queue=1) as stalled,
    ):
        for ws in (healthy, stalled):
            await act(ws, "sub", dict(pattern))
        stalled.transport.pause_reading()
        payload = orjson.dumps("x" * 50_000)
        count = 0
        while node.engine.stats()["slow_disconnects"] == 0:
            await redis.publish(pattern.channel, payload)
            assert await healthy.recv() == f"{pattern.id}?{payload.decode()}"
            count += 1
            assert count < 1000
        assert node.engine.stats()["connections"] == 1
        stalled.transport.abort()  # it would wait for an answer to its close frame, which it does not read


async def test_a_drain_ends_when_the_last_client_has_gone(shared_valkey: Valkey) -> None:
    async with serve(Settings(port=0, redis=shared_valkey.url, drain_seconds=3600)) as node:
        connections = [await RawClient.connect(node.ws_url) for _ in range(3)]
        drain = asyncio.create_task(node.drain())
        await asyncio.wait(
            [asyncio.ensure_future(one.closed.wait()) for one in connections], return_when=asyncio.FIRST_COMPLETED
        )
        assert not drain.done()
        for one in connections:
            one.transport.abort()
        await asyncio.wait_for(drain, 20)


@pytest.mark.parametrize("role", ["all", "ws"])
async def test_drain(shared_valkey: Valkey, role: Any) -> None:
    async with serve(Settings(port=0, redis=shared_valkey.url, drain_seconds=0.5, role=role)) as node:
        clients = [client(node.ws_url) for _ in range(20)]
        connections = [await one.__aenter__() for one in clients]
        await act(connections[0], "sub", unique("drain"))
        drain = asyncio.create_task(node.drain())
        await asyncio.sleep(0)
        with pytest.raises(InvalidStatus) as refused:
            async with client(node.ws_url):
                pass
        assert refused.value.response.status_code == 503
        for ws in connections:
            with pytest.raises(ConnectionClosed):
                while True:
                    await ws.recv()
            assert ws.close_code == 4001
            assert re.fullmatch(r"delay=\d+", ws.close_reason or "")
        await drain
        assert node.engine.stats()["connections"] == 0
        for one in clients:
            await one.__aexit__(None, None, None)
