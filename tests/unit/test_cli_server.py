"""``realizehit-server``: its flags, ``check-config``, and what it says at start."""

from __future__ import annotations

import json
import logging
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner, Result

import realizehit
from realizehit.access.keys import generate
from realizehit.cli import banner
from realizehit.cli.endpoints import DEFAULT_WS
from realizehit.cli.serve import serve
from realizehit.pattern import Pattern
from realizehit.settings import OPTIONS, Settings, flag_of, variable_of

NO_REACH = "needs a broker that the other servers reach too: set --redis (REDIS_URI) to a Redis or Valkey\n"
NO_SCHEME = (
    "unknown scheme; use one of memory://, redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, "
    "redis+cluster://, rediss+cluster://\n"
)
NO_VARIABLES = {**{variable_of(option.name): None for option in OPTIONS}, "REALIZEHIT_CONFIG": None}


def invoke(*words: str, **env: str) -> Result:
    set_here = dict.fromkeys((name for name in os.environ if name.startswith("REALIZEHIT_")), None)
    return CliRunner(env={**set_here, **NO_VARIABLES, **env}).invoke(serve, words, prog_name="realizehit-server")


def rows(result: Result) -> dict[str, list[str]]:
    """The table of check-config: value, origin and variable by flag."""
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["setting", "value", "from", "variable"]
    return {line[0]: line[1:] for line in lines[1:]}


def test_the_help_names_every_flag_and_variable() -> None:
    words = invoke("--help").stdout.replace("[", " ").replace(";", " ").replace("]", " ").split()
    for option in OPTIONS:
        assert not flag_of(option.name) or flag_of(option.name) in words
        assert variable_of(option.name) in words
    assert {"--config", "REALIZEHIT_CONFIG", "check-config"} <= set(words)


def test_version() -> None:
    assert invoke("--version").stdout == f"realizehit-server, version {realizehit.__version__}\n"


def test_check_config_shows_each_setting_and_its_origin(tmp_path: Path) -> None:
    file = tmp_path / "it.toml"
    file.write_text("workers = 3\nport = 1\n")
    table = rows(
        invoke(
            "check-config", "--config", str(file), "--port", "2", "--access-log", REALIZEHIT_ROLE="all", ENDPOINT="x"
        )
    )
    assert list(table) == [flag_of(option.name) or "-" for option in OPTIONS]
    assert table["--port"] == ["2", "flag", "SERVER_PORT"]
    assert table["--workers"] == ["3", "file", "REALIZEHIT_WORKERS"]
    assert table["--endpoint"] == ["x", "environment", "ENDPOINT"]
    assert table["--role"] == ["all", "environment", "REALIZEHIT_ROLE"]
    assert table["--access-log"] == ["on", "flag", "REALIZEHIT_ACCESS_LOG"]
    assert table["--redis"] == ["-", "default", "REDIS_URI"]


def test_flags_stand_before_or_after_check_config() -> None:
    table = rows(invoke("--port", "1", "--workers", "2", "check-config", "--port", "3"))
    assert table["--port"][0] == "3"
    assert table["--workers"][0] == "2"


def test_the_file_can_be_named_by_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "it.toml"
    file.write_text('prefix = "/v1"')
    assert rows(invoke("check-config", REALIZEHIT_CONFIG=str(file)))["--prefix"][:2] == ["/v1/", "file"]


def test_check_config_shows_no_password() -> None:
    result = invoke("check-config", REDIS_URI="rediss://user:hunter2@broker:6379/0?ssl_password=hunter2")
    assert rows(result)["--redis"][0] == "rediss://user:***@broker:6379/0?ssl_password=***"
    assert "hunter2" not in result.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], {
            "listens": "127.0.0.1:8080 for WebSocket clients and publishers (this machine alone)",
            "broker": "an embedded Valkey, which no other server reaches",
            "publishers": "clients on this machine that come through no proxy, without a key",
            "subscribers": "everybody, to everything",
            "identities": "none: clients are not told apart",
            "pages": "this server's own",
            "console": "off",
        }),
        (["--host", "::", "--api-port", "0", "--workers", "4", "--unix-socket", "/s", "--redis", "redis://:hidden@b"], {
            "listens": "[::]:8080 for WebSocket clients (every interface); "
                       "[::]:a free port for publishers (every interface); the Unix socket /s",
            "broker": "redis://:***@b",
            "workers": "4, with a relay",
        }),
        (["--role", "api", "--redis", "redis://b", "--host", "10.1.2.3", "--insecure-publish"], {
            "listens": "10.1.2.3:8080 for publishers",
            "publishers": "everybody, without a key (--insecure-publish)",
        }),
        (["--role", "ws", "--redis", "redis://b", "--console", "--allow-origin", "https://a.example"], {
            "publishers": "nobody here (--role ws)",
            "pages": "this server's own, https://a.example",
            "console": "/console, for browsers on this machine",
        }),
        (["--keys", "keys", "--grants", "grants", "--allow-origin", "*", "--redis", "memory://"], {
            "broker": "memory://, inside this one process",
            "publishers": "clients with a key: all (everything), few (1 pattern, 5 messages/s)",
            "subscribers": "clients that one of 2 grants allows",
            "pages": "of any origin (--allow-origin '*')",
        }),
        (["--keys", "empty", "--grants", "empty"], {
            "publishers": "nobody: there is no key in empty",
            "subscribers": "nobody: there is no grant",
        }),
        (["--identify", "user=X-User", "--jwt-algorithm", "HS256", "--jwt-claim", "group=grp"], {
            "identities": "user from the header X-User of nobody: no proxy is trusted; "
                          "group from the claim grp of a token (HS256)",
            "subscribers": "everybody, to everything but what belongs to another client's identity",
            "ignored": "variables that this server does not know: REALIZEHIT_STRANGE",
        }),
    ],
)  # fmt: skip
def test_check_config_tells_what_the_server_would_do(
    words: list[str], told: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = generate("few")[1] + 'rate = 5\ngrants = [{ kind = "news" }]\n'
    tmp_path.joinpath("keys").write_text(generate("all")[1] + few)
    tmp_path.joinpath("grants").write_text('[[grant]]\npattern = { a = "b" }\n[[grant]]\npattern = { c = "*" }\n')
    tmp_path.joinpath("empty").write_text("")
    secret = {"REALIZEHIT_JWT_SECRET": "hidden" * 8} if "--jwt-claim" in words else {}
    result = invoke("check-config", *words, REALIZEHIT_STRANGE="hidden", **secret)
    assert result.exit_code == 0, result.output
    lines = [line.split(maxsplit=1) for line in result.stderr.splitlines()]
    found = {name: text.rstrip() for name, text in lines}
    assert told.items() <= found.items()
    assert "hidden" not in result.output.replace("REALIZEHIT_STRANGE", "")


@pytest.mark.parametrize("command", [[], ["check-config"]])
@pytest.mark.parametrize(
    ("words", "env", "message"),
    [
        ([], {"SERVER_PORT": "x"}, "Error: SERVER_PORT: 'x' is not a whole number\n"),
        (["--port", "70000"], {}, "Error: --port (SERVER_PORT): 70000 is not a port; use 0 to 65535\n"),
        (["--config", "/does/not/exist"], {}, "Error: /does/not/exist: cannot be read: No such file or directory\n"),
        (
            ["--workers", "2", "--redis", "memory://"],
            {},
            "Error: --redis (REDIS_URI): memory:// lives in one process and cannot serve several workers\n",
        ),
        (
            ["--redis", "amqp://user:hunter2@broker"],
            {},
            f"Error: broker URL 'amqp://user:***@broker': {NO_SCHEME}",
        ),
        (
            ["--role", "ws"],
            {},
            f"Error: --role ws {NO_REACH}",
        ),
        (
            ["--role", "api", "--redis", "memory://x"],
            {},
            f"Error: --role api {NO_REACH}",
        ),
    ],
)
def test_settings_that_cannot_be_used_end_with_2(
    command: list[str], words: list[str], env: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realizehit.logs.lines.configure", lambda *_: None)  # the log of this process is pytest's
    result = invoke(*command, *words, **env)
    assert result.stderr == message
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("given", "ws", "api"),
    [
        ({}, "ws://127.0.0.1:1/ws", "http://127.0.0.1:1/p/"),
        ({"endpoint": "https://x.org"}, "wss://x.org/ws", "https://x.org/p/"),
        ({"endpoint": "x.org:8000"}, "ws://x.org:8000/ws", "http://x.org:8000/p/"),
        ({"endpoint": "http://x.org", "endpoint_ws": "wss://y.org/deep/ws"}, "wss://y.org/deep/ws", "http://x.org/p/"),
        ({"endpoint_api": "https://x.org/api/"}, "ws://127.0.0.1:1/ws", "https://x.org/api/"),
    ],
)
def test_public_addresses(given: dict[str, str], ws: str, api: str) -> None:
    settings = Settings(prefix="/p/", **given)  # type: ignore[arg-type]
    assert banner.public_ws(settings, "ws://127.0.0.1:1/ws") == ws
    assert banner.public_api(settings, "http://127.0.0.1:1/p/") == api


EXPOSED = "--host 0.0.0.0 is reached from other machines"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, []),
        ({"host": "localhost"}, []),
        ({"host": "127.0.0.2", "insecure_publish": True}, []),
        ({"host": "::1"}, []),
        ({"host": "0.0.0.0"}, [EXPOSED]),
        ({"host": "::"}, ["--host :: is reached"]),
        ({"host": "192.0.2.1"}, ["--host 192.0.2.1 is reached"]),
        ({"host": "rt.example.org"}, ["--host rt.example.org is reached"]),
        ({"host": "0.0.0.0", "grants": "g.toml"}, []),
        ({"host": "0.0.0.0", "role": "api"}, []),
        ({"host": "0.0.0.0", "jwt_claims": ("user=sub",)}, ["everything but what belongs to others' identities"]),
        ({"host": "0.0.0.0", "insecure_publish": True}, [EXPOSED, "--insecure-publish: everybody"]),
        ({"host": "0.0.0.0", "insecure_publish": True, "role": "ws"}, [EXPOSED]),
        ({"host": "0.0.0.0", "insecure_publish": True, "role": "api"}, ["--insecure-publish: everybody"]),
        ({"identify": ("user=X-User",)}, ["--identify without --trusted-proxies"]),
        ({"identify": ("user=X-User",), "trusted_proxies": ("unix",)}, []),
        ({"allow_origin": ("*",)}, []),
        (
            {"identify": ("user=X-User",), "trusted_proxies": ("unix",), "allow_origin": ("*",)},
            ["--allow-origin '*' with --identify"],
        ),
    ],
)
def test_what_is_probably_not_meant(options: dict[str, Any], said: list[str], caplog: pytest.LogCaptureFixture) -> None:
    banner.warn(Settings(**options))
    assert len(caplog.messages) == len(said)
    for message, part in zip(caplog.messages, said, strict=True):
        assert part in message


def test_check_config_says_what_is_probably_not_meant() -> None:
    result = invoke("check-config", "--host", "0.0.0.0")
    assert result.exit_code == 0
    assert f"Warning: {EXPOSED}" in result.stderr
    assert "Warning" not in invoke("check-config").stderr


def test_the_lines_to_paste() -> None:
    assert banner.subscribe_line(DEFAULT_WS) == "realizehit subscribe kind=news channel=CNN"
    other = banner.subscribe_line("ws://h/a b")
    assert shlex.split(other) == ["realizehit", "subscribe", "--url", "ws://h/a b", "kind=news", "channel=CNN"]
    curl, url, flag, header, data, body = shlex.split(banner.curl_line("http://h/?x=1&y=2"))
    assert (curl, url, flag, header, data) == (
        "curl",
        "http://h/?x=1&y=2",
        "-H",
        "Content-Type: application/json",
        "-d",
    )
    message = json.loads(body)
    assert set(message) == {"pattern", "payload"}
    assert Pattern(message["pattern"]) == Pattern(kind="news", channel="CNN")


@pytest.mark.parametrize(
    ("role", "there", "absent"),
    [
        ("all", ["WebSocket  ws://w/ws", "API        http://a/", "realizehit subscribe", "curl http://a/"], []),
        ("ws", ["WebSocket  ws://w/ws", "realizehit subscribe"], ["API", "curl"]),
        ("api", ["API        http://a/", "curl http://a/"], ["WebSocket", "subscribe", "console"]),
    ],
)
def test_messages_at_start(role: Any, there: list[str], absent: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    banner.announce(Settings(role=role, redis="redis://:hunter2@b"), "ws://w/ws", "http://a/")
    text = capsys.readouterr().out
    assert all(part in text for part in there), text
    assert not any(part in text for part in absent), text
    assert "redis://:***@b" in text
    assert "hunter2" not in text


def test_all_addresses_of_a_name_are_printed_at_start(capsys: pytest.CaptureFixture[str]) -> None:
    banner.announce(Settings(), "ws://w/ws", "http://a/", ["127.0.0.1:1", "[::1]:1"])
    assert "  listens    127.0.0.1:1, [::1]:1\n" in capsys.readouterr().out
    banner.announce(Settings(ws_port=1, api_port=2), "ws://w/ws", "http://a/", ["127.0.0.1:1", "127.0.0.1:2"])
    assert "listens" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "ws", "line"),
    [
        ({}, "ws://127.0.0.1:8080/ws", "console    off; --console serves one"),
        ({"console": True}, "ws://127.0.0.1:8080/ws", "console    http://127.0.0.1:8080/console"),
        ({"console": True, "endpoint": "example.org"}, "wss://[::1]:1/ws", "console    https://[::1]:1/console"),
    ],
)
def test_the_console_is_named_where_this_machine_reaches_it(
    settings: dict[str, Any], ws: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    banner.announce(Settings(**settings), ws, "http://a/")
    assert f"  {line}\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["endpoint", "endpoint_ws", "endpoint_api"])
def test_a_public_address_that_cannot_be_read_is_a_wrong_setting(name: str) -> None:
    result = invoke("check-config", flag_of(name), "http://x:port/")
    assert result.exit_code == 2
    assert f"{flag_of(name)} ({variable_of(name)}): " in result.stderr
    assert "the port is not a number" in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "127.0.0.1:80"], "--host (SERVER_HOST): '127.0.0.1:80' is not an address; write a host alone"),
        (["--host", "http://x"], "--host (SERVER_HOST): 'http://x' is not an address"),
        (["--host", "[::1]"], "--host (SERVER_HOST): '[::1]' is not an address"),
        (["--host", "a b"], "--host (SERVER_HOST): 'a b' is not an address"),
        (["--trusted-proxies", "here"], "--trusted-proxies: 'here' is neither a network such as 10.0.0.0/8"),
        (["--tls-cert", "none", "--tls-key", "key"], "--tls-cert: none cannot be read: No such file or directory"),
        (["--tls-cert", "cert", "--tls-key", "none"], "--tls-key: none cannot be read: No such file or directory"),
        (["--tls-cert", "key", "--tls-key", "key"], "there is no certificate in PEM in key, or no key in key"),
        (["--tls-cert", "cert", "--tls-key", "other"], "the key in other is not that of the certificate"),
    ],
)
def test_what_check_config_finds_wrong_is_named(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (trustme.CA().issue_cert("x") for _ in range(2))
    first.cert_chain_pems[0].write_to_path("cert")
    first.private_key_pem.write_to_path("key")
    second.private_key_pem.write_to_path("other")
    result = invoke("check-config", *words)
    assert result.exit_code == 2
    assert said in result.stderr


def test_messages_at_start_with_json_logs(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    banner.announce(Settings(log_format="json"), "ws://w/ws", "http://a/")
    assert capsys.readouterr().out == ""
    (record,) = caplog.records
    fields: Any = vars(record)["fields"]
    assert (fields["ws"], fields["api"]) == ("ws://w/ws", "http://a/")
