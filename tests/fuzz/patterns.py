"""Patterns of any filters: the compiled canonical form against the plain one of `tests.support.model_pattern`.

Invariant: both give the same channel and id, or both refuse; where a wildcard is the reason, both say so. The refusal
is a `PatternError`. A pattern read back from its own channel has that channel again. Bytes that are no channel or no
shape have no projection, or one no longer than a channel.
"""

from __future__ import annotations

import contextlib
import struct
from typing import Any
from urllib.parse import unquote

import orjson

from realizehit import _fanout
from realizehit.errors import PatternError, WildcardUnsupported
from realizehit.pattern import MAX_CHANNEL, Pattern, channel_of, project, shape_of
from tests.fuzz.command import main
from tests.support import model_pattern as model


def one(data: bytes) -> None:
    """Take a case as JSON, or else as lines of a key, a type's letter and a value."""
    try:
        filters = orjson.loads(data)
    except orjson.JSONDecodeError:
        filters = filters_of(data)
    for wildcards in (False, True):
        compare(filters, wildcards)
    channel, _, shape = data.partition(b"\n")
    project_bytes(channel, shape)
    project_bytes(shape, channel)


def filters_of(data: bytes) -> dict[Any, Any]:
    filters: dict[Any, Any] = {}
    for line in data.split(b"\n"):
        key, _, value = line.partition(b"=")
        kind, rest = value[:1], value[1:]
        text = rest.decode("utf-8", "replace" if kind != b"w" else "surrogateescape")
        if kind == b"f":
            filters[key.decode("utf-8", "replace")] = struct.unpack("<d", rest[:8].ljust(8, b"\0"))[0]
        elif kind == b"i":
            filters[key.decode("utf-8", "replace")] = int.from_bytes(rest[:200], "little", signed=True)
        elif kind == b"b":
            filters[key.decode("utf-8", "replace")] = bool(rest)
        elif kind == b"n":
            filters[len(key)] = text  # a key that is no text
        else:
            filters[key.decode("utf-8", "replace")] = text if kind != b"l" else [text]
    return filters


def project_bytes(channel: bytes, shape: bytes) -> None:
    with contextlib.suppress(ValueError):
        shape = shape_of(shape)
    projection = project(channel, shape)
    assert projection is None or len(projection) <= MAX_CHANNEL


def compare(filters: Any, wildcards: bool) -> None:
    try:
        expected, refused = model.channel(filters, wildcards=wildcards), ""
    except model.RefusedWildcard:
        expected, refused = "", "wildcard"
    except model.Refused:
        expected, refused = "", "rule"
    try:
        channel = channel_of(filters, wildcards=wildcards)
    except WildcardUnsupported:
        assert refused, f"{filters!r} is refused and should be {expected}"
        return
    except PatternError as error:
        assert refused, f"{filters!r} is refused and should be {expected}"
        assert str(error)
        return
    assert not refused, f"{filters!r} became {channel!r} and should be refused"
    assert channel.decode() == expected
    assert _fanout.channel_id(channel) == model.pattern_id(expected)
    if wildcards:
        assert shape_of(channel).decode() == model.shape(filters)
    pairs = [pair.partition(":") for pair in expected.split("|")]
    again = Pattern({unquote(key): unquote(value) for key, _, value in pairs})
    # A percent-encoded star is text, and unquoted it is the wildcard.
    assert again.channel == expected.replace(":%2A", ":*") or "%2A" in expected


if __name__ == "__main__":
    main(__spec__.name)
