"""Rules of history from a TOML file and from a broker, and rules of presence from a file.

Invariant: any file gives rules, or a `SettingsError` whose text names the file; any text at the broker gives rules or a
`BrokerRefused`. Rules have the bounds that they should have, are the same after a way through the broker, and any
bytes have a rule or none. A file may also be one of rules of presence.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from realizehit.broker.history.rules import MAX_RULES, MAX_SIZE, MAX_TTL, MIN_TTL, Rules
from realizehit.broker.history.rules_file import read_rules
from realizehit.broker.presence.rules import MAX_LEAVE_AFTER
from realizehit.broker.presence.rules import read_rules as read_presence_rules
from realizehit.errors import BrokerRefused, SettingsError
from realizehit.process.history_rules import differences
from tests.fuzz.command import main


def one(data: bytes) -> None:
    """Take a case as a file, as a text at the broker, and as a channel."""
    with tempfile.TemporaryDirectory(prefix="rh-") as directory:
        path = Path(directory) / "rules.toml"
        path.write_bytes(data)
        try:
            check(read_rules(str(path)), data)
        except SettingsError as error:
            assert str(path) in str(error), str(error)
        path.write_bytes(data.replace(b"history", b"presence"))  # so that cases are of use for both
        try:
            rules = read_presence_rules(str(path))
        except SettingsError as error:
            assert str(path) in str(error), str(error)
        else:
            assert all(0 <= rule.leave_after <= MAX_LEAVE_AFTER for rule in rules.rules)
            assert rules.rule_of(data) is rules.rule_of(data)
    try:
        check(Rules.from_json(data), data)
    except BrokerRefused as error:
        assert "realizehit:history" in str(error), str(error)


def check(rules: Rules, data: bytes) -> None:
    assert len(rules.rules) <= MAX_RULES
    for rule in rules.rules:
        assert 1 <= rule.size <= MAX_SIZE
        assert MIN_TTL <= rule.ttl <= MAX_TTL
    again = Rules.from_json(rules.to_json())
    assert again.version == rules.version
    assert again.rules == rules.rules
    assert differences(Rules(), rules)
    assert rules.rule_of(data) is rules.rule_of(data)


if __name__ == "__main__":
    main(__spec__.name)
