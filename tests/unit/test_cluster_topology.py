"""Slots, addresses and the topology of a cluster."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from realizehit.broker.cluster.address import ClusterAddress
from realizehit.broker.cluster.redirects import Redirect, redirect_of
from realizehit.broker.cluster.slots import SLOTS, slot_of
from realizehit.broker.cluster.topology import Answer, Claim, Owners, moved_slots, read_answer
from realizehit.broker.open import open_bus
from realizehit.errors import SettingsError

A, B, C = ("a", 1), ("b", 1), ("c", 1)
HALF = SLOTS // 2


@given(st.binary(max_size=40) | st.text("{}ab", max_size=12).map(str.encode))
def test_slots_are_those_of_the_cluster(key: bytes) -> None:
    assert slot_of(key) == key_slot(key)


@pytest.mark.parametrize(
    ("url", "seeds", "login"),
    [
        ("redis+cluster://h1:7000,h2,[::1]:7002", [("h1", 7000), ("h2", 6379), ("::1", 7002)], []),
        ("rediss+cluster://u:p%40w@h:1/0?ssl_cert_reqs=none", [("h", 1)], ["u", "p@w"]),
        ("redis+cluster://:secret@h:1?socket_connect_timeout=2", [("h", 1)], ["secret"]),
    ],
)
def test_addresses(url: str, seeds: list[tuple[str, int]], login: list[str]) -> None:
    address = ClusterAddress(url)
    assert address.seeds == seeds
    assert address.login() == login
    node = address.node("10.0.0.1", 7001)
    assert node.login() == login
    assert node is address.node("10.0.0.1", 7001)
    assert str(node) == f"{url.partition('+')[0]}://10.0.0.1:7001"
    assert "secret" not in str(address)
    assert address.scrub("denied for " + "".join(login[-1:])).removesuffix("***") == "denied for "


@pytest.mark.parametrize(
    ("url", "about"),
    [
        ("redis+cluster://u:topsecret@h/2", "no database but 0"),
        ("redis+cluster://u:topsecret@h?db=3", "no database but 0"),
        ("redis+cluster://u:topsecret@", "is not the host:port"),
        ("redis+cluster://u:topsecret@h:1,", "is not the host:port"),
        ("redis+cluster://u:topsecret@h:1,h:port", "is not the host:port"),
        ("redis+cluster://u:topsecret@h:1?health_check_interval=3", "health_check_interval"),
    ],
)
def test_addresses_that_cannot_be_used(url: str, about: str) -> None:
    with pytest.raises(SettingsError, match=about) as raised:
        open_bus(url)
    assert "topsecret" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MOVED 3999 127.0.0.1:6381", Redirect(False, 3999, ("127.0.0.1", 6381))),
        ("ASK 3999 h:6381", Redirect(True, 3999, ("h", 6381))),
        ("MOVED 3999 :6381", Redirect(False, 3999, ("asked", 6381))),
        ("MOVED 3999 ::1:6381", Redirect(False, 3999, ("::1", 6381))),
        ("MOVED 3999 ?:6381", None),
        ("MOVED x h:6381", None),
        ("MOVED 1", None),
        ("ERR no", None),
    ],
)
def test_redirects(text: str, expected: Redirect | None) -> None:
    assert redirect_of(text, ("asked", 1)) == expected


def node(name: str, epoch: int, host: bytes | None = b"h", port: int = 1) -> tuple[list[Any], bytes]:
    line = b"%b %b:%d@1 master - 0 0 %d connected" % (name.encode(), host or b"", port, epoch)
    return [host, port, name.encode(), []], line


def test_reading_an_answer() -> None:
    (first, one), (second, two) = node("aa", 3, b""), node("bb", 5, b"other", 7)
    slots = [[0, 5, first, second], [6, 6, second]]
    info = b"cluster_state:ok\r\ncluster_slots_assigned:7\r\n"
    answer = read_answer([slots, one + b"\n" + two + b"\n", info], ("asked", 1))
    assert answer.claims == (Claim(0, 5, "aa", 3, ("asked", 1)), Claim(6, 6, "bb", 5, ("other", 7)))
    assert answer.machines == {("asked", 1), ("other", 7)}
    assert answer.is_certain
    unknown, line = node("aa", 3, b"?")
    answer = read_answer([[[0, 5, unknown]], line, b"cluster_state:fail"], ("asked", 1))
    assert answer == Answer((), frozenset(), False)


@pytest.mark.parametrize(
    "replies",
    [
        [b"no", b"", b""],
        [[[0, 5]], b"", b""],
        [[[5, 0, [b"h", 1, b"aa"]]], b"aa h:1@1 master - 0 0 3 connected", b""],
        [[[0, SLOTS, [b"h", 1, b"aa"]]], b"aa h:1@1 master - 0 0 3 connected", b""],
        [[[0, 5, [b"h", 1, b"aa"]]], b"bb h:1@1 master - 0 0 3 connected", b""],
        [[], b"one two", b""],
        [[], None, b""],
    ],
)
def test_answers_that_make_no_sense(replies: list[Any]) -> None:
    with pytest.raises((ValueError, TypeError, IndexError, AttributeError, KeyError)):
        read_answer(replies, ("asked", 1))


def says(*claims: Claim) -> Answer:
    return Answer(claims, frozenset(), True)


def test_the_claim_with_the_higher_epoch_wins() -> None:
    """A machine that was cut off goes on telling the old state."""
    owners = Owners()
    old = says(Claim(0, HALF - 1, "aa", 1, A), Claim(HALF, SLOTS - 1, "bb", 2, B))
    assert owners.take(old)
    assert not owners.take(old)
    assert owners.current is not None
    assert owners.current.primaries == (A, B)
    new = says(Claim(0, HALF - 1, "cc", 3, C), Claim(HALF, SLOTS - 1, "bb", 2, B))
    assert owners.take(new)
    assert owners.current.primaries == (B, C)
    assert owners.current.epoch == 3
    assert not owners.take(old)
    assert owners.current.owner_of(0) == C
    # Both moves are known to one machine each.
    assert owners.take(says(Claim(0, 0, "bb", 4, B), Claim(1, HALF - 1, "cc", 3, C)))
    assert [owners.current.owner_of(slot) for slot in (0, 1, HALF)] == [B, C, B]


def test_a_machine_that_has_another_address() -> None:
    owners = Owners()
    owners.take(says(Claim(0, SLOTS - 1, "aa", 1, A)))
    assert owners.take(says(Claim(0, SLOTS - 1, "aa", 1, B)))
    assert owners.current is not None
    assert owners.current.primaries == (B,)


def test_machines_without_slots_and_of_another_cluster() -> None:
    owners = Owners()
    assert not owners.take(says())
    assert owners.current is None
    owners.take(says(Claim(0, SLOTS - 1, "aa", 9, A)))
    assert not owners.take(says())
    assert owners.take(says(Claim(0, SLOTS - 1, "zz", 1, B)))  # one that stands in the place of the first
    assert owners.current is not None
    assert owners.current.epoch == 1


def test_slots_that_nobody_owns_and_slots_that_moved() -> None:
    owners = Owners()
    owners.take(says(Claim(0, 1, "aa", 1, A)))
    before = owners.current
    assert before is not None
    assert before.owner_of(2) is None
    owners.take(says(Claim(0, 0, "aa", 1, A), Claim(1, 2, "bb", 2, B)))
    assert owners.current is not None
    assert moved_slots(before, owners.current) == {1: B, 2: B}
    assert moved_slots(None, before)[0] == A
