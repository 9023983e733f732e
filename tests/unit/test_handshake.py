"""The opening handshake: each rule of RFC 6455, section 4.2.1, and agreement with the library on everything else."""

from __future__ import annotations

import base64
import email.utils
import hashlib

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.http11 import Request
from websockets.server import ServerProtocol

from realizehit.transports import handshake
from realizehit.transports.handshake import accept, refusal
from realizehit.transports.heads import Head, parse_head

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, section 1.3
LINES = [
    b"GET /ws?a=1 HTTP/1.1",
    b"Host: example.org",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Key: " + KEY,
    b"Sec-WebSocket-Version: 13",
]


def head_of(lines: list[bytes]) -> Head | None:
    return parse_head(b"\r\n".join(lines))


def accepted(lines: list[bytes]) -> bool:
    """Whether we accept; what is no request at all is refused."""
    head = head_of(lines)
    return head is not None and accept(head)[0]


def accepted_by_library(lines: list[bytes]) -> bool:
    protocol = ServerProtocol()
    protocol.receive_data(b"\r\n".join(lines) + b"\r\n\r\n")
    events = protocol.events_received()
    return any(isinstance(event, Request) and protocol.accept(event).status_code == 101 for event in events)


def replaced(old: bytes, *new: bytes) -> list[bytes]:
    """The good request with the line that starts with `old` replaced."""
    assert any(line.startswith(old) for line in LINES)
    return [other for line in LINES for other in (new if line.startswith(old) else [line])]


def test_the_example_of_the_rfc() -> None:
    head = head_of(LINES)
    assert head is not None
    assert (head.method, head.path, head.query, head.version) == (b"GET", b"/ws", b"a=1", b"HTTP/1.1")
    assert head.wants_websocket
    ok, response = accept(head)
    assert ok
    assert response == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )


@pytest.mark.parametrize(
    "lines",
    [
        LINES,
        replaced(b"Connection", b"Connection: keep-alive, Upgrade"),
        replaced(b"Connection", b"connection:keep-alive,upgrade  "),
        replaced(b"Connection", b"Connection: keep-alive", b"Connection: Upgrade"),
        replaced(b"Upgrade", b"UPGRADE: WebSocket"),
        replaced(b"Upgrade", b"Upgrade:\twebsocket\t"),
        replaced(b"Host", b"hOsT: [::1]:8080"),
        [*LINES, b"Origin: https://example.org", b"Cookie: a=b", b"Sec-WebSocket-Extensions: permessage-deflate"],
        [*LINES, b"Cookie: a=b", b"Cookie: c=d"],
        [*LINES, b"Content-Length: 0"],
        [*LINES, b"X-Latin: \xe9\xff"],
        [*LINES, b"X-Empty:"],
    ],
)
def test_valid_handshakes(lines: list[bytes]) -> None:
    head = head_of(lines)
    assert head is not None
    ok, response = accept(head)
    assert ok
    assert response.startswith(b"HTTP/1.1 101 ")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in response
    # Nothing was agreed on that the transport does not do.
    assert b"sec-websocket-extensions" not in response.lower()
    assert b"sec-websocket-protocol" not in response.lower()
    assert accepted_by_library(lines)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        # section 4.2.1, in its order
        (replaced(b"GET", b"POST /ws HTTP/1.1"), 405),
        (replaced(b"GET", b"GET /ws HTTP/1.0"), 505),
        (replaced(b"GET", b"GET /ws HTTP/2.0"), 400),
        (replaced(b"Host"), 400),
        (replaced(b"Host", b"Host:"), 400),
        (replaced(b"Host", b"Host: a", b"Host: a"), 400),
        (replaced(b"Upgrade", b"Upgrade: h2c"), 426),
        (replaced(b"Upgrade", b"Upgrade: websocket", b"Upgrade: websocket"), 426),
        (replaced(b"Upgrade", b"Upgrade: websocket, h2c"), 426),
        (replaced(b"Upgrade"), 426),
        (replaced(b"Connection"), 426),
        (replaced(b"Connection", b"Connection: keep-alive"), 426),
        (replaced(b"Connection", b"Connection: up grade"), 400),
        (replaced(b"Sec-WebSocket-Key"), 400),
        (replaced(b"Sec-WebSocket-Key", b"Sec-WebSocket-Key: " + KEY[:-4]), 400),
        (replaced(b"Sec-WebSocket-Key", b"Sec-WebSocket-Key: " + KEY[:-1]), 400),
        (replaced(b"Sec-WebSocket-Key", b"Sec-WebSocket-Key: " + b"!" * 22 + b"=="), 400),
        (replaced(b"Sec-WebSocket-Key", b"Sec-WebSocket-Key: " + KEY, b"Sec-WebSocket-Key: " + KEY), 400),
        (replaced(b"Sec-WebSocket-Version"), 400),
        (replaced(b"Sec-WebSocket-Version", b"Sec-WebSocket-Version: 8"), 400),
        (replaced(b"Sec-WebSocket-Version", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 13"), 400),
        # a body would be read as frames
        ([*LINES, b"Content-Length: 5"], 400),
        ([*LINES, b"Transfer-Encoding: chunked"], 400),
        ([*LINES, b"Origin: a", b"Origin: b"], 400),
    ],
)
def test_invalid_handshakes(lines: list[bytes], status: int) -> None:
    head = head_of(lines)
    assert head is not None
    ok, response = accept(head)
    assert not ok
    assert response.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close\r\n" in response.lower()
    assert len(response.partition(b"\r\n\r\n")[2]) > 10  # says why
    if not lines[1].startswith(b"Host: a") and b"Host: example.org" in lines:
        assert not accepted_by_library(lines)


@pytest.mark.parametrize(
    "lines",
    [
        [b""],
        [b"GET /ws"],
        [b"GET  /ws HTTP/1.1"],
        [b"GET /w s HTTP/1.1"],
        [b"GET /ws HTTP/1.1 "],
        [b"GET /ws HTTX/1.1"],
        [b"G\xc9T /ws HTTP/1.1"],
        [b"GET /\xc3\xa9 HTTP/1.1"],
        [b"GET /ws\x00 HTTP/1.1"],
        [b"GET /ws HTTP/1.1", b"no colon"],
        [b"GET /ws HTTP/1.1", b": no name"],
        [b"GET /ws HTTP/1.1", b"Host : x"],
        [b"GET /ws HTTP/1.1", b" Host: x"],
        [b"GET /ws HTTP/1.1", b"Ho st: x"],
        [b"GET /ws HTTP/1.1", b"H\xf6st: x"],
        [b"GET /ws HTTP/1.1", b"Host: x", b"\tfolded"],
        [b"GET /ws HTTP/1.1", b"Host: x\nUpgrade: websocket"],
        [b"GET /ws HTTP/1.1", b"Host: x\rUpgrade: websocket"],
        [b"GET /ws HTTP/1.1", b"Host: x\x00"],
        [b"GET /ws HTTP/1.1", b"Host: \x7f"],
        [b"GET /ws HTTP/1.1\nHost: x", b"Upgrade: websocket"],
    ],
)
def test_malformed_heads(lines: list[bytes]) -> None:
    assert head_of(lines) is None


def test_repeated_headers_are_joined_and_listed() -> None:
    head = head_of([b"GET / HTTP/1.1", b"A: 1", b"B: 2", b"a:3 ", b"A: 4"])
    assert head is not None
    assert head.headers == {b"a": b"1, 3, 4", b"b": b"2"}
    assert head.repeated == {b"a"}


def test_the_common_request_never_reaches_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(head: Head) -> tuple[bool, bytes]:
        raise AssertionError(head)

    monkeypatch.setattr(handshake, "_accept_by_library", fail)
    assert accepted(LINES)
    assert accepted(replaced(b"Connection", b"Connection: keep-alive, Upgrade"))


def test_a_refusal_is_a_complete_response() -> None:
    response = refusal(503, "café", "unavailable", "Retry-After: 1")
    head, _, body = response.partition(b"\r\n\r\n")
    headers = email.message_from_bytes(head.partition(b"\r\n")[2])
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert orjson.loads(body) == {
        "type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": "café", "code": "unavailable"
    }  # fmt: skip
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Content-Length"] == str(len(body))
    assert (headers["Connection"], headers["Retry-After"]) == ("close", "1")


# --- held against the library


def header(name: bytes, *values: bytes) -> st.SearchStrategy[list[bytes]]:
    """Lines for a header: mostly one, right or wrong; sometimes none, sometimes two."""
    one = st.builds(
        lambda name, blank, value, more: name + b":" + blank + value + more,
        st.sampled_from([name, name.lower(), name.upper()]),
        st.sampled_from([b" ", b"", b"\t", b"  "]),
        st.sampled_from(values),
        st.sampled_from([b"", b" ", b"\t"]),
    )
    return st.one_of(one.map(lambda line: [line]), one.map(lambda line: [line]), st.lists(one, max_size=2))


good_keys = st.binary(min_size=16, max_size=16).map(base64.b64encode)
bad_keys = st.one_of(st.binary(max_size=20).map(base64.b64encode), st.from_regex(rb"\A[!-~]{20,26}\Z"))
request_lines = st.one_of(
    st.just(b"GET /ws HTTP/1.1"),
    st.sampled_from(
        [b"GET / HTTP/1.1", b"GET /ws HTTP/1.0", b"POST /ws HTTP/1.1", b"get /ws HTTP/1.1", b"GET /ws HTTP/1.2",
         b"GET /ws?q=\xe9 HTTP/1.1", b"GET /ws", b"GET * HTTP/1.1", b"GET http://h/ws HTTP/1.1"]
    ),
)  # fmt: skip
connections = header(
    b"Connection", b"Upgrade", b"Upgrade", b"keep-alive, Upgrade", b"keep-alive,upgrade", b"keep-alive",
    b"close, upgrade", b"up grade", b",upgrade,", b"upgrade;q=1", b"\"upgrade\"", b"upgraded", b"close Upgrade", b"",
)  # fmt: skip
upgrades = header(
    b"Upgrade", b"websocket", b"websocket", b"WebSocket", b"websocket/13", b"h2c", b"websocket,", b"web", b""
)
versions = header(b"Sec-WebSocket-Version", b"13", b"13", b"013", b"13, 8", b"8", b"")
others = st.lists(
    st.sampled_from(
        [b"Origin: http://a", b"Cookie: a", b"Content-Length: 0", b"Content-Length: 7", b"Transfer-Encoding: chunked",
         b"X-Bytes: \xe9\xff", b"X-Nul: \x00", b"X-Del: \x7f", b"X Y: 1", b"X\xe9: 1", b" folded", b"X-Empty:", b": 1",
         b"Sec-WebSocket-Protocol: chat", b"Sec-WebSocket-Extensions: ;;", b"colonless", b"X : 1"]
    ),
    max_size=2,
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> list[bytes]:
    key_lines = draw(
        st.one_of(
            good_keys.map(lambda key: [b"Sec-WebSocket-Key: " + key]),
            st.lists((good_keys | bad_keys).map(lambda key: b"Sec-WebSocket-Key: " + key), max_size=2),
        )
    )
    parts = [key_lines, draw(connections), draw(upgrades), draw(versions), draw(others), [b"Host: h"]]
    lines = [line for part in parts for line in part]
    return [draw(request_lines), *draw(st.permutations(lines))]


@settings(max_examples=600, deadline=None)
@given(requests())
def test_handshakes_are_judged_as_by_the_library(lines: list[bytes]) -> None:
    assert accepted(lines) == accepted_by_library(lines)


@settings(max_examples=100, deadline=None)
@given(good_keys)
def test_any_key_is_answered_as_the_rfc_says(key: bytes) -> None:
    head = head_of(replaced(b"Sec-WebSocket-Key", b"Sec-WebSocket-Key: " + key))
    assert head is not None
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    ok, response = accept(head)
    assert ok
    assert b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n" in response


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.lists(st.sampled_from(LINES) | st.binary(max_size=20)).map(b"\r\n".join))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    head = parse_head(data)
    if head is not None:
        ok, response = accept(head)
        assert response.startswith(b"HTTP/1.1 101 ") == ok
        assert response.startswith((b"HTTP/1.1 101 ", b"HTTP/1.1 4", b"HTTP/1.1 505 "))
