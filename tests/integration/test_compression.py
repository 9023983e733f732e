"""permessage-deflate: when it is agreed on, and that both directions are held to their bounds."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

import orjson
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from realizehit.pattern import Pattern
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from realizehit.transports.compression import negotiate
from realizehit.transports.heads import parse_head
from tests.support.engines import TEXT, client_frame
from tests.support.valkey import Valkey
from tests.support.wire import act, client, publisher, unique

BOTH_OFF = b"server_no_context_takeover; client_no_context_takeover"


@pytest.fixture
async def compressing(shared_valkey: Valkey) -> AsyncIterator[Node]:
    async with asyncio.timeout(60), serve(Settings(port=0, redis=shared_valkey.url, compress=True)) as node:
        yield node


@pytest.mark.parametrize(
    ("offer", "agreed"),
    [
        (b"permessage-deflate", b"permessage-deflate; " + BOTH_OFF),
        (b"permessage-deflate; client_max_window_bits", b"permessage-deflate; " + BOTH_OFF),
        (b"permessage-deflate; " + BOTH_OFF, b"permessage-deflate; " + BOTH_OFF),
        (b"x-other, permessage-deflate", b"permessage-deflate; " + BOTH_OFF),
        # Frames are shared, so a smaller window for one client cannot be had; the next offer may do.
        (b"permessage-deflate; server_max_window_bits=10", None),
        (
            b"permessage-deflate; server_max_window_bits=10, permessage-deflate",
            b"permessage-deflate; " + BOTH_OFF,
        ),
        (b"permessage-deflate; server_max_window_bits=99", None),
        (b"permessage-deflate; unheard_of", None),
        (b"x-other", None),
        (b"=;", None),
    ],
)
def test_negotiated_extensions(offer: bytes, agreed: bytes | None) -> None:
    head = parse_head(b"GET /ws HTTP/1.1\r\nSec-WebSocket-Extensions: " + offer)
    assert head is not None
    assert negotiate(head) == (None if agreed is None else b"Sec-WebSocket-Extensions: " + agreed + b"\r\n")


def test_no_offer_means_no_compression() -> None:
    head = parse_head(b"GET /ws HTTP/1.1\r\nHost: x")
    assert head is not None
    assert negotiate(head) is None


async def test_compression_is_off_by_default(node: Node) -> None:
    async with client(node.ws_url, compression="deflate") as ws:
        assert ws.protocol.extensions == []
        assert (await act(ws, "ping"))["ret"] == "pong"


async def test_both_directions(compressing: Node, shared_valkey: Valkey) -> None:
    pattern = unique("deflate")
    pattern["long"] = "é" * 40
    payloads = ['{"title": "é?"}', '"' + "ab" * 40_000 + '"', "1"]
    async with (
        client(compressing.ws_url, compression="deflate") as first,
        client(compressing.ws_url, compression="deflate") as second,
        client(compressing.ws_url) as plain,
        publisher(shared_valkey) as broker,
    ):
        clients = (first, second, plain)
        for ws in clients:
            assert [extension.name for extension in ws.protocol.extensions] == (
                [] if ws is plain else ["permessage-deflate"]
            )
            assert (await act(ws, "sub", pattern))["ret"] == Pattern(pattern).id
            await ws.ping()
            # A message in fragments, compressed where that was agreed on.
            await ws.send(['{"act":"ping",', '"id":"', "x" * 100, '"}'])
            assert orjson.loads(await ws.recv()) == {"id": "x" * 100, "ret": "pong"}
        assert compressing.websocket is not None
        assert compressing.websocket.parsers == 0
        before = compressing.engine.stats()
        for payload in payloads:
            await broker.publish(str(Pattern(pattern)), payload)
        for ws in clients:
            for payload in payloads:
                assert await ws.recv() == f"{Pattern(pattern).id}?{payload}"
        after = compressing.engine.stats()
        assert after["frames_built"] - before["frames_built"] == 2 * len(payloads)
        assert after["bytes_out"] - before["bytes_out"] < 85_000  # of which the plain client's are 80,000


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (zlib.compress(b"x" * 16_385, wbits=-15), 1009),
        (zlib.compress(b"x" * (64 << 20), wbits=-15), 1009),
        (b"\xff\xff\xff", 1002),
        (zlib.compress(b"\xff" * 100, wbits=-15), 1007),
    ],
    ids=["large", "bomb", "no-deflate", "no-utf8"],
)
async def test_invalid_compressed_messages(compressing: Node, data: bytes, code: int) -> None:
    factory = ClientPerMessageDeflateFactory(client_no_context_takeover=True)
    async with client(compressing.ws_url, extensions=[factory]) as ws:
        ws.transport.write(client_frame(TEXT, data, first=0xC1))
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert ws.close_code == code
