"""Rules of history: the file, the text at the broker, which patterns a rule contains."""

from __future__ import annotations

from pathlib import Path

import pytest

from realizehit.broker.history.rules import NO_RULES, Rule, Rules
from realizehit.broker.history.rules_file import read_rules
from realizehit.errors import BrokerRefused, SettingsError
from realizehit.pattern import channel_of

FILE = """
[[history]]
pattern = {kind = "chat", room = "*"}
size = 100
ttl = "5m"

[[history]]
pattern = {kind = ["news", "Ä b", 3.0, true]}
size = 1
ttl = 90
"""


def read(tmp_path: Path, text: str) -> Rules:
    path = tmp_path / "rules.toml"
    path.write_text(text, encoding="utf-8")
    return read_rules(str(path))


def test_a_file(tmp_path: Path) -> None:
    assert read(tmp_path, FILE).rules == (
        Rule({"kind": ("chat",), "room": None}, 100, 300.0),
        Rule({"kind": ("news", "%C3%84%20b", "3", "true")}, 1, 90.0),
    )


def test_an_empty_file_has_no_rules(tmp_path: Path) -> None:
    rules = read(tmp_path, "\n")
    assert not rules
    assert rules.version != NO_RULES.version  # so that it can be told from a broker that lost its rules
    assert Rules.from_json(rules.to_json()).version == rules.version


def test_through_the_broker(tmp_path: Path) -> None:
    rules = read(tmp_path, FILE)
    again = Rules.from_json(rules.to_json())
    assert (again.rules, again.version) == (rules.rules, rules.version)
    assert again.to_json() == rules.to_json()


def test_the_version_is_that_of_the_content(tmp_path: Path) -> None:
    one = read(tmp_path, '[[history]]\npattern = {a = "1", b = "2"}\nsize = 5\nttl = "1m"')
    same = read(tmp_path, "# other order\n[[history]]\nttl = 60\nsize = 5\npattern = {b = 2, a = 1}")
    other = read(tmp_path, '[[history]]\npattern = {a = "1", b = "2"}\nsize = 6\nttl = "1m"')
    assert one.version == same.version != other.version


@pytest.mark.parametrize("text", [None, b"", ""])
def test_nothing_at_the_broker(text: bytes | None) -> None:
    assert Rules.from_json(text) is NO_RULES


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{", "truncated"),
        (b'{"version": "x"}', "rules"),
        (b'{"version": "x", "rules": [{"pattern": {"a": "b"}, "size": 1, "ttl": 5}]}', "rules[0].pattern"),
        (b'{"version": "x", "rules": [{"pattern": {}, "size": 0, "ttl": 5}]}', "$.rules[0].size"),
        (b"\xff", "realizehit:history"),
    ],
)
def test_something_else_at_the_broker(text: bytes, said: str) -> None:
    with pytest.raises(BrokerRefused, match="the key realizehit:history at the broker does not hold rules") as caught:
        Rules.from_json(text)
    assert said.replace("rules[0].pattern", "$.rules[0].pattern").lower() in str(caught.value).lower()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("= 1", "rules.toml: is not TOML"),
        ("[[histroy]]", "rules.toml: unknown key 'histroy'; did you mean history?"),
        ("[history]", "write [[history]], with two brackets"),
        ("history = [1]", "rule 1: it is not a table"),
        ("[[history]]\nsize = 1\nttl = 5", "rule 1: pattern is missing"),
        ("[[history]]\npattern = {a = 1}\nttl = 5", "rule 1: size is missing"),
        ("[[history]]\npattern = {a = 1}\nsize = 1", "rule 1: ttl is missing"),
        (
            "[[history]]\npattern = {a = 1}\nsize = 1\nttl = 5\nsise = 2",
            "rule 1: unknown key 'sise'; did you mean size?",
        ),
        ("[[history]]\npattern = {a = 1}\nsize = 0\nttl = 5", "rule 1: size: 0 is not a number of messages"),
        ("[[history]]\npattern = {a = 1}\nsize = 10001\nttl = 5", "rule 1: size: 10001 is not"),
        ("[[history]]\npattern = {a = 1}\nsize = true\nttl = 5", "rule 1: size: True is not"),
        ("[[history]]\npattern = {a = 1}\nsize = 1\nttl = 0.5", "rule 1: ttl: 0.5 is not a time from 1 second"),
        ("[[history]]\npattern = {a = 1}\nsize = 1\nttl = nan", "rule 1: ttl: nan is not a time"),
        ('[[history]]\npattern = {a = 1}\nsize = 1\nttl = "31d"', "rule 1: ttl: '31d' is not a time"),
        ('[[history]]\npattern = {a = 1}\nsize = 1\nttl = "5 min"', "rule 1: ttl: '5 min' is not a time"),
        ('[[history]]\npattern = "a"\nsize = 1\nttl = 5', "rule 1: pattern: it is not a table"),
        ("[[history]]\npattern = {a = []}\nsize = 1\nttl = 5", "rule 1: pattern: a has an empty list"),
        ("[[history]]\npattern = {a = {b = 1}}\nsize = 1\nttl = 5", "rule 1: pattern: "),
        ('[[history]]\npattern = {"*" = 1}\nsize = 1\nttl = 5', "rule 1: pattern: "),
        ("[[history]]\npattern = {realizehit = 1}\nsize = 1\nttl = 5", "only servers publish"),
        ("[[history]]\npattern = {a = 1}\nsize = 1\nttl = 5\n" * 1001, "1001 rules are too many"),
    ],
)
def test_errors_of_a_file(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "rules.toml") in str(caught.value)
    assert said in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        read_rules(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ({"kind": "chat", "room": 7}, 100),
        ({"kind": "chat", "room": "*"}, 100),
        ({"kind": "chat", "room": 7, "more": "x"}, 100),
        ({"kind": "chat", "room": 7, "*": "*"}, 100),
        ({"kind": "chat"}, None),
        ({"kind": "chat", "*": "*"}, None),
        ({"kind": "Ä b"}, 1),
        ({"kind": 3}, 1),
        ({"kind": "*"}, None),  # it receives more than the rule keeps
        ({"kind": "news", "realizehit": "stats"}, None),
    ],
)
def test_which_rule_a_pattern_is_under(pattern: dict[str, object], size: int | None, tmp_path: Path) -> None:
    rules = read(tmp_path, FILE)
    channel = channel_of(pattern, wildcards=True)
    for _ in range(2):  # the second time from what it remembers
        rule = rules.rule_of(channel)
        assert (rule.size if rule else None) == size


def test_the_first_rule_that_contains_a_pattern_applies() -> None:
    rules = Rules((Rule({"a": ("1",)}, 5, 1.0), Rule({"a": None}, 6, 1.0), Rule({}, 7, 1.0)))
    sizes = {channel: rule.size for channel in (b"a:1", b"a:2", b"b:1", b"a:*") if (rule := rules.rule_of(channel))}
    assert sizes == {b"a:1": 5, b"a:2": 6, b"b:1": 7, b"a:*": 6}
