"""Settings: where they come from, what wins, and what each error says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from realizehit.errors import SettingsError
from realizehit.settings import OPTIONS, Settings, choices_of, flag_of, is_list, load, type_of, variable_of

NAMES = [option.name for option in OPTIONS]

KEPT = {
    "REDIS_URI": "redis",
    "SERVER_HOST": "host",
    "SERVER_PORT": "port",
    "SERVER_WS_PORT": "ws_port",
    "SERVER_API_PORT": "api_port",
    "SERVER_API_PREFIX": "prefix",
    "ENDPOINT": "endpoint",
    "ENDPOINT_WS": "endpoint_ws",
    "ENDPOINT_API": "endpoint_api",
}


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "realizehit.toml"


def test_the_defaults() -> None:
    settings, origin = load()
    assert settings == Settings()
    assert settings.host == "127.0.0.1"
    assert settings.ws_listen == settings.api_listen == ("127.0.0.1", 8080)
    assert settings.one_port
    assert origin == dict.fromkeys(NAMES, "default")


def test_names_of_flags_and_variables() -> None:
    assert {variable: name for name in NAMES if (variable := variable_of(name)) in KEPT} == KEPT
    assert len({variable_of(name) for name in NAMES}) == len(NAMES)
    for name in set(NAMES) - set(KEPT.values()):
        assert variable_of(name) == f"REALIZEHIT_{name.upper()}"
    assert flag_of("max_queue_bytes") == "--max-queue-bytes"
    assert all(option.metadata["help"] for option in OPTIONS)


def test_a_flag_wins_over_the_environment_and_that_over_the_file(toml: Path) -> None:
    toml.write_text('host = "::1"\nport = 1\nworkers = 2\ndrain-seconds = 3\naccess_log = true\n')
    settings, origin = load(
        {"port": 3, "host": None}, {"SERVER_PORT": "2", "REALIZEHIT_WORKERS": "4", "ENDPOINT": "", "PATH": "x"}, toml
    )
    assert (settings.host, settings.port, settings.workers) == ("::1", 3, 4)
    assert settings.drain_seconds == 3.0
    assert type(settings.drain_seconds) is float
    assert settings.access_log is True
    assert settings.endpoint is None
    wanted = {"host": "file", "port": "flag", "workers": "environment", "drain_seconds": "file", "access_log": "file"}
    assert {name: place for name, place in origin.items() if place != "default"} == wanted


@pytest.mark.parametrize("name", NAMES)
def test_each_option_is_read_from_the_environment(name: str) -> None:
    texts: dict[Any, tuple[str, Any]] = {int: ("7", 7), float: ("2.5", 2.5), bool: ("on", True), str: ("/x/", "/x/")}
    text, value = texts[type_of(name)]
    if choices_of(name):
        text = value = choices_of(name)[-1]
    if is_list(name):
        text, value = "a=b, c", ("a=b", "c")
    settings, origin = load({}, {variable_of(name): text})
    assert getattr(settings, name) == value
    assert origin[name] == "environment"


@pytest.mark.parametrize("text", ["1", "true", "YES", "On", "0", "false", "No", "oFF"])
def test_booleans_in_the_environment(text: str) -> None:
    wanted = text.lower() in ("1", "true", "yes", "on")
    assert load({}, {"REALIZEHIT_ACCESS_LOG": text})[0].access_log is wanted


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"SERVER_PORT": "http"}, "SERVER_PORT: 'http' is not a whole number"),
        ({"SERVER_PORT": "1.5"}, "SERVER_PORT: '1.5' is not a whole number"),
        ({"SERVER_PORT": "65536"}, "--port (SERVER_PORT): 65536 is not a port; use 0 to 65535"),
        ({"SERVER_WS_PORT": "-1"}, "--ws-port (SERVER_WS_PORT): -1 is not a port; use 0 to 65535"),
        ({"SERVER_API_PORT": "70000"}, "--api-port (SERVER_API_PORT): 70000 is not a port; use 0 to 65535"),
        ({"REALIZEHIT_DRAIN_SECONDS": "soon"}, "REALIZEHIT_DRAIN_SECONDS: 'soon' is not a number"),
        (
            {"REALIZEHIT_DRAIN_SECONDS": "-1"},
            "--drain-seconds (REALIZEHIT_DRAIN_SECONDS): -1.0 is out of range; use 0 to 86400 seconds",
        ),
        (
            {"REALIZEHIT_DRAIN_SECONDS": "nan"},
            "--drain-seconds (REALIZEHIT_DRAIN_SECONDS): nan is out of range; use 0 to 86400 seconds",
        ),
        ({"REALIZEHIT_ACCESS_LOG": "maybe"}, "REALIZEHIT_ACCESS_LOG: 'maybe' is not yes or no"),
        ({"REALIZEHIT_ROLE": "both"}, "REALIZEHIT_ROLE: 'both' is not one of all, ws, api"),
        ({"REALIZEHIT_RELAY": "maybe"}, "REALIZEHIT_RELAY: 'maybe' is not one of auto, on, off"),
        ({"REALIZEHIT_LOG_FORMAT": "xml"}, "REALIZEHIT_LOG_FORMAT: 'xml' is not one of text, json"),
        ({"REALIZEHIT_LOG_LEVEL": "loud"}, "REALIZEHIT_LOG_LEVEL: 'loud' is not one of debug, info, warning, error"),
        (
            {"SERVER_API_PREFIX": "api"},
            "--prefix (SERVER_API_PREFIX): 'api' is not a path; use / and then letters, digits, . _ ~ - /",
        ),
        (
            {"SERVER_API_PREFIX": "/{x}"},
            "--prefix (SERVER_API_PREFIX): '/{x}' is not a path; use / and then letters, digits, . _ ~ - /",
        ),
        ({"REALIZEHIT_WORKERS": "0"}, "--workers (REALIZEHIT_WORKERS): 0 is out of range; use 1 to 1024"),
        ({"REALIZEHIT_WORKERS": "1025"}, "--workers (REALIZEHIT_WORKERS): 1025 is out of range; use 1 to 1024"),
        (
            {"REALIZEHIT_WORKERS": "2", "REDIS_URI": "memory://"},
            "--redis (REDIS_URI): memory:// lives in one process and cannot serve several workers",
        ),
        (
            {"REALIZEHIT_MAX_BATCH_MESSAGES": "0"},
            "--max-batch-messages (REALIZEHIT_MAX_BATCH_MESSAGES): 0 is out of range; use 1 to 1073741824",
        ),
        (
            {"REALIZEHIT_MAX_QUEUE_MESSAGES": "65536"},
            "--max-queue-messages (REALIZEHIT_MAX_QUEUE_MESSAGES): 65536 is over 65535",
        ),
        (
            {"REALIZEHIT_HEARTBEAT_INTERVAL": "0"},
            "--heartbeat-interval (REALIZEHIT_HEARTBEAT_INTERVAL): 0.0 is below 0.05 seconds",
        ),
        (
            {"REALIZEHIT_HANDSHAKE_TIMEOUT": "0"},
            "--handshake-timeout (REALIZEHIT_HANDSHAKE_TIMEOUT): 0.0 is below 0.05 seconds",
        ),
    ],
)
def test_error_texts(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load({}, environ)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port = ", "{file}: is not TOML: Invalid value (at end of document)"),
        ("colour = 1", "{file}: unknown key 'colour'; known are access_log, allow_origin, api_port, "),
        ("[server]\nport = 1", "{file}: unknown key 'server'; known are "),
        ('port = "1x"', "{file}: port: '1x' is not a whole number"),
        ("port = 1.0", "{file}: port: 1.0 is of the wrong type"),
        ("port = true", "{file}: port: True is of the wrong type"),
        ("drain-seconds = true", "{file}: drain_seconds: True is of the wrong type"),
        ("access-log = 1", "{file}: access_log: 1 is of the wrong type"),
        ("host = 1", "{file}: host: 1 is of the wrong type"),
        ('role = "both"', "{file}: role: 'both' is not one of all, ws, api"),
    ],
)
def test_what_an_error_in_the_file_says(toml: Path, text: str, message: str) -> None:
    toml.write_text(text)
    with pytest.raises(SettingsError) as raised:
        load({}, {}, toml)
    assert str(raised.value).startswith(message.format(file=toml))


def test_a_file_that_cannot_be_read(toml: Path) -> None:
    with pytest.raises(SettingsError) as raised:
        load({}, {}, toml)
    assert str(raised.value) == f"{toml}: cannot be read: No such file or directory"
    toml.write_bytes(b"host = '\xff'")
    with pytest.raises(SettingsError, match="is not TOML: 'utf-8' codec can't decode"):
        load({}, {}, toml)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('trusted-proxies = ["10.0.0.0/8", "unix"]', ("10.0.0.0/8", "unix")),
        ('trusted-proxies = "10.0.0.0/8,unix"', ("10.0.0.0/8", "unix")),
        ("trusted-proxies = []", ()),
    ],
)
def test_lists_in_the_file(toml: Path, text: str, wanted: tuple[str, ...]) -> None:
    toml.write_text(text)
    assert load({"trusted_proxies": ()}, {}, toml)[0].trusted_proxies == wanted
    toml.write_text("trusted-proxies = [1]")
    with pytest.raises(SettingsError, match=r"trusted_proxies: \[1\] is not a list of texts"):
        load({}, {}, toml)


def test_a_list_survives_json() -> None:
    settings = Settings(identify=["user=X-User"])  # type: ignore[arg-type]
    assert settings == Settings(identify=("user=X-User",))


def test_a_secret_has_no_flag() -> None:
    assert [name for name in NAMES if not flag_of(name)] == ["jwt_secret"]
    assert "s3cret" not in repr(Settings(jwt_secret="s3cret"))


def test_the_prefix_ends_with_a_slash() -> None:
    assert Settings(prefix="/realizehit/v1").prefix == "/realizehit/v1/"
    assert Settings(prefix="/").prefix == "/"


@pytest.mark.parametrize(
    ("ports", "ws", "api", "one"),
    [
        ({"port": 0}, 0, 0, True),
        ({"ws_port": 1}, 1, 8080, False),
        ({"api_port": 2}, 8080, 2, False),
        ({"ws_port": 3, "api_port": 3}, 3, 3, True),
        ({"ws_port": 0, "api_port": 0}, 0, 0, False),
        ({"port": 0, "ws_port": 0}, 0, 0, False),
    ],
)
def test_ports(ports: dict[str, int], ws: int, api: int, one: bool) -> None:
    settings = Settings(**ports)  # type: ignore[arg-type]
    assert settings.ws_listen[1] == ws
    assert settings.api_listen[1] == api
    assert settings.one_port is one


def test_settings_are_frozen_and_do_not_show_the_password() -> None:
    settings = Settings(redis="redis://user:hunter2@host")
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.port = 1  # type: ignore[misc]
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    "text",
    [
        '[redis]\nurl = "redis://:hunter2@h"',
        'jwt-secret = ["hunter2"]',
        'jwt-secret = { value = "hunter2" }',
        'redis = ["redis://:hunter2@h"]',
        "jwt-secret = 'hunter2\n",
        'port = "redis://:hunter2@h"',
        'role = "redis://:hunter2@h"',
        '[[allow-origin]]\nurl = "https://ann:hunter2@h"',
    ],
)
def test_no_error_shows_a_secret(toml: Path, text: str) -> None:
    toml.write_text(text)
    with pytest.raises(SettingsError) as raised:
        load({}, {}, toml)
    assert "hunter2" not in str(raised.value)
    assert str(toml) in str(raised.value)


def test_a_mistyped_key_gets_a_suggestion_without_the_byte_order_mark(toml: Path) -> None:
    toml.write_bytes(b"\xef\xbb\xbfprot = 1")
    with pytest.raises(SettingsError, match="unknown key 'prot'; did you mean port"):
        load({}, {}, toml)
