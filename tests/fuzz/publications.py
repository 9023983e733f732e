"""Bodies of the publish API: one publication, a batch, and lines.

Invariant: only a `RequestError` or a `PatternError` is raised or stands for an item, with a text and a code; a payload
is a piece of the body, byte for byte, and is JSON; the batch's items are what each would be by itself.
"""

from __future__ import annotations

import msgspec

from realizehit.broker.publication import Publication
from realizehit.errors import ErrorCode, PatternError, RequestError
from realizehit.node.publish_bodies import parse_batch, parse_lines, parse_publication
from tests.fuzz.command import main

MOST = 8
CODES = {str(code) for code in ErrorCode}
Item = Publication | RequestError | PatternError


def one(data: bytes) -> None:
    """Take a case as each kind of body."""
    try:
        check(data, parse_publication(data))
    except (RequestError, PatternError) as error:
        check(data, error)
    try:
        check_all(data, parse_batch(data, MOST))
    except RequestError as error:
        check(data, error)
    try:
        lines = parse_lines(data, MOST)
    except RequestError as error:
        check(data, error)
        assert error.code == ErrorCode.TOO_LARGE
        return
    check_all(data, lines)
    bodies = [line for line in data.split(b"\n") if line and not line.isspace()]
    assert len(lines) == len(bodies)
    for body, item in zip(bodies, lines, strict=True):
        assert same(item, alone(body)), f"{body!r} is {item!r} among others and {alone(body)!r} alone"


def alone(body: bytes) -> Item:
    try:
        return parse_publication(body)
    except (RequestError, PatternError) as error:
        return error


def same(a: Item, b: Item) -> bool:
    if isinstance(a, Publication) or isinstance(b, Publication):
        return a == b
    return type(a) is type(b) and a.code == b.code


def check_all(data: bytes, items: list[Item]) -> None:
    assert len(items) <= MOST
    for item in items:
        check(data, item)


def check(data: bytes, item: Item) -> None:
    if isinstance(item, Publication):
        assert item.payload in data
        assert item.payload == item.payload.strip(b" \t\r\n")
        msgspec.json.decode(item.payload, type=msgspec.Raw)
        assert item.channel.isascii()
        assert 0 < len(item.channel) <= 1024
        assert len(item.key) <= 64
        assert all(0x20 <= byte < 0x7F for byte in item.key)
        assert item.key == item.key.strip()
    else:
        assert str(item)
        assert str(item.code) in CODES


if __name__ == "__main__":
    main(__spec__.name)
