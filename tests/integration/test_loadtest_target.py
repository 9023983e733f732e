"""Where a load test connects to: addresses, keys and headers; it tries the addresses before it starts."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from realizehit.errors import LoadTestError, SettingsError
from realizehit.loadtest import source_addresses
from realizehit.loadtest.broker import Broker
from realizehit.loadtest.source_addresses import used_share, with_sources
from realizehit.loadtest.target import find_target
from realizehit.pattern import Pattern


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
def test_addresses_that_cannot_be_used_are_told(options: dict[str, str], error: str) -> None:
    with pytest.raises(SettingsError, match=error) as caught:
        find_target(**options)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_secrets_are_not_shown() -> None:
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
def test_keys_and_headers_that_cannot_be_used_are_told(options: dict[str, Any], error: str) -> None:
    with pytest.raises(SettingsError, match=error) as caught:
        find_target("ws://127.0.0.1/", **options)
    assert "secret" not in str(caught.value) or options["headers"] == ["secret"]


def test_no_source_address_uses_more_than_a_quarter_of_its_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_addresses, "ports", lambda: 28_000)
    target = find_target("ws://127.0.0.1:1/ws")
    assert with_sources(target, 7000).sources == ()
    assert with_sources(target, 7001).sources == ("127.0.0.2", "127.0.0.3")
    assert with_sources(target, 5, ("127.0.0.9",)).sources == ("127.0.0.9",)
    many = with_sources(target, 7_000_000)
    assert len(set(many.sources)) == 1000
    assert used_share(many, 7_000_000) == 0.25
    assert used_share(target, 7000) == 0.25
    assert used_share(with_sources(target, 28_000, ("127.0.0.8", "127.0.0.9")), 28_000) == 0.5


def test_the_ports_are_those_that_the_system_gives_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = tmp_path / "range"
    monkeypatch.setattr(source_addresses, "_RANGE", place)
    assert source_addresses.ports() == 28_232  # as on a system that does not tell
    place.write_text("1024\t65535\n")
    assert source_addresses.ports() == 64_512


def test_a_broker_that_is_not_there_is_told_without_its_password() -> None:
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
