"""Identities: interned, canonical, and read from headers only when these are as a proxy sets them."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from realizehit.access.identity import NOBODY, Identity, IdentityHeaders, identity_of, pairs
from realizehit.access.peers import UNIX, UNKNOWN, Networks, is_loopback, peer_of
from realizehit.errors import AccessDenied, SettingsError

HEADERS = IdentityHeaders({"user": "X-User", "device": "X-Device"})


def test_equal_identities_are_one_object() -> None:
    one = identity_of({"user": 42, "device": "a"}, "a test")
    assert identity_of({"device": "a", "user": "42"}, "a test") is one
    assert identity_of({"user": 42.0, "device": "a"}, "a test") is one
    assert identity_of({"user": 43}, "a test") is not one
    assert one == {"user": "42", "device": "a"}
    assert Identity({}) is NOBODY
    assert not NOBODY


def test_unused_identities_are_freed() -> None:
    from realizehit.access import identity

    one = identity_of({"user": "only here"}, "a test")
    key = (("user", "only%20here"),)
    assert identity._known[key] is one
    del one
    gc.collect()
    assert key not in identity._known


@pytest.mark.parametrize("value", ["", "*", None, [], {}, "v" * 257, "\ud800", float("nan")])
def test_values_that_no_pattern_can_have_are_refused(value: Any) -> None:
    with pytest.raises(AccessDenied, match="the token: ") as raised:
        identity_of({"user": value}, "the token")
    assert (raised.value.code, raised.value.reason) == ("bad-request", "bad_identity")


def test_headers() -> None:
    read = HEADERS.read({b"x-user": "jürgen".encode(), b"x-other": b"1"}, frozenset())
    assert read == {"user": "j%C3%BCrgen"}
    assert HEADERS.read({}, frozenset()) is NOBODY
    assert HEADERS.present({b"x-device": b""})
    assert not HEADERS.present({b"x-other": b"1"})


@pytest.mark.parametrize(
    ("value", "repeated", "said"),
    [
        (b"a, b", frozenset([b"x-user"]), "the header x-user came twice"),
        (b"", frozenset(), "the header x-user is empty"),
        (b"\xff", frozenset(), "the header x-user is not UTF-8"),
        (b"v" * 257, frozenset(), "256"),
        (b"*", frozenset(), "'*'"),
    ],
)
def test_invalid_identity_headers(value: bytes, repeated: frozenset[bytes], said: str) -> None:
    with pytest.raises(AccessDenied) as raised:
        HEADERS.read({b"x-user": value}, repeated)
    assert said in str(raised.value)
    assert raised.value.code == "bad-request"


@pytest.mark.parametrize("texts", [["user"], ["user="], ["=X"], ["a=b", "a=c"], ["*=X"]])
def test_invalid_pairs(texts: list[str]) -> None:
    with pytest.raises(SettingsError, match="--identify: "):
        pairs(texts, "--identify", "user=X-User")


def test_peers() -> None:
    assert [peer_of(name) for name in (("1.2.3.4", 5), ("::1", 5, 0, 0), ["::1", 5], "", None, "/a/socket", ())] == [
        "1.2.3.4", "::1", "::1", UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN,
    ]  # fmt: skip
    assert not is_loopback(UNKNOWN)
    assert UNKNOWN not in Networks(["0.0.0.0/0", "::/0", "unix"])
    for peer in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", UNIX):
        assert is_loopback(peer), peer
    for peer in ("10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", "localhost", "", "0.0.0.0"):
        assert not is_loopback(peer), peer


def test_networks() -> None:
    networks = Networks(["10.0.0.0/8", "2001:db8::/32", "192.0.2.7", "unix"])
    for peer in ("10.1.2.3", "::ffff:10.1.2.3", "2001:db8::5", "192.0.2.7", UNIX):
        assert peer in networks, peer
    for peer in ("11.0.0.1", "192.0.2.8", "2001:db9::1", "x", "127.0.0.1"):
        assert peer not in networks, peer
    assert UNIX not in Networks(["10.0.0.0/8"])
    assert not Networks([])
    for text in ("10.0.0.1/8", "host", ""):
        with pytest.raises(SettingsError, match="is neither a network"):
            Networks([text])
