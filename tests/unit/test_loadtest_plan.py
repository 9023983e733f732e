from __future__ import annotations

import socket
from collections import Counter
from typing import Any

import pytest

from realizehit.errors import LoadTestError, SettingsError
from realizehit.loadtest.broker import Broker
from realizehit.loadtest.plan import SCENARIOS, Plan, make_plan
from realizehit.loadtest.target import find_target, with_sources
from realizehit.pattern import Pattern


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_every_scenario_makes_a_plan(name: str) -> None:
    plan = make_plan(name, {"duration": 1.0, "ramp": None})
    assert plan.duration == 1.0
    assert plan.ramp == 0.0
    assert SCENARIOS[name].summary


def test_a_rate_replaces_what_is_outstanding_and_the_other_way_round() -> None:
    assert make_plan("deep", {}).outstanding == 512
    assert make_plan("deep", {"rate": 5.0}).outstanding == 0
    assert make_plan("deep", {"rate": 5.0, "outstanding": 3}).outstanding == 3
    assert make_plan("wide", {"outstanding": 8}).rate == 0


@pytest.mark.parametrize(
    ("numbers", "error"),
    [
        ({"connections": 0}, "--connections must be at least 1"),
        ({"processes": 5, "connections": 4}, "--processes 5 is more than --connections 4"),
        ({"payload_bytes": 41}, "--payload-bytes must be from 42"),
        ({"payload_bytes": 2 << 20}, "--payload-bytes"),
        ({"subscriptions_per_connection": 2}, "needs as many --patterns"),
        ({"rate": 0.0}, "give a --rate"),
        ({"rate": -1.0}, "--rate must be from 0"),
        ({"duration": 0.0}, "--duration"),
        ({"duration": float("nan")}, "--duration"),
        ({"outstanding": 5, "processes": 2}, "--outstanding needs --processes 1"),
        ({"outstanding": 5, "reconnects": 1.0}, "subscribers that stay"),
        ({"outstanding": 1 << 20}, "must be below"),
        ({"publish": "post"}, "not one of api, batch, redis"),
    ],
)
def test_numbers_that_cannot_be_are_named_by_their_flag(numbers: dict[str, object], error: str) -> None:
    with pytest.raises(SettingsError, match=error):
        make_plan("wide", numbers)


def test_an_unknown_scenario_is_an_error() -> None:
    with pytest.raises(SettingsError, match="'tall'; use wide, deep, many, churn, storm"):
        make_plan("tall", {})


@pytest.mark.parametrize(("connections", "patterns", "each"), [(10, 5, 2), (12, 8, 3), (5, 5, 5), (7, 100, 1)])
def test_subscriptions_are_spread_evenly(connections: int, patterns: int, each: int) -> None:
    plan = Plan(connections=connections, patterns=patterns, subscriptions_per_connection=each)
    counts: Counter[int] = Counter()
    for connection in range(connections):
        channels = plan.channels_of(connection)
        assert len(set(channels)) == each
        counts.update(channels)
    assert max(counts.values()) - min(counts[n] for n in range(patterns)) <= 1
    assert counts.total() / patterns == plan.deliveries_per_message


# --- Where ------------------------------------------------------------------------------------------------------------


def test_addresses_are_looked_up() -> None:
    target = find_target("ws://localhost:1234/ws?x=1", redis="redis://user:secret@127.0.0.1:7/0")
    assert (target.ws.host in ("127.0.0.1", "::1"), target.ws.port, target.ws.path) == (True, 1234, "/ws?x=1")
    assert target.ws.authority == "localhost:1234"
    assert (target.api.port, target.api.path, target.publish) == (1234, "/", "redis")
    assert target.broker == Broker("redis://user:***@127.0.0.1:7/0", host="127.0.0.1", port=7, login=("user", "secret"))
    assert target.url == "ws://localhost:1234/ws?x=1"
    assert find_target("ws://127.0.0.1", api="http://127.0.0.1:81/push").publish == "api"
    assert Broker.parse("unix:///run/v.sock?password=p").path == "/run/v.sock"


@pytest.mark.parametrize("listening", ["127.0.0.1", "127.0.0.2", None])
def test_of_several_addresses_the_first_that_answers_is_taken(
    monkeypatch: pytest.MonkeyPatch, listening: str | None
) -> None:
    with socket.socket() as listener:
        listener.bind((listening or "127.0.0.1", 0))
        if listening:
            listener.listen()
        port = listener.getsockname()[1]
        several = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
            for host in ("127.0.0.3", "127.0.0.1", "127.0.0.2")
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: several)
        assert find_target(f"ws://node:{port}/").ws.host == (listening or "127.0.0.3")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"url": "wss://127.0.0.1/ws"}, "does not speak TLS"),
        ({"url": "http://127.0.0.1/ws"}, "does not begin with ws://"),
        ({"url": "ws:///ws"}, "no host"),
        ({"url": "ws://127.0.0.1:99999/"}, "[Pp]ort"),
        ({"url": "ws://127.0.0.1/a b"}, "blank"),
        ({"url": "ws://127.0.0.1/", "publish": "redis"}, "give --redis"),
        ({"url": "ws://127.0.0.1/", "redis": "rediss://127.0.0.1"}, "does not speak TLS"),
        ({"url": "ws://127.0.0.1/", "redis": "mysql://a:secret@127.0.0.1"}, r"--redis mysql://a:\*\*\*@127"),
    ],
)
def test_unusable_addresses_are_errors(options: dict[str, str], error: str) -> None:
    with pytest.raises(SettingsError, match=error) as caught:
        find_target(**options)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_what_is_secret_is_not_shown() -> None:
    target = find_target("ws://127.0.0.1/", key="rh_secret", headers=["X-User: 42", "Authorization:Bearer secret "])
    assert target.api_headers == (("Authorization", "Bearer rh_secret"),)
    assert target.headers == (("X-User", "42"), ("Authorization", "Bearer secret"))
    assert "secret" not in repr(target)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"key": "secret\r\n"}, "--key"),
        ({"key": "sécret"}, "--key"),
        ({"headers": ["secret"]}, "--header"),
        ({"headers": ["X-User: secret\r\nX-Admin: 1"]}, "--header 'X-User' is not a header"),
        ({"headers": ["X User: secret"]}, "--header 'X User' is not a header"),
        ({"headers": ["Host: secret"]}, "--header 'Host' is one that the load test sets itself"),
    ],
)
def test_unusable_keys_and_headers_are_errors(options: dict[str, Any], error: str) -> None:
    with pytest.raises(SettingsError, match=error) as caught:
        find_target("ws://127.0.0.1/", **options)
    assert "secret" not in str(caught.value) or options["headers"] == ["secret"]


def test_many_connections_get_many_loopback_addresses() -> None:
    target = find_target("ws://127.0.0.1:1/ws")
    assert with_sources(target, 20_000).sources == ()
    assert with_sources(target, 20_001).sources == ("127.0.0.2", "127.0.0.3")
    assert with_sources(target, 5, ("127.0.0.9",)).sources == ("127.0.0.9",)
    assert len(set(with_sources(target, 10_000_000).sources)) == 500


def test_the_error_for_a_missing_broker_hides_its_password() -> None:
    with pytest.raises(LoadTestError, match=r"/nowhere.*No such file") as caught:
        Broker.parse("unix://:secret@/nowhere").connect()
    assert "secret" not in str(caught.value)


def test_no_address_shows_a_secret() -> None:
    target = find_target("ws://me:hidden@127.0.0.1:1/ws?token=hidden&x=1", api="http://127.0.0.1:1/?key=hidden")
    assert target.url == "ws://127.0.0.1:1/ws?token=***&x=1"
    assert target.ws.path == "/ws?token=hidden&x=1"
    with pytest.raises(LoadTestError) as unreachable:
        target.try_publishing(Pattern(a=1))
    assert "hidden" not in str(unreachable.value)
    for url in (
        "wss://me:hidden@h/",
        "ftp://me:hidden@h/",
        "ws://me:hidden@h:x/",
        "ws://me:hidden@/",
        "ws://me:hidden@[h",
    ):
        with pytest.raises(SettingsError) as unusable:
            find_target(url)
        assert "hidden" not in str(unusable.value)
        assert "--url" in str(unusable.value)
