"""Generated connections: whole requests of all kinds, cut, joined and changed, read beside h11."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.connections import DIRECT, compare

bodies = st.sampled_from(
    [b"", b"a", b"hello", b"\r\n\r\n", b"GET /inner HTTP/1.1\r\nHost: x\r\n\r\n", b"0\r\n\r\n", b"x" * 300]
) | st.binary(max_size=40)
targets = st.sampled_from(
    [DIRECT, DIRECT, b"/", b"/a?b=c", b"http://h/", b"http://h:8/a", b"HTTP://h?q", b"*", b"a", b"/#"]
)
methods = st.sampled_from([b"POST", b"POST", b"GET", b"HEAD", b"PUT", b"OPTIONS", b"CONNECT", b"post"])
versions = st.sampled_from([b"HTTP/1.1"] * 8 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"HTTP/1"])
fields = st.lists(
    st.sampled_from(
        [
            b"X: y", b"x:", b"X-Long: " + b"y" * 100, b"Connection: close", b"Connection: keep-alive",
            b"Connection: Upgrade", b"Upgrade: h2c", b"Upgrade: websocket", b"Expect: 100-continue", b"TE: trailers",
            b"Trailer: X", b"Host: y", b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip",
            b" folded", b"X : y", b"X: \x80", b"X: \x00", b"Content-Encoding: gzip", b"X-Large: " + b"y" * 2100,
        ]
    ),
    max_size=3,
)  # fmt: skip
hosts = st.sampled_from([b"Host: x"] * 8 + [b"", b"Host: x y", b"Host:"])
extensions = st.sampled_from([b"", b"", b";a=b", b' ; a="b"', b" ", b"\t", b";" + b"x" * 300, b"x"])
trailers = st.lists(st.sampled_from([b"X: y\r\n", b"X: " + b"y" * 500 + b"\r\n", b"bad\r\n", b"X: y\n"]), max_size=3)


@st.composite
def requests(draw: Any) -> bytes:
    """A request that is right in most of its parts."""
    body = draw(bodies)
    lines = [b" ".join((draw(methods), draw(targets), draw(versions))), draw(hosts), *draw(fields)]
    if draw(st.booleans()):
        lines.append(b"Content-Length: %d" % len(body))
        content = body
    elif draw(st.booleans()):
        lines.append(b"Transfer-Encoding: chunked")
        size = draw(st.integers(1, 50))
        parts = [body[start : start + size] for start in range(0, len(body), size)]
        chunks = [b"%x%b\r\n%b\r\n" % (len(part), draw(extensions), part) for part in parts]
        content = b"".join(chunks) + b"0%b\r\n" % draw(extensions) + b"".join(draw(trailers)) + b"\r\n"
    else:
        content = b""
    head: bytes = b"\r\n".join(line for line in lines if line)
    whole: bytes = head + b"\r\n\r\n" + content
    return whole


@st.composite
def streams(draw: Any) -> bytes:
    """Some requests, one behind the other, of which now and then a byte is another one, more or none."""
    between = st.sampled_from([b""] * 6 + [b"\r\n", b"\r\n\r\n", b"\n", b" ", b"\x16\x03"])
    stream = bytearray(b"".join(draw(requests()) + draw(between) for _ in range(draw(st.integers(1, 4)))))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, len(stream) - 1))
        other = draw(st.sampled_from([b"", b"\r", b"\n", b" ", b":", b"0", b"\x00"]))
        stream[place : place + draw(st.integers(0, 2))] = other
    end: int | None = draw(st.sampled_from([None, None, len(stream) // 2, len(stream) - 1]))
    return bytes(stream[:end])


@settings(deadline=None, max_examples=300)
@given(streams(), st.integers(1, 64))
def test_what_is_served_is_what_h11_reads_however_it_is_cut(stream: bytes, size: int) -> None:
    compare(stream, size)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(bodies, st.booleans()), min_size=1, max_size=6), st.integers(1, 64))
def test_good_requests_are_all_served(contents: list[tuple[bytes, bool]], size: int) -> None:
    stream = b"".join(
        b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (DIRECT if direct else b"/a", len(body), body)
        for body, direct in contents
    )
    outcome = compare(stream, size)
    assert [body for _, _, body in outcome.served] == [body for body, _ in contents]
    assert not outcome.ended
