"""What the log says of refusals: who, why, what to set; how few lines; no secrets and no forged lines."""

from __future__ import annotations

import json
import logging

import pytest

from realizehit.access.gate import Gate
from realizehit.access.refusals import LONGEST, REASONS, RefusalLog, describe
from realizehit.common.seldom import Seldom
from realizehit.errors import AccessDenied
from realizehit.logs.lines import JsonFormatter
from realizehit.settings import Settings

LOGGER = "realizehit.access.refusals"


def text(reason: str, peer: str | None = "127.0.0.1", detail: str = "", **headers: bytes) -> str:
    by_name = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return describe(reason, peer=peer, headers=by_name, detail=detail)


def test_one_line_per_reason_and_interval_with_the_count_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    log = RefusalLog(lambda: now, interval=10.0)
    for _ in range(1000):
        log.note("origin", peer="192.0.2.1")
        log.note("host", peer="192.0.2.1")
        log.tick()
    assert len(caplog.messages) == 2
    now = 110.0
    log.note("origin", peer="192.0.2.2")
    assert "192.0.2.2" in caplog.messages[2]
    assert caplog.messages[2].endswith("(999 more like this since the last line)")
    log.tick()
    assert caplog.messages[3].startswith("refused: host, 999 more since the last line; ")
    now = 120.0
    log.tick()
    log.note("origin", peer="192.0.2.3")
    assert len(caplog.messages) == 5
    assert "more like this" not in caplog.messages[4]


def test_reasons_do_not_suppress_each_other() -> None:
    now = 0.0
    seldom = Seldom(5.0, lambda: now)
    assert [seldom.passes(kind) for kind in "aabab"] == [0, None, 0, None, None]
    assert seldom.overdue() == []
    now = 5.0
    assert seldom.overdue() == [("a", 2), ("b", 1)]
    assert [seldom.passes(kind) for kind in "ab"] == [None, None]
    now = 10.0
    assert [seldom.passes(kind) for kind in "ab"] == [1, 1]
    assert seldom.overdue() == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            text("origin", host=b"127.0.0.1:8080", origin=b"https://rt.example.org"),
            ("Host '127.0.0.1:8080'", "Origin 'https://rt.example.org'", "--allow-origin https://rt.example.org",
             "proxy_set_header Host $http_host", "--trusted-proxies 127.0.0.1"),
        ),
        (
            text("origin", "192.0.2.7", host=b"rt.example.org", origin=b"https://app.example.org"),
            ("peer 192.0.2.7", "--allow-origin https://app.example.org"),
        ),
        (
            text("origin", "10.0.0.5", host=b"rt", origin=b"https://app", x_forwarded_for=b"192.0.2.7"),
            ("--trusted-proxies 10.0.0.5",),
        ),
        (text("origin", origin=b"null"), ("--allow-origin null",)),
        (text("origin", sec_fetch_site=b"cross-site"), ("Sec-Fetch-Site 'cross-site'", "--allow-origin '*'")),
        (
            text("host", "unix", host=b"rt.example.org"),
            ("peer a Unix socket", "--endpoint wss://rt.example.org", "--trusted-proxies unix"),
        ),
        (text("host", "", host=b"rt"), ("peer unknown", "--trusted-proxies ADDRESS")),
        (text("bad_token", detail="the token has expired"), ("the token has expired", "--jwt-leeway")),
        (text("protected"), ("realizehit gen-key", "--keys", "--insecure-publish")),
        (text("bad_key", detail="send Authorization: Bearer KEY"), ("--keys",)),
        (text("max_what"), ("docs/access.md",)),
        (text("too_many_actions", None), ("--max-actions",)),
    ],
)  # fmt: skip
def test_a_line_names_the_peer_and_the_setting(line: str, said: tuple[str, ...]) -> None:
    for part in said:
        assert part in line


@pytest.mark.parametrize("reason", REASONS)
def test_each_reason_has_advice_or_is_logged_elsewhere(reason: str) -> None:
    routine = ("expired", "key_replaced", "no_longer_granted", "no_room")  # never noted, or said by others
    assert ("docs/access.md" in text(reason)) is (reason in routine)


@pytest.mark.parametrize("header", ["host", "origin", "x_forwarded_host"])
@pytest.mark.parametrize(
    "value",
    [
        b"x\r\n2026 error forged",
        b"\x1b[2J\x9b\xff",
        b"https://ann:hunter2@example.org",
        b"https://example.org?token=hunter2",
        b"a" * 10_000,
        b"'; rm -rf /; '",
        b"?token=" + b"hunter2" * 1000,
    ],
)
def test_values_of_requests_are_escaped_cut_and_masked(header: str, value: bytes) -> None:
    for reason in ("origin", "host"):
        line = describe(reason, peer="127.0.0.1", headers={header.replace("_", "-").encode(): value})
        assert line.isascii()
        assert line.isprintable()
        assert "hunter2" not in line
        assert len(line) < 1000 + 4 * LONGEST


def test_a_line_in_json_has_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, LOGGER)
    headers = {b"host": b"a\x1b?token=hunter2", b"origin": b"http://b"}
    RefusalLog(lambda: 0.0).note("origin", peer="192.0.2.1", headers=headers)
    entry = json.loads(JsonFormatter().format(caplog.records[0]))
    assert entry["message"].startswith("refused: origin; ")
    assert {name: entry[name] for name in ("reason", "peer", "host", "origin", "left_out")} == {
        "reason": "origin",
        "peer": "192.0.2.1",
        "host": r"a\x1b?token=***",
        "origin": "http://b",
        "left_out": 0,
    }


def test_a_detail_neither_hides_the_advice_nor_shows_a_secret() -> None:
    line = text("bad_key", detail="an API key is needed: send Authorization: Bearer KEY; ?token=hunter2")
    assert "Authorization:" not in line
    assert "hunter2" not in line
    assert line.endswith("makes one")


def test_the_gate_logs_and_counts_refusals(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(Settings(max_per_address=1), clock=lambda: 0.0)
    with pytest.raises(AccessDenied):
        gate.clients.open("192.0.2.1", {b"host": b"a", b"origin": b"http://b"}, frozenset(), b"")
    with pytest.raises(AccessDenied):
        gate.publishers.authenticate("192.0.2.2", {})
    with pytest.raises(AccessDenied):
        gate.connected.authenticate(1, "x")
    gate.clients.count_connection("192.0.2.3")
    with pytest.raises(AccessDenied):
        gate.clients.count_connection("192.0.2.3")
    gate.refusals.count("late_head", peer="192.0.2.4")
    gate.connected.not_granted(b"kind:sport")
    gate.refusals.count("no_room")
    lines = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    reasons = [line.split()[1].strip(";") for line in lines]
    assert reasons == ["origin", "protected", "bad_token", "too_many_per_address", "late_head", "not_granted"]
    for line, peer in zip(lines, ("192.0.2.1", "192.0.2.2", None, "192.0.2.3", "192.0.2.4", None), strict=True):
        assert peer is None or f"peer {peer}" in line
    assert "kind:sport" in lines[-1]
