"""What can be configured about access, and what an error says; origins; keys; explanations; tokens in logs."""

from __future__ import annotations

import logging
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from realizehit.access import hosts, origin, peers
from realizehit.access.gate import Gate
from realizehit.access.grants import read_grants
from realizehit.access.keys import Keys, digest_of, generate, read_keys
from realizehit.access.origins import Origins
from realizehit.access.shared_limits import SharedLimits
from realizehit.cli.main import main
from realizehit.cli.serve import serve
from realizehit.errors import AccessDenied, SettingsError
from realizehit.logs.lines import HideSecrets
from realizehit.settings import Settings

TOKENS: dict[str, Any] = {"jwt_secret": "s" * 32, "jwt_algorithms": ("HS256",), "jwt_claims": ("user=sub",)}
GRANTS = """
[[grant]]
name = "own"
pattern = {user = "$user", kind = ["news", "chat"]}
[[grant]]
pattern = {kind = "weather", place = "*"}
"""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"identify": ("user",)}, "--identify: 'user' is not a pair"),
        ({"identify": ("user=X User",)}, "'X User' is not the name of a header"),
        ({"identify": ("user=X-User",), **TOKENS}, "'user' comes from a header (--identify) and a claim"),
        ({"trusted_proxies": ("10.0.0.0/33",)}, "'10.0.0.0/33' is neither a network"),
        ({"jwt_claims": ("user=sub",)}, "tokens need a key"),
        ({"jwt_algorithms": ("HS256",)}, "tokens need a key"),
        ({**TOKENS, "jwt_algorithms": ()}, "tokens need --jwt-algorithm"),
        ({**TOKENS, "jwt_claims": ()}, "tokens need --jwt-algorithm, such as HS256, and --jwt-claim"),
        ({**TOKENS, "jwt_key_file": "x"}, "are both set"),
        ({**TOKENS, "jwt_secret": "short"}, "has 5 bytes"),
        ({**TOKENS, "jwt_secret": None, "jwt_key_file": "{dir}/none"}, "{dir}/none: cannot be read: No such file"),
        ({"grants": "{dir}/none"}, "{dir}/none: cannot be read: No such file"),
        ({"keys": "{dir}/broken"}, "{dir}/broken: is not TOML"),
        ({"keys": "{dir}/keys", "insecure_publish": True}, "choose one"),
        ({"keys": "{dir}/empty", "insecure_publish": True}, "choose one"),
        ({**TOKENS, "jwt_secret": None, "jwt_key_file": "{dir}/empty"}, "has 0 bytes"),
        ({"allow_origin": ("example.org",)}, "'example.org' is not an origin"),
        ({"allow_origin": ("https://example.org/path",)}, "is not an origin"),
    ],
)
def test_invalid_configuration(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    tmp_path.joinpath("broken").write_text("= 1")
    tmp_path.joinpath("empty").touch()
    tmp_path.joinpath("keys").write_text(generate("a")[1])
    filled: dict[str, Any] = {
        name: value.format(dir=tmp_path) if isinstance(value, str) else value for name, value in options.items()
    }
    with pytest.raises(SettingsError) as raised:
        Gate(Settings(**filled), clock=lambda: 0.0)
    assert said.format(dir=tmp_path) in str(raised.value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"grants": []}, "unknown key 'grants'"),
        ({"grant": {}}, "two brackets"),
        ({"grant": [{}]}, "grant 1: a grant has a pattern"),
        ({"grant": [{"pattern": {}}, {"pattern": {}, "x": 1}]}, "grant 2: a grant has a pattern"),
        ({"grant": [{"pattern": []}]}, "grant 1: pattern is not a table"),
        ({"grant": [{"pattern": {"kind": []}}]}, "kind has an empty list"),
        ({"grant": [{"pattern": {"kind": None}}]}, "grant 1: the value of 'kind' is null"),
        ({"grant": [{"pattern": {"kind": "$who"}}]}, "$who is not a key of identities (known are $user)"),
        ({"grant": [{"pattern": {"*": "*"}}]}, "grant 1: "),
        ({"grant": [{"pattern": {"kind": "v" * 257}}]}, "256"),
        ({"grant": [{"pattern": {}, "name": 1}]}, "the name is not a text"),
    ],
)
def test_invalid_grants(table: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        read_grants(table, "grants.toml", ["user"])
    assert str(raised.value).startswith("grants.toml: ")
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "a b", "sha256": "0" * 64}, "'a b' cannot be used"),
        ({"sha256": "0" * 64}, "None cannot be used"),
        ({"name": "a"}, "sha256 is not 64"),
        ({"name": "a", "sha256": "X" * 64}, "sha256 is not 64"),
        ({"name": "a", "sha256": "0" * 64, "rate": 0}, "rate is not a number"),
        ({"name": "a", "sha256": "0" * 64, "rate": True}, "rate is not a number"),
        ({"name": "a", "sha256": "0" * 64, "grants": {}}, "grants is not a list"),
        ({"name": "a", "sha256": "0" * 64, "grants": [{"user": "$user"}]}, "none can be used here"),
        ({"name": "a", "sha256": "0" * 64, "secret": 1}, "unknown key 'secret'"),
    ],
)
def test_invalid_keys(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        read_keys({"key": [entry]}, "keys.toml")
    assert str(raised.value).startswith("keys.toml: key 1: ")
    assert said in str(raised.value)


def test_find_returns_only_the_presented_key() -> None:
    entries = []
    made = [generate(name) for name in "abc"]
    for name, (key, lines) in zip("abc", made, strict=True):
        assert f'name = "{name}"' in lines
        assert key not in lines
        entries.append({"name": name, "sha256": digest_of(key.encode())})
    keys = read_keys({"key": entries}, "keys.toml")
    assert [getattr(keys.find(key.encode()), "name", None) for key, _ in made] == ["a", "b", "c"]
    assert keys.find(b"") is None
    assert keys.find(entries[0]["sha256"].encode()) is None
    assert len({key for key, _ in made}) == 3
    assert Keys([]).find(b"x") is None
    with pytest.raises(SettingsError, match="also that of 'a'"):
        read_keys({"key": [entries[0], {**entries[1], "sha256": entries[0]["sha256"]}]}, "keys.toml")


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "x", True),
        ("http://x", "x", True),
        ("http://X:80", "x", True),
        ("https://x", "x:443", True),
        ("https://x", "x", True),
        ("http://x:8080", "x:8080", True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("https://app.example", "x", True),
        ("http://x:8080", "x", False),
        ("http://y", "x", False),
        ("http://x.y", "x", False),
        ("http://x", None, False),
        ("http://app.example", "x", False),
        ("null", "x", False),
        ("", "", False),
        ("http://", "", False),
        ("http://x:port", "x:port", False),
        ("http://x/path", "x/path", False),
        ("http://a@x", "a@x", False),
        ("file://x", "x", False),
        ("http://[x", "[x", False),
    ],
)
def test_origins(origin: str | None, host: str | None, allowed: bool) -> None:
    known = Origins(["https://APP.example:443"])
    given = [None if text is None else text.encode() for text in (origin, host)]
    assert known.allows(*given) is allowed


def test_any_origin() -> None:
    assert Origins(["*"]).allows(b"null", b"x")


PUBLIC: dict[str, Any] = {
    "allow_origin": ("https://App.example:443/",),
    "endpoint_ws": "wss://rt.example/ws",
    "endpoint": "old.example:99",
}


@pytest.mark.parametrize("origin", [False, True])
@pytest.mark.parametrize(
    ("host", "options", "allowed"),
    [
        ("localhost:8080", {}, True),
        ("LOCALHOST", {}, True),
        ("realizehit.localhost:8080", {}, True),
        ("127.0.0.1:8080", {}, True),
        ("[::1]:8080", {}, True),
        ("192.0.2.1", {}, True),  # a page at an address cannot have it point elsewhere
        ("evil.example:8080", {}, False),
        ("evil:8080", {"host": "localhost"}, False),
        ("evil:8080", {"host": "::1"}, False),
        ("localhost.evil.example", {}, False),
        ("127.0.0.1.evil.example", {}, False),
        ("evil.example/localhost", {}, False),
        ("localhost@evil.example", {}, False),
        ("localhost:evil", {}, False),
        ("[::1", {}, False),
        ("", {}, False),
        *(
            (name, PUBLIC, True)
            for name in ("app.example", "app.example.:443", "RT.example", "old.example", "localhost")
        ),
        ("evil.example", PUBLIC, False),
        ("evil.example", {"host": "0.0.0.0"}, True),
        ("evil.example", {"allow_origin": ("*",)}, True),
        ("evil.example", {"trusted_proxies": ("127.0.0.1",)}, True),
        ("evil.example", {"trusted_proxies": ("10.0.0.1",)}, False),
    ],
)
def test_a_server_on_loopback_knows_its_names(host: str, options: dict[str, Any], allowed: bool, origin: bool) -> None:
    gate = Gate(Settings(**options), clock=lambda: 0.0)
    headers = {b"host": host.encode(), b"x-forwarded-for": b"192.0.2.1"}  # which a page can send, too
    if origin and host:
        headers[b"origin"] = b"http://" + host.encode()
    with nullcontext() if allowed else pytest.raises(AccessDenied, match="--allow-origin"):
        gate.clients.open("127.0.0.1", headers, frozenset(), b"")
    assert gate.refusals.counts["host"] + gate.refusals.counts["origin"] == (not allowed)


def test_allowed_pages_may_use_any_host_and_requests_without_host_pass() -> None:
    gate = Gate(Settings(**PUBLIC), clock=lambda: 0.0)
    for headers in ({b"host": b"other.example", b"origin": b"https://app.example"}, {}):
        gate.clients.open("127.0.0.1", headers, frozenset(), b"")


@pytest.fixture
def grants(tmp_path: Path) -> str:
    file = tmp_path / "grants.toml"
    file.write_text(GRANTS)
    return str(file)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--identity", "user=42", "--pattern", "user=42,kind=chat"], 0, "yes: grant 1 (own) allows it"),
        (["--identity", "user=42", "--pattern", "kind=news"], 1, "no: the nearest is grant 1 (own): user is missing"),
        (["--pattern", "kind=weather"], 1, "no: the nearest is grant 2: place is missing"),
        (["--pattern", "kind=weather", "--pattern", "place=*"], 0, "yes: grant 2 allows it"),
        (["--pattern", "kind=news,user=42"], 1, "$user, which the identity lacks"),
        (["--identity", "user=", "--pattern", "a=b"], 2, "'user=' is not a pair"),
        (["--pattern", "a"], 2, "not a filter"),
    ],
)
def test_can(grants: str, words: list[str], status: int, said: str) -> None:
    result = CliRunner().invoke(main, ["can", "--grants", grants, *words])
    assert said in result.output
    assert result.exit_code == status


@pytest.mark.parametrize(
    ("pattern", "allowed", "said"),
    [
        ("user=42,kind=news,**", True, "grant 1 (own) allows it"),
        ("kind=weather,place=*,**", True, "grant 2 allows it"),
        ("user=42,kind=*", False, "(own): kind is a wildcard, which also matches other values than 'chat' or 'news'"),
        ("user=*,kind=news", False, "(own): user is a wildcard, which also matches other values than '42'"),
        ("kind=weather,**", False, "grant 2: place is missing, and '*': '*' does not stand for it"),
        ("**", False, "'*': '*' does not stand for it; kind is missing"),
        ("realizehit=*", False, "this is the servers' own"),
    ],
)
def test_can_explains_wildcards_with_grants(grants: str, pattern: str, allowed: bool, said: str) -> None:
    result = CliRunner().invoke(main, ["can", "--grants", grants, "--identity", "user=42", "--pattern", pattern])
    assert result.output.startswith("yes: " if allowed else "no: ")
    assert said in result.output
    assert result.exit_code == (not allowed)


@pytest.mark.parametrize(
    ("option", "pattern", "allowed", "said"),
    [
        ("--identity=user=42", "user=42,**", True, "there is no file of grants"),
        ("--identity=user=42", "kind=*", True, "there is no file of grants"),
        ("--identity=user=42", "kind=news,**", False, "'*': '*' also matches other clients' user; add user=42"),
        ("--identity=user=42", "user=*", False, "user is a wildcard, which also matches others than the client's '42'"),
        (
            "--key=user",
            "**",
            False,
            "'*': '*' also matches user; user belongs to identities, and the client's has none",
        ),
        ("--key=user", "user=*", False, "user belongs to identities, and the client's has none"),
    ],
)
def test_can_explains_wildcards_without_grants(option: str, pattern: str, allowed: bool, said: str) -> None:
    result = CliRunner().invoke(main, ["can", option, "--pattern", pattern])
    assert result.output.startswith("yes: " if allowed else "no: ")
    assert said in result.output
    assert result.exit_code == (not allowed)


def test_can_where_wildcards_are_off(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("wildcards = false\n")
    result = CliRunner().invoke(main, ["can", "--config", str(file), "--pattern", "kind=*"])
    assert (result.exit_code, result.output) == (1, "no: this server does not serve wildcards (--no-wildcards)\n")
    assert CliRunner().invoke(main, ["can", "--config", str(file), "--pattern", "kind=news"]).exit_code == 0


def test_can_without_grants_and_with_invalid_grants(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["can", "--identity", "user=42", "--pattern", "user=43"])
    assert (result.exit_code, result.output) == (1, "no: user is '43', not the client's own '42'\n")
    result = CliRunner().invoke(main, ["can", "--key", "user", "--pattern", "user=43"])
    assert result.exit_code == 1
    file = tmp_path / "grants.toml"
    file.write_text("[[grant]]\npattern = 1\n")
    result = CliRunner().invoke(main, ["can", "--grants", str(file), "--pattern", "a=b"])
    assert (result.exit_code, "grant 1: pattern is not a table" in result.output) == (2, True)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--pattern", "user=43"], 1, "no: user belongs to identities, and the client's has none"),
        (["--identity", "user=42", "--pattern", "user=43"], 1, "no: user is '43', not the client's own '42'"),
        (["--identity", "user=42,zone=9", "--pattern", "user=42,zone=9"], 0, "yes: there is no file of grants"),
        (["--identity", "user=42", "--pattern", "kind=news"], 0, "yes: there is no file of grants"),
        (["--identity", "shop=1", "--pattern", "a=b"], 2, "not identify clients by 'shop', but by user, zone"),
        (["--pattern", "realizehit=stats"], 1, "no: this is the servers' own"),
        (["--grants", "{grants}", "--identity", "user=42", "--pattern", "kind=news"], 1, "(own): user is missing"),
        (["--grants", "{grants}", "--pattern", "kind=weather,place=x"], 0, "yes: grant 2 allows it"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("way", ["can", "can-by-environment", "check-config"])
def test_can_decides_like_a_server_with_the_same_settings(
    way: str, words: list[str], status: int, said: str, grants: str, tmp_path: Path
) -> None:
    words = [word.format(grants=grants) for word in words]
    tokens = f'jwt-secret = "{"s" * 32}"\njwt-algorithms = ["HS256"]\njwt-claims = ["zone=zone"]\n'
    file = tmp_path / "server.toml"
    file.write_text('identify = ["user=X-User"]\n' + tokens)
    if way == "can-by-environment":
        result = CliRunner(env={"REALIZEHIT_CONFIG": str(file)}).invoke(main, ["can", *words])
    elif way == "can":
        result = CliRunner().invoke(main, ["can", "--config", str(file), *words])
    else:
        result = CliRunner().invoke(serve, ["check-config", "--config", str(file), *words])
    assert said in result.output
    assert result.exit_code == status


def test_can_without_identities(tmp_path: Path, grants: str) -> None:
    file = tmp_path / "empty.toml"
    file.write_text("")
    result = CliRunner().invoke(main, ["can", "--config", str(file), "--pattern", "user=43"])
    assert (result.exit_code, result.output) == (
        0, "yes: there are neither grants nor identities, and everybody may have everything\n",
    )  # fmt: skip
    for more, said in (
        (["--identity", "user=1"], "by 'user', but by nothing"),
        (["--grants", grants], "$user is not a key"),
    ):
        result = CliRunner().invoke(main, ["can", "--config", str(file), "--pattern", "user=43", *more])
        assert (result.exit_code, said in result.output) == (2, True)
    # Variables say it as well, and what a server could not read is no decision.
    runner = CliRunner(env={"REALIZEHIT_IDENTIFY": "user=X-User"})
    assert runner.invoke(main, ["can", "--pattern", "user=43"]).exit_code == 1
    assert runner.invoke(main, ["can", "--config", str(tmp_path / "none"), "--pattern", "a=b"]).exit_code == 2
    result = runner.invoke(serve, ["check-config", "--identity", "user=1"])
    assert (result.exit_code, "--identity goes with --pattern" in result.output) == (2, True)


def test_check_config_looks_into_the_files(grants: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realizehit.logs.lines.configure", lambda *_: None)
    runner = CliRunner(
        env={"REALIZEHIT_JWT_SECRET": "s3cret" * 10, "REALIZEHIT_IDENTIFY": "user=X-User,device=X-Device"}
    )
    words = ["check-config", "--grants", grants, "--jwt-algorithm", "HS256", "--jwt-claim", "zone=zone"]
    result = runner.invoke(serve, words)
    assert result.exit_code == 0, result.output
    assert "s3cret" not in result.output
    assert "user=X-User, device=X-Device" in result.output
    Path(grants).write_text('[[grant]]\npattern = {a = "$b"}\n')
    result = runner.invoke(serve, words)
    assert (result.exit_code, "$b is not a key of identities" in result.output) == (2, True)


def test_gen_key() -> None:
    result = CliRunner().invoke(main, ["gen-key", "newsdesk"])
    key, _, lines = result.stdout.partition("\n\n")
    assert result.exit_code == 0
    assert lines == f'[[key]]\nname = "newsdesk"\nsha256 = "{digest_of(key.encode())}"\n'
    assert CliRunner().invoke(main, ["gen-key", "a b"]).exit_code == 2


def test_tokens_are_masked_in_access_logs() -> None:
    arguments = ("127.0.0.1:1", "GET", "/sse?pat=a=1&token=s3cret.x.y&b=1", "1.1", 200)
    record = logging.LogRecord("uvicorn.access", logging.INFO, "", 0, '%s - "%s %s HTTP/%s" %d', arguments, None)
    assert HideSecrets().filter(record)
    assert record.getMessage() == '127.0.0.1:1 - "GET /sse?pat=a=1&token=***&b=1 HTTP/1.1" 200'


def test_console_figures_are_only_for_local_clients() -> None:
    gate = Gate(Settings(console=True, host="0.0.0.0"), clock=lambda: 0.0)
    asked = [
        ("127.0.0.1", {b"host": b"localhost:8080"}),
        ("127.0.0.1", {b"x-forwarded-for": b"192.0.2.1"}),
        ("192.0.2.1", {}),
        ("127.0.0.1", {b"host": b"evil.example:8080"}),
    ]
    for conn, (peer, headers) in enumerate(asked):
        gate.connected.on_connected(conn, gate.clients.open(peer, headers, frozenset(), b""))
    assert [gate.connected.may_subscribe(conn, b"realizehit:stats") for conn in range(4)] == [True, False, False, False]
    assert all(gate.connected.may_subscribe(conn, b"kind:news") for conn in range(4))
    gate.connected.on_disconnected(0)
    assert not gate.connected.may_subscribe(0, b"realizehit:stats")


@pytest.mark.parametrize("text", ["", "# none\n", "key = []\n"])
def test_a_file_without_keys_allows_no_publisher(text: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(text)
    with pytest.raises(AccessDenied) as refused:
        Gate(Settings(keys=str(file)), clock=lambda: 0.0).publishers.authenticate("127.0.0.1", {})
    assert refused.value.reason == "bad_key"
    file.write_text(generate("a")[1])
    gate = Gate(Settings(keys=str(file)), clock=lambda: 0.0)
    file.write_text(text)  # the last key is revoked
    gate.reload()
    with pytest.raises(AccessDenied) as refused:
        gate.publishers.authenticate("127.0.0.1", {})
    assert refused.value.reason == "bad_key"


WHOLE = """[[key]]
name = "{name}"
sha256 = "{digest}"
grants = [
  {{kind = "news"}},
  {{kind = "weather"}},
]
rate = 10
"""


def may(gate: Gate, key: str, channel: bytes) -> bool:
    """Whether a key may publish to a channel."""
    try:
        found = gate.publishers.authenticate("192.0.2.1", {b"authorization": b"Bearer " + key.encode()})
    except AccessDenied:
        return False
    return found is not None and gate.publishers.check_channels(found, [channel]) == [None]


@pytest.mark.parametrize("rotated", [False, True])
def test_a_truncated_file_of_keys_allows_no_more(rotated: bool, tmp_path: Path) -> None:
    key, new = "rh_one", "rh_two" if rotated else "rh_one"
    whole = WHOLE.format(name="a", digest=digest_of(key.encode()))
    edited = WHOLE.format(name="a", digest=digest_of(new.encode()))
    file = tmp_path / "keys.toml"
    reloads = 0
    for end in range(len(edited) + 1):
        file.write_text(whole)
        gate = Gate(Settings(keys=str(file)), clock=lambda: 0.0)
        file.write_text(edited[:end])
        try:
            gate.reload()
        except SettingsError:
            assert may(gate, key, b"kind:news")  # all is as before
        else:
            reloads += 1
            assert may(gate, new, b"kind:weather") is (end > edited.index("grants") - 3)
        for presented in (key, new):
            assert not may(gate, presented, b"kind:sport")
        assert gate._policy.keys is not None
        assert all(known.rate == 10 for known in gate._policy.keys)
    assert reloads >= 4


def test_bounds_of_a_key_are_removed_explicitly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys.toml"
    lines = f'[[key]]\nname = "a"\nsha256 = "{digest_of(b"one")}"\n'
    file.write_text(lines + 'grants = [{kind = "news"}]\nrate = 5\n')
    gate = Gate(Settings(keys=str(file)), clock=lambda: 0.0)
    for _ in range(2):
        file.write_text(lines)
        gate.reload()
        assert not may(gate, "one", b"kind:sport")
    assert "the key a lost its grants" in caplog.text
    assert "the key a lost its rate" in caplog.text
    caplog.clear()
    file.write_text(lines + "grants = [{}]\nrate = 1000000000\n")
    gate.reload()
    assert may(gate, "one", b"kind:sport")
    assert caplog.text == ""
    assert may(Gate(Settings(keys=str(file)), clock=lambda: 0.0), "one", b"kind:sport")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("grants", '[[grant]]\n[grant.pattern]\nkind = "news"\n'),
        ("grants", '[[grant]]\n  [ "grant" . pattern ]\nkind = "news"\n'),
        ("grants", '[[grant]]\npattern.kind = "news"\npattern.user = "x"\n'),
        ("keys", f'[[key]]\nname = "a"\nsha256 = "{"0" * 64}"\n[[key.grants]]\nkind = "news"\n'),
        ("keys", f'[[key]]\nname = "a"\nsha256 = "{"0" * 64}"\nrate = 1'),
    ],
)
def test_files_that_would_allow_more_if_truncated_are_refused(name: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "file.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"file\.toml: (line [2-4]: write a pattern in braces|the last line, rate)"):
        Gate(Settings(**{name: str(file)}), clock=lambda: 0.0)  # type: ignore[arg-type]


def test_a_truncated_file_of_grants_allows_no_more(tmp_path: Path) -> None:
    whole = '[[grant]]\nname = "a"\npattern = {kind = ["news",\n "chat"], room = "1"}\n[[grant]]\npattern = {a = 1}\n'
    file = tmp_path / "grants.toml"
    file.write_text(whole)
    gate = Gate(Settings(grants=str(file)), clock=lambda: 0.0)
    for end in range(len(whole)):
        file.write_text(whole[:end])
        with suppress(SettingsError):
            gate.reload()
        for channel in (b"kind:news", b"room:1", b"kind:sport|room:1", b"b:1"):
            assert not gate.connected.may_subscribe(1, channel)


def test_reloading_an_invalid_file_changes_nothing(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("grants", "keys", "jwt_key_file")}
    files["grants"].write_text('[[grant]]\npattern = {kind = "news"}\n')
    files["keys"].write_text(generate("a")[1])
    files["jwt_key_file"].write_text("s" * 32)
    tokens = {**TOKENS, "jwt_secret": None}
    options: dict[str, Any] = {**tokens, **{name: str(file) for name, file in files.items()}}
    gate = Gate(Settings(**options), clock=lambda: 0.0)
    for name, broken in (("grants", "= 1"), ("keys", "[[key]]\n"), ("jwt_key_file", "")):
        whole = files[name].read_text()
        files[name].write_text(broken)
        with pytest.raises(SettingsError):
            gate.reload()
        files[name].write_text(whole)
        assert not gate.connected.may_subscribe(1, b"kind:sport")
        with pytest.raises(AccessDenied):
            gate.publishers.authenticate("127.0.0.1", {})
    files["grants"].write_text("")
    gate.reload()
    assert not gate.connected.may_subscribe(1, b"kind:news")


@pytest.mark.parametrize(
    ("headers", "any_page", "local"),
    [
        ({}, True, True),
        ({b"origin": b"http://localhost:8080"}, True, True),
        ({b"origin": b"http://127.0.0.1:3000"}, True, True),
        ({b"origin": b"http://evil.example"}, True, False),
        ({b"origin": b"http://localhost.evil.example"}, True, False),
        ({b"origin": b"null"}, True, False),
        ({b"origin": b""}, True, False),
        ({b"origin": b"file://localhost"}, True, False),
        ({b"sec-fetch-site": b"same-origin"}, True, True),
        ({b"sec-fetch-site": b"none"}, False, True),
        ({b"sec-fetch-site": b"cross-site"}, True, False),
        ({b"sec-fetch-site": b"Same-Site"}, True, False),
        ({b"sec-fetch-site": b"cross-site"}, False, False),
        ({b"sec-fetch-site": b"same-site"}, False, False),
        ({b"sec-fetch-site": b"none, cross-site"}, False, False),
    ],
)
def test_only_a_local_origin_makes_a_page_local(headers: dict[bytes, bytes], any_page: bool, local: bool) -> None:
    gate = Gate(Settings(console=True, allow_origin=("*",) if any_page else ()), clock=lambda: 0.0)
    asked = {b"host": b"localhost:8080", **headers}
    with nullcontext() if local else pytest.raises(AccessDenied):
        gate.publishers.authenticate("127.0.0.1", asked)
    with nullcontext() if any_page or local else pytest.raises(AccessDenied):
        gate.connected.on_connected(1, gate.clients.open("127.0.0.1", asked, frozenset(), b""))
    assert gate.connected.may_subscribe(1, b"realizehit:stats") is local


def test_long_headers_are_not_cached() -> None:
    caches = (hosts._short_name, origin._parse_short, peers._short_address)
    gate = Gate(Settings(), clock=lambda: 0.0)
    gate.clients.open("127.0.0.1", {b"host": b"localhost"}, frozenset(), b"")  # what it caches is not measured
    before = [cache.cache_info().misses for cache in caches]
    long = b"x" * 10_000
    for headers in ({b"host": long}, {b"host": long, b"origin": b"http://" + long}):
        with pytest.raises(AccessDenied):
            gate.clients.open("127.0.0.1", headers, frozenset(), b"")
    assert not peers.is_loopback(long.decode())
    assert [cache.cache_info().misses for cache in caches] == before


@pytest.mark.parametrize(
    ("settings", "shared", "decides"),
    [
        ({}, False, True),
        ({"allow_origin": ("https://example.org",), "max_connections": 5}, False, True),
        ({}, True, True),
        ({"max_connections": 5}, True, False),
        ({"max_per_address": 5}, False, False),
        ({"max_handshakes": 5}, False, False),
        ({"console": True}, False, False),
        ({"trusted_proxies": ("10.0.0.0/8",)}, False, False),
        ({"identify": ("user=X-User",), "trusted_proxies": ("10.0.0.0/8",)}, False, False),
    ],
)
def test_a_head_decides_unless_a_setting_asks_for_each_client(
    settings: dict[str, Any], shared: bool, decides: bool, tmp_path: Path
) -> None:
    with SharedLimits(tmp_path / "limits", 2) as parent:
        gate = Gate(Settings(**settings), clock=lambda: 0.0, shared=parent if shared else None)
        assert gate.clients.decides_by_head is decides
