"""``docs/protocol.md`` names every code, and the bounds that hold."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest

from realizehit.access.limits import STRIKES
from realizehit.errors import CloseCode, ErrorCode
from realizehit.node.messages import MAX_REQUEST_ID, parse_action
from realizehit.pattern import Pattern
from realizehit.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")


def first_column(heading: str) -> list[str]:
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return [row.split("|")[1].strip().strip("`") for row in section.splitlines() if row.startswith("| ")][1:]


def test_every_error_code_is_explained() -> None:
    of_http = {
        ErrorCode.TOO_LARGE,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        ErrorCode.BROKER_REFUSED,
        ErrorCode.NO_HISTORY,
        ErrorCode.NO_PRESENCE,
        ErrorCode.TOO_MANY_CONNECTIONS,
        ErrorCode.TIMEOUT,
    }
    assert set(first_column("Errors")) == set(ErrorCode) - of_http
    for code in of_http:
        assert f"`{code}`" in PAGE


def test_every_close_code_is_explained() -> None:
    assert [int(code) for code in first_column("Closing")] == [code.value for code in CloseCode]
    assert [code.reconnect for code in CloseCode] == [code < 4500 for code in map(int, first_column("Closing"))]


def test_the_defaults_are_told() -> None:
    settings = Settings()
    assert settings.max_message_bytes == settings.max_head_bytes == 16 * 1024
    assert (settings.max_subscriptions, settings.max_queue_bytes, settings.max_queue_messages) == (1024, 1 << 20, 4096)
    assert (settings.heartbeat_interval, settings.heartbeat_timeout) == (25, 20)
    assert (settings.handshake_timeout, settings.subscribe_timeout) == (10, 5)
    for said in (
        "| 16 KiB |",
        f"| {settings.max_actions} a second; {2 * settings.max_subscriptions:,} at once |",
        f"after {STRIKES} refused",
        "| 1,024 |",
        "| 1 MiB or 4,096 messages |",
        "after 25 seconds",
        "within 20 seconds more",
    ):
        assert said in PAGE
    assert f"at most {MAX_REQUEST_ID} characters" in PAGE


@pytest.mark.parametrize("line", re.findall(r"^→ (.*)$", PAGE, re.MULTILINE))
def test_the_examples_actions_are_actions(line: str) -> None:
    action = parse_action(line.encode())
    assert action.act in ("sub", "unsub")
    assert isinstance(action.pattern, dict)
    more = "" if action.history is None else f', "at": "{action.history.since}", "recovered": true'
    assert f'← {{"id": "{action.id}", "ret": "{Pattern(action.pattern).id}"{more}}}' in PAGE


def test_the_examples_payload_is_one() -> None:
    (label, payload), *prices = re.findall(r"^← ([0-9a-f]{8})\?(.*)$", PAGE, re.MULTILINE)
    assert label == Pattern(kind="news", channel="CNN").id
    assert orjson.loads(payload) == {"title": "hello"}
    assert {label for label, _ in prices} == {Pattern(kind="price").id}
    assert all(isinstance(orjson.loads(payload), str) for _, payload in prices)
