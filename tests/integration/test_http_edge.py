"""Requests at the edge, on real sockets: where each ends, what each may take, and how long each may last."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import orjson
import pytest
import trustme
import uvloop

from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.support.valkey import Valkey
from tests.support.wire import client, unique

SECONDS = 20
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = b'{"pattern":{"edge":1},"payload":1}'
TO_PUBLISH = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
LAST = GET[:-2] + b"Connection: close\r\n\r\n"
POST = TO_PUBLISH + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


@asynccontextmanager
async def serving(valkey: Valkey, **options: Any) -> AsyncIterator[Node]:
    async with serve(Settings(port=0, redis=valkey.url, **options)) as node:
        yield node


@asynccontextmanager
async def connected(node: Node) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    address = urlsplit(node.api_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        async with asyncio.timeout(SECONDS):
            yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def exchange(node: Node, *parts: bytes) -> list[bytes]:
    """Send the parts, and then a request that says it is the connection's last one; return the answers."""
    async with connected(node) as (reader, writer):
        with suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.002)  # so that they are mostly read one by one; the outcome is the same if not
            writer.write(LAST)
        return split(await reader.read())


async def one_answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    assert length is not None
    return head + await reader.readexactly(int(length[1]))


def split(data: bytes) -> list[bytes]:
    """Take answers apart, by the lengths that they name."""
    answers = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        assert length is not None, data
        assert len(rest) >= int(length[1])
        answers.append(head + b"\r\n\r\n" + rest[: int(length[1])])
        data = rest[int(length[1]) :]
    return answers


def statuses(answers: Iterable[bytes]) -> list[int]:
    return [int(answer.split(b" ", 2)[1]) for answer in answers]


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    assert length is not None, head
    return head + await reader.readexactly(int(length[1]))


async def published(node: Node) -> int:
    """How many messages were published."""
    async with connected(node) as (reader, writer):
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        text = await reader.read()
    return int(
        sum(float(value) for value in re.findall(rb'(?m)^realizehit_publications_total{outcome="queued"} (\S+)', text))
    )


def transport_of(writer: asyncio.StreamWriter) -> asyncio.Transport:
    return cast(asyncio.Transport, writer.transport)


def refused(node: Node, reason: str) -> int:
    return node.guard.gate.refusals.counts[reason]


# --- where a request ends


OFFERS = {
    "unknown": b"Connection: Upgrade\r\nUpgrade: foo\r\n",
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
    "without Connection": b"Upgrade: h2c\r\n",
    "several": b"Connection: upgrade, keep-alive\r\nUpgrade: TLS/1.0, h2c\r\n",
    "two headers": b"Connection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: foo\r\nUpgrade: bar\r\n",
}


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_body_of_a_request_with_an_upgrade_stays_a_body(node: Node, offer: bytes, chunked: bool) -> None:
    inner = POST * 2
    if chunked:
        framing, body = b"Transfer-Encoding: chunked\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)
    else:
        framing, body = b"Content-Length: %d\r\n" % len(inner), inner
    head = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\n" + offer + framing + b"\r\n"
    # At once, it ends before the answer begins. In parts, the answer comes first, and what follows is read by nobody.
    assert statuses(await exchange(node, head + body)) == [404, 200]
    for cut in (0, 1, len(body) // 2, len(body) - 1):
        answers = await exchange(node, head + body[:cut], body[cut:])
        assert statuses(answers) in ([404], [404, 200])
    for method in (b"GET", b"DELETE"):
        answers = await exchange(node, head.replace(b"POST", method, 1), body)
        assert statuses(answers) in ([404], [404, 200])
    assert await published(node) == 0


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
async def test_a_client_that_offers_an_upgrade_is_served_over_http(node: Node, offer: bytes) -> None:
    pattern = unique("offer")
    body = orjson.dumps({"pattern": pattern, "payload": 1})
    head = TO_PUBLISH + offer
    lines = (body + b"\n") * 3
    batch = head.replace(b"POST /", b"POST /batch").replace(b"application/json", b"application/x-ndjson")
    answers = await exchange(
        node,
        head + b"Content-Length: %d\r\n\r\n" % len(body),
        body + batch + b"Content-Length: %d\r\n\r\n" % len(lines) + lines[:10],
        lines[10:],
        head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body),
        body + b"\r\n0\r\n",
        b"\r\n",
    )
    assert statuses(answers) == [200] * 4
    assert orjson.loads(answers[1].partition(b"\r\n\r\n")[2])["queued"] == 3
    assert await published(node) == 5


OPEN_ENDS = (
    (b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n", 400),
    (b"Transfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n", 400),
    (b"Content-Length: 5\r\nContent-Length: 6", b"12345", 400),
    (b"Content-Length: 5\r\nContent-Length: 5", b"12345", 400),
    (b"Content-Length: 5, 5", b"12345", 400),
    (b"Content-Length: +5", b"12345", 400),
    (b"Content-Length: -5", b"12345", 400),
    (b"Content-Length: 0x5", b"12345", 400),
    (b"Content-Length: 5 5", b"12345", 400),
    (b"Content-Length:", b"", 400),
    (b"Content-Length: 99999999999999999999999", b"", 400),
    (b"Content-Length : 5", b"12345", 400),
    (b" Content-Length: 5", b"12345", 400),
    (b"X: 1\n", b"", 400),
    (b"X: 1\r", b"", 400),
    (b"X: \x00", b"", 400),
    (b"Transfer-Encoding: gzip", b"0\r\n\r\n", 501),
    (b"Transfer-Encoding: gzip, chunked", b"0\r\n\r\n", 501),
    (b"Transfer-Encoding: chunked, chunked", b"0\r\n\r\n", 501),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"0\r\n\r\n", 501),
    (b"Transfer-Encoding: identity", b"", 501),
    (b"Transfer-Encoding: \x0bchunked", b"0\r\n\r\n", 400),
    (b"Transfer-Encoding: chunked", b"5\nhello\r\n0\r\n\r\n", 400),
    (b"Transfer-Encoding: chunked", b"-1\r\n\r\n", 400),
    (b"Transfer-Encoding: chunked", b"0x5\r\nhello\r\n0\r\n\r\n", 400),
    (b"Transfer-Encoding: chunked", b"5\r\nhelloXX0\r\n\r\n", 400),
    (b"Transfer-Encoding: chunked", b"g\r\n", 400),
)


@pytest.mark.parametrize(
    "head", [TO_PUBLISH, TO_PUBLISH.replace(b"POST / ", b"POST /batch "), TO_PUBLISH.replace(b"POST", b"PUT")]
)
async def test_an_incomplete_request_is_the_last(node: Node, head: bytes) -> None:
    for fields, body, status in OPEN_ENDS:
        answers = await exchange(node, GET, head + fields + b"\r\n\r\n" + body + POST)
        # Nobody waits for a body in order to say 405; what comes behind it has then no answer.
        assert statuses(answers) in ([200, status], [200, 405]), fields
        assert b"\r\nconnection: close\r\n" in answers[-1].lower()
    assert await published(node) == 0


WRONG_HOSTS = (
    b"", b"Host: a\r\nHost: a\r\n", b"Host: a\r\nHost: b\r\n", b"Host:\r\n", b"Host: a b\r\n", b"Host: a/b\r\n",
    b"Host: user@a\r\n", b"Host: a:80x\r\n", b"Host: a:99999\r\n", b"Host: a:1:2\r\n", b"Host: [::1\r\n",
    b"Host: http://a\r\n", b"Host: a, b\r\n", b"Host: a?b\r\n", b"Host: %zz\r\n", b"Host: \xe9\r\n",
)  # fmt: skip


@pytest.mark.parametrize("target", [b"/", b"/healthz", b"/nothing", b"/sse", b"/ws"])
async def test_a_request_needs_exactly_one_host(node: Node, target: bytes) -> None:
    line = (b"POST %b HTTP/1.1\r\n" if target == b"/" else b"GET %b HTTP/1.1\r\n") % target
    more = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
    for hosts in WRONG_HOSTS:
        for first in ((), (GET,)):
            answers = await exchange(node, *first, line + hosts + more)
            assert statuses(answers) == [200] * len(first) + [400]
            assert b"ost" in answers[-1].partition(b"\r\n\r\n")[2]
    assert await published(node) == 0


async def test_all_kinds_of_hosts_are_accepted(node: Node) -> None:
    hosts = (b"a", b"a:80", b"a:", b"A.b-c_d.", b"127.0.0.1:1", b"[::1]", b"[::ffff:1.2.3.4]:65535", b"xn--a.b", b"%41")
    for host in hosts:
        assert statuses(await exchange(node, GET.replace(b"localhost", host))) == [200, 200]


async def test_older_clients_need_no_host(node: Node) -> None:
    async with connected(node) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        [answer] = split(await reader.read())
    assert answer.endswith(b"ok\n")


REQUEST_LINES = (
    (b"GET /healthz HTTP/2.0", 505),
    (b"GET /healthz HTTP/1.2", 505),
    (b"GET /healthz HTTP/0.9", 505),
    (b"GET /healthz HTTP/1.10", 400),
    (b"GET /healthz", 400),
    (b"GET  /healthz HTTP/1.1", 400),
    (b"GET /healthz HTTP/1.1 ", 400),
    (b"GET\t/healthz HTTP/1.1", 400),
    (b"GET healthz HTTP/1.1", 400),
    (b"GET /healthz#part HTTP/1.1", 400),
    (b"GET * HTTP/1.1", 400),
    (b"GET ftp://localhost/healthz HTTP/1.1", 400),
    (b"GET http:///healthz HTTP/1.1", 400),
    (b"GET http://user@localhost/healthz HTTP/1.1", 400),
    (b"CONNECT localhost:80 HTTP/1.1", 501),
    (b"CONNECT /healthz HTTP/1.1", 501),
)


async def test_unsupported_request_lines(node: Node) -> None:
    for line, status in REQUEST_LINES:
        answers = await exchange(node, GET, line + b"\r\nHost: localhost\r\n\r\n" + GET)
        assert statuses(answers) == [200, status], line


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01", b"no request\r\n\r\n", b"\r\n\r\n", b" \r\n", b"\n", b"X\n\n"])
async def test_bytes_behind_a_request_do_not_change_its_response(node: Node, garbage: bytes) -> None:
    opening = b"GET /ws/?EIO=4&transport=polling HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for request in (GET, POST, opening, TO_PUBLISH.replace(b"POST / ", b"POST /no ") + b"Content-Length: 0\r\n\r\n"):
        wanted = 404 if b" /no " in request else 200
        for parts in ((request + garbage,), (request, garbage)):
            assert statuses(await exchange(node, *parts)) == [wanted, 400]


async def test_one_empty_line_before_a_request_is_ignored(node: Node) -> None:
    assert statuses(await exchange(node, b"\r\n" + GET + b"\r\n" + POST, b"\r", b"\n" + GET[:5], GET[5:])) == [200] * 4
    assert await published(node) == 1


# --- other forms


async def test_urls_as_targets(node: Node) -> None:
    for host in (b"localhost", b"LOCALHOST:1", b"[::1]"):
        answers = await exchange(
            node,
            GET.replace(b"/healthz", b"http://%b/healthz" % host),
            GET.replace(b"/healthz", b"HTTPS://%b/healthz?a=1" % host),
            GET.replace(b"/healthz", b"http://%b" % host),
            POST.replace(b" / ", b" http://%b/ " % host),
            POST.replace(b" / ", b" http://%b " % host),
        )
        assert statuses(answers) == [200, 200, 405, 200, 200, 200]
    address = urlsplit(node.ws_url)
    async with client(node.ws_url) as ws:
        assert ws.request is not None
        handshake = ws.request.serialize()
    absolute = handshake.replace(b"GET /ws", b"GET http://127.0.0.1:%d/ws" % (address.port or 0))
    assert absolute != handshake
    for first in ((), (GET,)):
        async with connected(node) as (reader, writer):
            for part in first:
                writer.write(part)
                await read_answer(reader)
            writer.write(absolute)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")


async def test_the_host_of_the_target_replaces_the_header(node: Node) -> None:
    # A server that listens on loopback alone takes no stranger's name: it may have been made to point here.
    strange = GET.replace(b"/healthz", b"http://stranger.example/sse?pat=%7B%22a%22:1%7D")
    assert statuses(await exchange(node, strange)) == [403, 200]
    assert refused(node, "host") == 1


@pytest.mark.parametrize(
    "coding", [b"gzip", b"deflate", b"br", b"identity, gzip", b"identity\r\nContent-Encoding: gzip"]
)
async def test_an_encoded_body_is_refused(node: Node, coding: bytes) -> None:
    head = POST[: POST.index(b"\r\n\r\n")] + b"\r\nContent-Encoding: " + coding + b"\r\n\r\n"
    for target in (b" / ", b" /batch "):
        answers = await exchange(node, head.replace(b" / ", target) + BODY)
        assert statuses(answers) == [415, 200]
        assert orjson.loads(answers[0].partition(b"\r\n\r\n")[2])["code"] == "unsupported-media-type"
        assert b"\r\naccept-encoding: identity\r\n" in answers[0]
    assert await published(node) == 0
    assert statuses(await exchange(node, head.replace(coding, b"Identity") + BODY)) == [200, 200]
    opening = b"GET /ws/?EIO=4&transport=polling HTTP/1.1\r\nHost: localhost\r\n\r\n"
    [answer, _] = await exchange(node, opening)
    sid = orjson.loads(answer.partition(b"\r\n\r\n")[2][1:])["sid"].encode()
    packet = b"POST /ws/?EIO=4&transport=polling&sid=%b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n" % sid
    packet += b"Content-Encoding: %b\r\n\r\n6" % coding
    assert statuses(await exchange(node, packet)) == [415, 200]


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"Version: 13", b"Version: 8", 400),
        (b"Sec-WebSocket-Version: 13\r\n", b"", 400),
        (b"Connection: Upgrade\r\n", b"", 426),
        (b"Upgrade: websocket\r\n", b"Upgrade: websocket, foo\r\n", 426),
        (b"Upgrade: websocket\r\n", b"", 426),
        (b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Key: x", 400),
        (b"Host: ", b"X-Host: ", 400),
        (b"HTTP/1.1", b"HTTP/1.0", 505),
    ],
)
async def test_a_refused_handshake_names_the_version(node: Node, old: bytes, new: bytes, status: int) -> None:
    handshake = (
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert old in handshake
    for first in (b"", GET):
        async with connected(node) as (reader, writer):
            writer.write(first + handshake.replace(old, new))  # and nothing behind it, which may meet a closed socket
            if first:
                await one_answer(reader)
            answer = await one_answer(reader)
        assert statuses([answer]) == [status]
        if not (status == 400 and b"X-Host" in new and b"upgrade" not in answer.lower()):
            assert answer.lower().count(b"\r\nsec-websocket-version: 13\r\n") == 1, answer


async def test_expect_100_continue(node: Node) -> None:
    head = TO_PUBLISH + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    async with connected(node) as (reader, writer):
        for _ in range(2):
            writer.write(head)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            writer.write(BODY)
            assert statuses([await read_answer(reader)]) == [200]
        writer.write(head.replace(b"application/json", b"text/plain"))
        answer = await read_answer(reader)
        assert statuses([answer]) == [415]
        assert b"\r\nconnection: close\r\n" in answer.lower()  # who knows whether the body comes all the same
        assert await reader.read() == b""
    assert await published(node) == 2


async def test_bodies_on_a_server_without_websockets(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, role="api") as node:
        offer = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        to_ws = b"POST /ws HTTP/1.1\r\nHost: localhost\r\n" + offer + b"Content-Length: %d\r\n\r\n" % len(POST) + POST
        to_publish = POST.replace(b"Content-Type", offer + b"Content-Type")
        assert statuses(await exchange(node, to_ws + to_publish)) == [404, 200, 200]
        assert await published(node) == 1


async def test_a_body_behind_a_refused_handshake_is_not_executed(node: Node) -> None:
    handshake = b"POST /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    for head in (handshake, handshake.replace(b"POST /ws", b"GET /elsewhere"), handshake.replace(b"POST", b"GET")):
        for cut in (0, 10):
            request = head + b"Content-Length: %d\r\n\r\n" % len(POST) + POST
            answers = await exchange(node, GET, request[: len(request) - cut], request[len(request) - cut :])
            assert len(answers) == 2
            assert statuses(answers)[1] >= 400
    assert await published(node) == 0


# --- what a request may take


async def test_trailers_and_chunk_extensions_have_a_bound(node: Node) -> None:
    head = TO_PUBLISH + b"Transfer-Encoding: chunked\r\n\r\n"
    body = b"%x\r\n%b\r\n" % (len(BODY), BODY)
    field = b"X-Trailer: %b\r\n" % (b"a" * 100)
    extended = b"%x;name=%b\r\n%b\r\n" % (len(BODY), b"a" * 1000, BODY)
    single = b"".join(b"1;%b\r\n%c\r\n" % (b"a" * 500, byte) for byte in BODY)
    few = body + b"0\r\n" + field * 10 + b"\r\n"
    assert statuses(await exchange(node, head + few, head + extended + b"0\r\n\r\n")) == [200] * 3
    assert statuses(await exchange(node, head + single[:5000] + POST)) == [400]
    before = await published(node)
    for many in (body + b"0\r\n" + field * 1000, single * 3, b"%x;" % len(BODY) + b"a" * 100_000):
        for step in (len(many), 3000):
            answers = await exchange(node, head, *(many[i : i + step] for i in range(0, len(many), step)))
            assert statuses(answers) == [431]
    assert refused(node, "head_too_large") == 6
    assert await published(node) == before == 2


async def test_a_body_in_chunks_of_one_byte_is_accepted(node: Node) -> None:
    body = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY[:-1] + b" " * 20_000 + b"}") + b"0\r\n\r\n"
    answers = await exchange(node, TO_PUBLISH + b"Transfer-Encoding: chunked\r\n\r\n" + body + GET)
    assert statuses(answers) == [200] * 3
    assert await published(node) == 1


async def test_a_batch_gets_the_same_response_with_and_without_asgi(shared_valkey: Valkey) -> None:
    message = orjson.dumps({"pattern": unique("both"), "payload": "x"})
    head = TO_PUBLISH.replace(b"POST / ", b"POST /batch ")
    bodies = (b'{"messages":[%b,{},%b]}' % (message, message), b"[]", b"{", b'{"messages":[%b' % message, b" " * 2000)
    async with serving(shared_valkey, max_batch_bytes=1500) as node:
        for body in bodies:
            direct = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
            chunked = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            lines = [answer.partition(b"\r\n\r\n") for answer in await exchange(node, direct, chunked)]
            assert lines[0][0].partition(b"\r\n")[0] == lines[1][0].partition(b"\r\n")[0]
            assert orjson.loads(lines[0][2])["status" if b"problem" in lines[0][0] else "results"]
            if len(body) < 1500:  # else the one knows how large it is, and the other that it is too large
                assert lines[0][2] == lines[1][2]
        assert await published(node) == 4


async def test_a_pipelining_client_is_slowed_down_and_answered_in_order(node: Node) -> None:
    count = 1000
    unknown = GET.replace(b"/healthz", b"/no")
    async with connected(node) as (reader, writer):
        sending = asyncio.create_task(_write(writer, [GET + POST + unknown] * count + [LAST]))
        answers = statuses(split(await reader.read()))
        await sending
    assert answers == [200, 200, 404] * count + [200]
    assert await published(node) == count


async def test_a_client_that_does_not_read_does_not_delay_others(node: Node) -> None:
    async with connected(node) as (_, writer):
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        transport_of(writer).pause_reading()
        sending = asyncio.create_task(_write(writer, [GET * 100] * 1000))  # 4 MB, with 20 MB of answers
        while not writer.transport.get_write_buffer_size():
            assert not sending.done()
            await asyncio.sleep(0.01)
        for _ in range(50):
            assert statuses(await exchange(node)) == [200]
        assert not sending.done()
        sending.cancel()
        await asyncio.wait([sending])
        writer.transport.abort()


async def _write(writer: asyncio.StreamWriter, parts: Iterable[bytes]) -> None:
    for part in parts:
        writer.write(part)
        await writer.drain()


async def test_an_early_response_reaches_a_client_that_still_sends(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, max_payload_bytes=100) as node:
        for framing, body in (
            (b"Content-Length: 4000000\r\n", b"x" * 4_000_000),
            (b"Transfer-Encoding: chunked\r\n", b"3d0900\r\n%b\r\n0\r\n\r\n" % (b"x" * 4_000_000)),
        ):
            async with connected(node) as (reader, writer):
                await _write(writer, [TO_PUBLISH + framing + b"\r\n", body])
                [answer] = split(await reader.read())
                assert statuses([answer]) == [413]
                assert b"\r\nconnection: close\r\n" in answer.lower()


# --- how long it may last


@pytest.mark.parametrize("bytes_", [b"", b"\r\n", b"\r", b"G"])
@pytest.mark.parametrize("after_a_request", [False, True])
async def test_an_idle_connection_ends(shared_valkey: Valkey, bytes_: bytes, after_a_request: bool) -> None:
    bounds: dict[str, Any] = {"handshake_timeout": 0.2, "request_timeout": 0.2, "keep_alive": 0.4}
    async with serving(shared_valkey, **bounds) as node, connected(node) as (reader, writer):
        if after_a_request:
            writer.write(GET)
            await read_answer(reader)
        writer.write(bytes_)
        rest = split(await reader.read())
        assert statuses(rest) == ([408] if bytes_ in (b"\r", b"G") else [])


async def test_stray_bytes_do_not_keep_an_idle_connection_open(shared_valkey: Valkey) -> None:
    bounds: dict[str, Any] = {"handshake_timeout": 0.2, "request_timeout": 0.2, "keep_alive": 0.3}
    async with serving(shared_valkey, **bounds) as node:
        for first in (b"", GET):
            async with connected(node) as (reader, writer):
                writer.write(first + b"\r\n\r\n")
                assert statuses(split(await reader.read()))[-1] == 400
                assert reader.at_eof()


async def test_requests_split_across_reads_are_not_cut_off(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, request_timeout=0.3) as node, connected(node) as (reader, writer):
        loop = asyncio.get_running_loop()
        end, sent = loop.time() + 1.0, 0
        writer.write(POST[:20])
        while loop.time() < end:
            writer.write(POST[20:] + POST[:20])
            assert statuses([await read_answer(reader)]) == [200]
            sent += 1
        writer.write(POST[20:])
        assert statuses([await read_answer(reader)]) == [200]
        assert await published(node) == sent + 1


async def test_no_408_precedes_an_owed_response(valkey: Valkey) -> None:
    async with serving(valkey, request_timeout=0.2, publish_timeout=10.0) as node, connected(node) as (r, w):
        await asyncio.to_thread(valkey.command, "CLIENT", "PAUSE", "700", "ALL")
        w.write(POST + GET[:10])
        assert statuses([await read_answer(r)]) == [200]
        assert statuses([await read_answer(r)]) == [408]  # for the request that never came whole
        assert await r.read() == b""


async def test_a_body_that_arrives_slowly_is_ended_in_time(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, request_timeout=0.3) as node:
        for framing in (b"Content-Length: 50\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{"):
            for target in (b"/", b"/batch"):
                async with connected(node) as (reader, writer):
                    writer.write(TO_PUBLISH.replace(b" / ", b" %b " % target) + framing)
                    ended = asyncio.ensure_future(reader.read())
                    while not ended.done():
                        writer.write(b"\r\n1\r\n{" if b"chunked" in framing else b"{")
                        await asyncio.sleep(0.05)
                    assert statuses(split(ended.result())) == [408]
        assert refused(node, "late_request") == 4


@pytest.mark.parametrize("end", ["", "Connection: close"])
async def test_an_unread_response_is_not_kept_forever(shared_valkey: Valkey, end: str) -> None:
    async with serving(shared_valkey, request_timeout=0.3, keep_alive=0.2) as node, connected(node) as (_, writer):
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        transport_of(writer).pause_reading()
        one = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
        last = one[:-2] + f"{end}\r\n\r\n".lstrip().encode() if end else one
        with suppress(ConnectionError):
            for _ in range(2000):
                writer.write(one)
            writer.write(last)
            await writer.drain()
        while not refused(node, "unread_answer"):
            await asyncio.sleep(0.02)
        writer.transport.abort()


async def test_a_slow_reader_gets_its_whole_response(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, request_timeout=2.0) as node, connected(node) as (reader, writer):
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        transport_of(writer).pause_reading()
        sending = asyncio.create_task(_write(writer, [GET * 100] * 10 + [LAST]))
        for _ in range(10):
            await asyncio.sleep(0.05)
            transport_of(writer).resume_reading()
            await asyncio.sleep(0.001)
            transport_of(writer).pause_reading()
        transport_of(writer).resume_reading()
        assert statuses(split(await reader.read())) == [200] * 1001
        await sending


async def test_a_reset_connection_leaves_nothing(node: Node) -> None:
    for data in (GET[:10], POST[:-3], POST, TO_PUBLISH + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", GET * 50):
        async with connected(node) as (_, writer):
            writer.write(data)
            await writer.drain()
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
    assert statuses(await exchange(node)) == [200]
    assert node._listener is not None
    while node._listener.connections:
        await asyncio.sleep(0.01)


async def test_the_same_over_tls(shared_valkey: Valkey, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    certificate.private_key_pem.write_to_path(key)
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    bounds: dict[str, Any] = {"request_timeout": 0.5, "keep_alive": 0.5, "max_payload_bytes": 100}
    async with serving(shared_valkey, tls_cert=str(chain), tls_key=str(key), **bounds) as node:
        port = urlsplit(node.api_url).port

        async def read(*parts: bytes) -> list[bytes]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            async with asyncio.timeout(SECONDS):
                with suppress(ConnectionError):
                    for part in parts:
                        writer.write(part)
                        await writer.drain()
                answers = split(await reader.read())
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()
            return answers

        assert statuses(await read(GET + POST + GET, POST)) == [200] * 4  # and then nothing comes for a while
        assert statuses(await read(GET, b"X\n\n")) == [200, 400]
        assert statuses(await read(GET, GET[:9])) == [200, 408]
        large = TO_PUBLISH + b"Content-Length: 1000000\r\n\r\n" + b"x" * 1_000_000
        assert statuses(await read(large)) == [413]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, limit=1024)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        transport_of(writer).pause_reading()
        sending = asyncio.create_task(_write(writer, [b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"] * 3000))
        async with asyncio.timeout(SECONDS):
            while not refused(node, "unread_answer"):
                await asyncio.sleep(0.02)
        sending.cancel()
        await asyncio.wait([sending])
        writer.transport.abort()
        node.draining = True
        assert b"connection: close" in (await read(GET))[0].lower()


# --- the end of the server


async def test_responses_during_a_drain_close_the_connection(node: Node) -> None:
    async with connected(node) as (reader, writer), connected(node) as (other_reader, other_writer):
        for r, w in ((reader, writer), (other_reader, other_writer)):
            w.write(GET + POST)
            for _ in range(2):
                assert b"connection: close" not in (await read_answer(r)).lower()
        node.draining = True
        writer.write(POST + POST)
        assert b"\r\nconnection: close\r\n" in await read_answer(reader)
        assert await reader.read() == b""  # what was sent after that has no answer, and may be sent again
        other_writer.write(GET)
        assert b"\r\nconnection: close\r\n" in (await read_answer(other_reader)).lower()
        assert await other_reader.read() == b""
    async with connected(node) as (reader, writer):  # a new one is served still, once
        writer.write(GET)
        assert b"\r\nconnection: close\r\n" in (await read_answer(reader)).lower()


async def test_a_publisher_loses_no_request_during_a_drain(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, drain_seconds=5.0) as node:
        address = urlsplit(node.api_url)
        drained = asyncio.Event()
        answered = 0

        async def publish() -> None:
            nonlocal answered
            while not drained.is_set():
                async with connected(node) as (reader, writer):
                    last = False
                    while not last and not drained.is_set():
                        writer.write(POST)
                        answer = await read_answer(reader)
                        assert statuses([answer]) == [200]
                        last = b"\r\nconnection: close\r\n" in answer
                        assert not last or node.draining
                        answered += 1
                        await asyncio.sleep(0.002)

        publishers = [asyncio.create_task(publish()) for _ in range(10)]
        async with connected(node) as (idle, writer):
            writer.write(GET)
            await read_answer(idle)
            while answered < 100:
                await asyncio.sleep(0.01)
            drain = asyncio.create_task(node.drain())
            while not node.draining:
                await asyncio.sleep(0)
            before = answered
            while answered < before + 20:
                await asyncio.sleep(0.01)
            drained.set()
            await asyncio.gather(*publishers)
            assert not drain.done()
            await asyncio.wait_for(drain, SECONDS)
            assert await published(node) == answered
            await node.close()
            assert await idle.read() == b""
        with pytest.raises(OSError, match="Connect"):
            await asyncio.open_connection(address.hostname, address.port)


async def test_a_drain_without_connections_is_short(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, drain_seconds=3600) as node:
        async with connected(node) as (reader, writer):
            writer.write(LAST)
            await reader.read()
        loop = asyncio.get_running_loop()
        began = loop.time()
        await node.drain()
        assert loop.time() - began < 0.9  # which is less than the grace for idle connections


@pytest.mark.slow
def test_http_edge_on_uvloop(shared_valkey: Valkey, tmp_path: Path) -> None:
    async def main() -> None:
        await test_the_same_over_tls(shared_valkey, tmp_path)
        await test_an_early_response_reaches_a_client_that_still_sends(shared_valkey)
        await test_an_unread_response_is_not_kept_forever(shared_valkey, "")
        await test_a_slow_reader_gets_its_whole_response(shared_valkey)
        await test_stray_bytes_do_not_keep_an_idle_connection_open(shared_valkey)
        for check in (
            test_a_client_that_does_not_read_does_not_delay_others,
            test_a_pipelining_client_is_slowed_down_and_answered_in_order,
            test_a_reset_connection_leaves_nothing,
            test_a_body_in_chunks_of_one_byte_is_accepted,
        ):
            async with serving(shared_valkey) as node:
                await check(node)

    uvloop.run(main())
