"""Engine.IO's packets and payloads, against a model of what JavaScript clients write."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realizehit.transports.engineio.errors import EngineIOError, Refused
from realizehit.transports.engineio.packets import PayloadError, body, join, open_packet, split, split_own

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x1e"), max_size=20)
packets = st.lists(st.builds("4{}".format, texts), min_size=1, max_size=5)


def units(text: str) -> int:
    """The length of a string in JavaScript."""
    return len(text.encode("utf-16-le")) // 2


@given(packets)
def test_payloads_of_revision_4(sent: list[str]) -> None:
    assert split("\x1e".join(sent).encode(), 4) == [packet.encode() for packet in sent]


@given(packets)
def test_payloads_of_revision_3_count_as_javascript_does(sent: list[str]) -> None:
    payload = "".join(f"{units(packet)}:{packet}" for packet in sent)
    read = split(payload.encode(), 3)
    for packet, was in zip(read, sent, strict=True):
        # What reads as UTF-8 that was taken for Latin-1 is what the oldest clients send.
        assert packet in (was.encode(), was.encode("latin-1", "ignore"))
        if was.isascii() or any(ord(character) > 255 for character in was):
            assert packet == was.encode()


@given(packets)
def test_old_clients_encode_twice(sent: list[str]) -> None:
    """engine.io-parser 1.x writes each packet's UTF-8 as characters, and counts those."""
    once = [packet.encode().decode("latin-1") for packet in sent]
    payload = "".join(f"{len(packet)}:{packet}" for packet in once)
    assert split(payload.encode(), 3) == [packet.encode() for packet in sent]


@pytest.mark.parametrize(
    ("payload", "revision", "text"),
    [
        (b"", 4, "empty"),
        (b"", 3, "empty"),
        (b"4\xff", 4, "not UTF-8"),
        (b"4:4\xff", 3, "not UTF-8"),
        (b"4hello", 3, "no length"),
        (b"99999999999:4", 3, "no length"),
        (b"x:4", 3, "not a number"),
        (b":4", 3, "not a number"),
        (b"-1:4", 3, "not a number"),
        ("²:4a".encode(), 3, "not a number"),
        (b"3:4a", 3, "shorter"),
        (b"2:4a2:4", 3, "shorter"),
        ("2:4😀".encode(), 3, "inside a character"),
    ],
)
def test_malformed_payloads(payload: bytes, revision: int, text: str) -> None:
    with pytest.raises(PayloadError, match=text):
        split(payload, revision)


@pytest.mark.parametrize("revision", [3, 4])
def test_split_reverses_join(revision: int) -> None:
    sent = [b"6", b'4{"a":1}', b"3probe"]
    payload = join(sent, revision)
    assert list(split_own(payload, revision)) == sent
    assert split(body(payload, revision), revision) == sent
    assert list(split_own(b"", revision)) == []


def test_the_open_packet_is_in_milliseconds() -> None:
    packet = open_packet("x", upgrades=("websocket",), ping_interval=2.5, ping_timeout=0.02, max_payload=7)
    assert packet[:1] == b"0"
    assert orjson.loads(packet[1:]) == {
        "sid": "x", "upgrades": ["websocket"], "pingInterval": 2500, "pingTimeout": 20, "maxPayload": 7,
    }  # fmt: skip


def test_errors_equal_those_of_the_reference_server() -> None:
    assert orjson.loads(EngineIOError.UNKNOWN_SID.body()) == {"code": 1, "message": "Session ID unknown"}
    assert orjson.loads(Refused(EngineIOError.BAD_REQUEST, "why").body) == {"code": 3, "message": "Bad request: why"}
