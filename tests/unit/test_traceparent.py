"""Traceparents: which are valid, and how they stand before a payload."""

from __future__ import annotations

import pytest

from realizehit.broker.history.memory import labelled
from realizehit.broker.history.scripts import without_position
from realizehit.broker.projections import origin_of, projections_of
from realizehit.broker.publication import Publication, trace_of, with_channel, with_trace, without_trace
from realizehit.common.position import Position
from realizehit.common.traceparent import Traceparents, checked_traceparent, traceparent_in
from realizehit.transports.sse_query import wanted_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
TEXT = PARENT.encode()
TRACED = b"@t=" + TEXT
CHANNEL = b"channel:CNN|kind:news"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (PARENT, PARENT),
        (TEXT, PARENT),
        (b"\t " + TEXT + b" ", PARENT),
        (PARENT[:-2] + "ff", PARENT[:-2] + "ff"),
        # A later version has the same parts, and perhaps more; of its flags one is known.
        ("01" + PARENT[2:], PARENT),
        (f"fe-{TRACE}-{SPAN}-fe-more-of-it", PARENT[:-2] + "00"),
    ],
)
def test_valid_traceparents(given: object, read: str) -> None:
    assert checked_traceparent(given) == read.encode()


@pytest.mark.parametrize(
    "given",
    [
        "",
        b"",
        None,
        17,
        [PARENT],
        PARENT.upper(),
        PARENT[:-1],
        PARENT + "0",
        PARENT + "-00",  # version 00 has no more parts
        PARENT + "\n",
        "\u2003" + PARENT,
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}\u0661-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        f"01-{TRACE}-{SPAN}-01x",
        f"01-{TRACE}-{SPAN}-01-" + "x" * 500,
        f"{PARENT}, {PARENT}",
        TEXT + b"\xff",
    ],
    ids=repr,
)
def test_invalid_traceparents(given: object) -> None:
    assert checked_traceparent(given) is None


def test_both_are_counted() -> None:
    traces = Traceparents()
    assert (traces.read(PARENT), traces.read("x"), traces.read(1)) == (TEXT, None, None)
    assert (traces.kept, traces.invalid) == (1, 2)


@pytest.mark.parametrize(
    ("label", "found"),
    [
        (b"t=" + TEXT, PARENT),
        (b"o=17&t=" + TEXT, PARENT),
        (b"o=17&t=%b&c=%b" % (TEXT, CHANNEL), PARENT),
        (b"later=1&t=" + TEXT, PARENT),
        (b"o=17", None),
        (b"c=t:t", None),
        (b"at=" + TEXT, None),
        (b"t=" + TEXT[:-1], None),
        (b"t=" + TEXT + b"0", None),
        (b"", None),
    ],
)
def test_a_client_finds_it_in_a_label(label: bytes, found: str | None) -> None:
    assert traceparent_in(label) == found


@pytest.mark.parametrize("payload", [b"1", b'"?&@t="', b""])
def test_it_stands_before_the_payload_and_comes_off_again(payload: bytes) -> None:
    traced = with_trace(payload, TEXT)
    assert traced == TRACED + b"?" + payload
    assert (trace_of(traced), without_trace(traced)) == (TEXT, payload)
    assert (trace_of(payload), without_trace(payload)) == (None, payload)
    other = TEXT[:-1] + b"0"
    assert with_trace(traced, other) == b"@t=%b?%b" % (other, payload)
    projected = with_channel(traced, CHANNEL)
    assert projected == TRACED + b"&c=%b?%b" % (CHANNEL, payload)
    assert without_trace(projected) == with_channel(payload, CHANNEL) == b"@c=%b?%b" % (CHANNEL, payload)


@pytest.mark.parametrize("payload", [b'"?"', TRACED + b'?"?"'])
def test_a_projection_carries_it(payload: bytes) -> None:
    publication = Publication(CHANNEL, payload)
    (projection,) = projections_of(publication, (b"channel:*|kind:=",))
    assert projection == Publication(b"channel:*|kind:news", with_channel(payload, CHANNEL))
    assert origin_of(projection) == publication
    with_position = labelled(Position("aaaaaaaa", 7), projection.payload)
    assert with_position == b"@o=aaaaaaaa.7&" + projection.payload[1:]
    assert without_position(with_position) == projection.payload
    assert without_position(labelled(Position("aaaaaaaa", 7), payload)) == payload


@pytest.mark.parametrize("more", ["", f"&t={PARENT}", "&c=kind:chat", f"&t={PARENT}&c=kind:chat"])
def test_an_event_stream_resumes_by_an_id_with_a_traceparent(more: str) -> None:
    (wanted,) = wanted_of(b"pat=kind=chat&offsets=1", f"636d4d02@o=k3f09a2c.17{more}".encode(), wildcards=True)
    assert wanted.history is not None
    assert wanted.history.since == Position("k3f09a2c", 17)
