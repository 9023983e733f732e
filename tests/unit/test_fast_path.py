"""Requests that are answered without ASGI: which they are, their order among others, and their end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from realizehit.http import fast_path
from realizehit.http.fast_path import IDEMPOTENCY_KEY, MAX_BODY, TRACEPARENT, Respond, parse_plain_head
from realizehit.http.front_door import MAX_BUFFERED, FrontDoor

POST = b"POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
GET = b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n"


class Transport(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 5), "sockname": ("127.0.0.1", 80)}.get(name, default)


class Connection:
    """One connection, with a handler that answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[Mapping[bytes, bytes], bytes]] = []
        self.answers: list[Respond] = []
        self.seen: list[str] = []
        config = uvicorn.Config(self._app, interface="asgi3", lifespan="off", log_config=None, access_log=False)
        config.load()
        state = ServerState()
        state.default_headers = [(b"date", b"today")]
        self.transport = Transport()
        self.protocol = FrontDoor(config, state, {}, websocket=None, timeout=5.0, direct={b"/publish": self._serve})
        self.protocol.connection_made(self.transport)

    def _serve(self, client: object, headers: Mapping[bytes, bytes], body: bytes, respond: Respond) -> None:
        assert client == ("127.0.0.1", 5)
        self.asked.append((headers, body))
        self.answers.append(respond)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope["path"])
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def receive(self, *parts: bytes) -> None:
        for part in parts:
            self.protocol.data_received(part)

    def answer(self, body: bytes = b"done") -> None:
        self.answers.pop(0)(200, b"text/plain", body, [(b"x-more", b"1")])

    def answered(self) -> list[str]:
        return [part.partition("\r\n")[0] for part in self.transport.written.decode().split("HTTP/1.1 ")[1:]]


async def settled() -> None:
    """Let the application's tasks run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_request_is_served_when_its_body_is_complete() -> None:
    one = Connection()
    one.receive(POST[:30], POST[30:] + b"ab", b"c")
    assert one.asked == []
    one.receive(b"d")
    assert [(headers[b"host"], body) for headers, body in one.asked] == [(b"x", b"abcd")]
    one.answer()
    assert one.transport.written == (
        b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-type: text/plain\r\ncontent-length: 4\r\nx-more: 1\r\n\r\ndone"
    )
    assert not one.transport.closed
    one.receive(POST + b"next")
    assert one.asked[-1][1] == b"next"
    one.protocol.connection_lost(None)


async def test_later_requests_wait_for_the_response() -> None:
    one = Connection()
    one.receive(POST + b"1111" + GET + POST + b"2222" + POST + b"3333")
    await settled()
    assert (len(one.asked), one.seen) == (1, [])
    one.answer(b"1")
    await settled()
    assert one.seen == ["/other"]
    one.answer(b"2")
    one.answer(b"3")
    assert [body for _, body in one.asked] == [b"1111", b"2222", b"3333"]
    assert one.answered() == ["200 OK", "404 Not Found", "200 OK", "200 OK"]
    one.protocol.connection_lost(None)


async def test_reading_pauses_while_a_response_is_owed() -> None:
    one = Connection()
    later = POST + b"2222"
    count = MAX_BUFFERED // len(later) + 1
    one.receive(POST + b"1111", later * (count - 1))
    assert one.transport.reading
    one.receive(later)
    assert (one.transport.reading, len(one.asked)) == (False, 1)
    one.answer()
    assert (one.transport.reading, len(one.asked)) == (True, 2)
    one.protocol.connection_lost(None)


async def test_a_disconnected_client_gets_no_response() -> None:
    one = Connection()
    one.receive(POST + b"abcd")
    one.protocol.connection_lost(ConnectionResetError())
    one.answer()
    two = Connection()
    two.receive(POST + b"ab")
    two.protocol.connection_lost(None)
    assert (one.transport.written, two.asked, two.transport.written) == (b"", [], b"")


async def test_a_stopping_server_answers_and_closes() -> None:
    one = Connection()
    one.receive(POST + b"abcd")
    one.protocol.shutdown()
    assert not one.transport.closed
    one.answer()
    assert b"\r\nconnection: close\r\n" in one.transport.written
    assert one.transport.closed
    one.protocol.connection_lost(None)


@pytest.mark.parametrize(
    "request_",
    [
        POST.replace(b"/publish", b"/publish?now") + b"abcd",
        POST.replace(b"1.1", b"1.0") + b"abcd",
        POST.replace(b"POST", b"PUT") + b"abcd",
        POST.replace(b"Host: x", b"Host: x\r\nConnection: close") + b"abcd",
        POST.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"4\r\nabcd\r\n0\r\n\r\n",
        POST.replace(b"Length: 4", b"Length: %d" % (MAX_BODY + 1)) + b"x" * (MAX_BODY + 1),
        POST.replace(b"Host: x", b"Host: x\r\nExpect: 100-continue") + b"abcd",
        POST.replace(b"Content-Length: 4\r\n", b""),
    ],
)
async def test_unusual_requests_go_to_the_application(request_: bytes) -> None:
    one = Connection()
    one.receive(request_)
    await settled()
    assert one.asked == []
    assert one.seen == ["/publish"]
    assert one.answered()[-1] == "404 Not Found"
    one.protocol.connection_lost(None)


KEYED = b"POST / HTTP/1.1\r\nHost: x\r\n%b\r\nContent-Length: 4"


@pytest.mark.parametrize(
    "line",
    [
        b"Idempotency-Key: order-17",
        b"idempotency-key:order-17",
        b"IDEMPOTENCY-KEY: order-17",
        b"Idempotency-Key: \t two words \t ",
        b"Idempotency-Key: a\tb",
        b"Idempotency-Key:",
        b"Idempotency-Key: \xff",
        b"Idempotency-Key: a\x00b",
        b"Idempotency-Key : a",
        b"X-Idempotency-Key: a",
        b"Idempotency-Key: a\r\n folded",
        b"Idempotency-Key: a\nHost: y",
        b"Idempotency-Key: a\r\nIdempotency-Key: b",
        b"Idempotency-Key: a\r\nIDEMPOTENCY-KEY: b",
        b"Idempotency-Key: a\r\nExpect: 100-continue",
        b"traceparent: 00-a-b-01",
        b"Traceparent:00-a-b-01 ",
        b"TRACEPARENT: a",
        b"traceparent: ",
        b"traceparent: a\r\ntraceparent: b",
        b"traceparent: a\r\nTRACEPARENT: b",
        b"traceparent: a\r\nIdempotency-Key: b",
        b"Idempotency-Key: b\r\nX: y\r\ntraceparent: a",
        b"Idempotency-Key: b\r\ntraceparent: a\r\nidempotency-key: b",
        b"X-Traceparent: a",
        b"Accept: */*",
    ],
)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_head_without_its_key_is_parsed_as_the_whole_head_is(line: bytes, place: str) -> None:
    text = {
        "first": b"POST / HTTP/1.1\r\n%b\r\nHost: x\r\nContent-Length: 4",
        "middle": KEYED,
        "last": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n%b",
    }[place] % line
    assert parse_plain_head(text) == fast_path._parse(text)


def test_heads_that_differ_by_their_keys_alone_are_parsed_once() -> None:
    fast_path._parse.cache_clear()
    for number in range(3):
        found = parse_plain_head(KEYED % b"Idempotency-Key: %d\r\ntraceparent: %d" % (number, number + 1))
        assert found is not None
        assert found.headers[IDEMPOTENCY_KEY] == b"%d" % number
        assert found.headers[TRACEPARENT] == b"%d" % (number + 1)
    assert fast_path._parse.cache_info().misses == 1
