"""Generated opening handshakes: the engine's reading of a head beside the reading in Python."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from realizehit import _fanout
from realizehit.transports.handshake import is_usual
from realizehit.transports.heads import parse_head
from tests.fuzz.opening_heads import MOST, one

keys = st.binary(min_size=16, max_size=16).map(b64encode)
targets = st.sampled_from(
    [
        b"/ws", b"/ws/", b"/ws?a=b", b"/ws?", b"/ws?EIO=4", b"/ws?a=EIO=4",
        b"/other", b"/", b"ws", b"/ws#a",
    ]
)  # fmt: skip
optional = st.lists(
    st.sampled_from(
        [
            b"Origin: https://example.org", b"origin:null", b"Origin: https://a.example.com", b"Sec-Fetch-Site: none",
            b"Sec-Fetch-Site: cross-site", b"Cookie: a=b", b"X-Forwarded-For: 1.2.3.4", b"Content-Length: 0",
            b"Transfer-Encoding: chunked", b"Sec-WebSocket-Extensions: permessage-deflate", b"X: \t y \t", b"X:",
            b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9", b"Authorization: Bearer x",
            b"X: \x80\xff", b"X: \x7f", b"X : y", b" folded", b"X-" + b"n" * 60 + b": y", b"Cookie: " + b"c" * 1500,
            b"Sec-WebSocket-Protocol: a", b"Accept: */*", b"Host: b", b"Connection: close",
        ]
    ),
    max_size=4,
)  # fmt: skip


@st.composite
def heads(draw: Any) -> bytes:
    """A handshake that is right in most of its parts."""
    lines = [
        draw(st.sampled_from([b"Host: localhost"] * 6 + [b"host:\texample.org ", b"Host: a b", b"Host:", b"X: y"])),
        draw(st.sampled_from([b"Upgrade: websocket"] * 6 + [b"UPGRADE: WebSocket", b"Upgrade: h2c", b"Upgrade:"])),
        draw(st.sampled_from([b"Connection: Upgrade"] * 6 + [b"connection: keep-alive, Upgrade", b"Connection: x"])),
        draw(st.sampled_from([b"Sec-WebSocket-Version: 13"] * 6 + [b"Sec-WebSocket-Version: 8", b"Y: z"])),
        b"Sec-WebSocket-Key: " + draw(keys | st.sampled_from([b"", b"A" * 24, b"A" * 21 + b"-==", b"A" * 20 + b"=="])),
        *draw(optional),
    ]
    line = b"GET " + draw(targets) + draw(st.sampled_from([b" HTTP/1.1"] * 8 + [b" HTTP/1.0", b"  HTTP/1.1"]))
    end = draw(st.sampled_from([b"\r\n\r\n"] * 6 + [b"\r\n", b"\n\n", b"\r\n\r\n\x81\x80", b"\r\n\r\r\n"]))
    head: bytes = b"\r\n".join((line, *draw(st.permutations(lines)))) + end
    return head


USUAL = [
    b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
]  # fmt: skip
of_clients = st.lists(
    st.sampled_from(
        [
            b"X-User: ann", b"x-user: \t bob ", b"X-User: \x80", b"X-User:", b"X-Device: " + b"d" * 300, b"x-device: 7",
            b"Authorization: Bearer TOKEN", b"authorization:bearer  TOKEN", b"Authorization: Bearer x", b"Via: a",
            b"forwarded:for=b", b"Origin: https://example.org", b"Sec-Fetch-Site: none",
        ]
    ),
    max_size=4,
)  # fmt: skip


@given(
    st.sampled_from([b"/ws", b"/ws?token=TOKEN", b"/ws?a&token=TOKEN", b"/ws?token=x", b"/ws?"]),
    st.sampled_from([b"Host: localhost", b"Host: foreign.example"]),
    of_clients,
    st.randoms(use_true_random=False),
)
def test_clients_are_decided_the_same_by_their_own_headers(
    target: bytes, host: bytes, own: list[bytes], random: Random
) -> None:
    lines = [host, *USUAL, *own]
    random.shuffle(lines)
    one(b"\r\n".join((b"GET " + target + b" HTTP/1.1", *lines, b"", b"")))


@given(heads())
def test_a_head_is_the_same_by_both_readings(head: bytes) -> None:
    one(head)


@given(heads(), st.integers(0, 400), st.binary(max_size=2))
def test_a_changed_head_is_the_same_by_both_readings(head: bytes, place: int, other: bytes) -> None:
    one(head[:place] + other + head[place + 1 :])


@given(heads())
def test_usual_heads_are_taken_by_the_engine(head: bytes) -> None:
    text, blank, _ = head.partition(b"\r\n\r\n")
    read = parse_head(text) if blank and len(text) <= MOST else None
    if read is not None and is_usual(read) and read.target.startswith(b"/") and b"EIO=" not in read.query:
        assert _fanout.opening_signature(head, MOST) is not None


@given(keys)
def test_the_answer_to_a_key(key: bytes) -> None:
    digest = sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
    assert _fanout.accept_key(key) == b64encode(digest)
