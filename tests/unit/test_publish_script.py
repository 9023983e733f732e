"""The calls of the scripts as bytes."""

from __future__ import annotations

import hiredis
import pytest

from realizehit.broker import publish_script
from realizehit.broker.history.rules import Rule, Rules
from realizehit.broker.history.scripts import log_key
from realizehit.broker.publication import Publication
from realizehit.broker.publish_script import PublishScript

CHANNEL = "kind:news|town:Zürich".encode()
EPOCH = b"k3f09a2c"


@pytest.mark.parametrize("payload", [b"1", b"x" * 70_000])
def test_a_call_that_is_formatted_equals_one_that_is_packed(monkeypatch: pytest.MonkeyPatch, payload: bytes) -> None:
    monkeypatch.setattr(publish_script, "new_epoch", lambda: EPOCH)
    script = PublishScript(120.0, project=False)
    script.rules = Rules((Rule({"kind": ("news",)}, 100, 1.5),))
    script.run_id = b"f" * 40
    publication = Publication(CHANNEL, payload)
    first, second = script.pack([publication]), script.pack([publication])
    reader = hiredis.Reader()
    reader.feed(first)
    bringing: list[bytes] = reader.gets()
    reader.feed(second)
    assert reader.gets() == [b"EVALSHA", publish_script._SHA[bringing[1]], *bringing[2:]]
    assert reader.gets() is False
    expected = [log_key(CHANNEL), b"0", CHANNEL, payload, EPOCH, script.run_id, b"-", b"100", b"1500"]
    assert bringing[2:] == [b"1", *expected]
