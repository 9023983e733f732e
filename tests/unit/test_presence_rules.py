"""Rules of presence: the file, which patterns a rule contains, and the channel of joins and leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from realizehit.broker.presence.rules import LEAVE_AFTER, Rule, Rules, read_rules
from realizehit.errors import SettingsError
from realizehit.pattern import channel_of, is_presence, presence_channel, watched_channel

FILE = """
[[presence]]
pattern = {kind = "chat", room = "*"}
leave-after = "1m"

[[presence]]
pattern = {kind = ["news", 3.0]}
"""


def read(tmp_path: Path, text: str) -> Rules:
    path = tmp_path / "presence.toml"
    path.write_text(text, encoding="utf-8")
    return read_rules(str(path))


def test_a_file(tmp_path: Path) -> None:
    rules = read(tmp_path, FILE)
    chat, news = rules.rules
    assert chat == Rule({"kind": ("chat",), "room": None}, 60.0)
    assert news == Rule({"kind": ("news", "3")}, LEAVE_AFTER)
    assert not read(tmp_path, "\n")


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"kind": "chat", "room": 7}, 0),
        ({"kind": "chat", "room": 7, "more": "x"}, 0),
        ({"kind": "chat"}, None),
        ({"kind": 3, "room": 1}, 1),
        ({"kind": "chat", "room": "*"}, None),  # a wildcard only watches
        ({"kind": "chat", "room": 7, "*": "*"}, None),
        ({"kind": "chat", "room": 7, "realizehit": "presence"}, None),
        ({"kind": "chat", "room": 7, **{f"k{n}": "x" for n in range(13)}}, 0),
        ({"kind": "chat", "room": 7, **{f"k{n}": "x" for n in range(14)}}, None),  # no room for another filter
        ({"kind": "chat", "room": 7, **{f"k{n}": "x" * 200 for n in range(4)}, "k9": "x" * 174}, None),
    ],
)
def test_which_rule_contains_a_pattern(tmp_path: Path, filters: dict[str, object], found: int | None) -> None:
    rules = read(tmp_path, FILE)
    expected = None if found is None else rules.rules[found]
    for _ in range(2):  # the second time it is remembered
        assert rules.rule_of(channel_of(filters, wildcards=True)) is expected


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[[presense]]", "unknown key 'presense'; did you mean presence?"),
        ("[presence]", "write [[presence]], with two brackets"),
        ("[[presence]]", "rule 1: pattern is missing"),
        ("[[presence]]\npattern = {}\nleave_after = 1", "rule 1: unknown key 'leave_after'; did you mean leave-after?"),
        ("[[presence]]\npattern = {}\nleave-after = -1", "rule 1: leave-after: -1 is not a time from 0 to 10 minutes"),
        ("[[presence]]\npattern = {}\nleave-after = '1h'", "rule 1: leave-after: '1h' is not a time"),
        ("[[presence]]\npattern = 1", "rule 1: pattern: it is not a table"),
        ("[[presence]]\npattern = {realizehit = 'x'}", "have no presence"),
        ("[[presence]]\npattern = {a = []}", "a has an empty list"),
        ("x", "is not TOML"),
    ],
)
def test_what_is_wrong_in_a_file(tmp_path: Path, text: str, error: str) -> None:
    with pytest.raises(SettingsError) as raised:
        read(tmp_path, text)
    assert error in str(raised.value)
    assert "presence.toml" in str(raised.value)


@pytest.mark.parametrize(
    ("channel", "derived"),
    [
        (b"kind:chat|room:7", b"kind:chat|realizehit:presence|room:7"),
        (b"a:1", b"a:1|realizehit:presence"),
        (b"z:1", b"realizehit:presence|z:1"),
        (b"realizehit-x:1|realizehi:1", b"realizehi:1|realizehit:presence|realizehit-x:1"),
    ],
)
def test_the_channel_of_joins_and_leaves(channel: bytes, derived: bytes) -> None:
    assert presence_channel(channel) == derived
    assert is_presence(derived)
    assert not is_presence(channel)
    filters = dict(text.split(":") for text in channel.decode().split("|"))
    assert derived == channel_of({**filters, "realizehit": "presence"})
    assert watched_channel(derived) == channel_of(filters)


def test_a_similar_filter_is_none_of_presence() -> None:
    assert not is_presence(b"kind:chat|realizehit:presence2")
    assert not is_presence(b"xrealizehit:presence")
