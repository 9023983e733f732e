"""Every command where things around it are not as usual: encodings, streams, terminals, directories, proxies."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from realizehit.access.keys import generate
from realizehit.cli.main import main
from realizehit.cli.serve import serve
from tests.support.ports import free_port
from tests.support.processes import SCRIPTS, SECONDS, Server, running, serving
from tests.support.valkey import Valkey

ODD = "kind=ö😀"

COMMANDS: dict[str, tuple[str, ...]] = {
    "help": ("realizehit", "--help"),
    "version": ("realizehit", "--version"),
    "id": ("realizehit", "id", ODD),
    "can": ("realizehit", "can", "--pattern", ODD),
    "gen-key": ("realizehit", "gen-key", "x"),
    "publish": ("realizehit", "publish", "--url", "{api}", ODD, '"é😀"'),
    "publish --json": ("realizehit", "publish", "--url", "{api}", ODD, '"é😀"', "--json"),
    "publish --file": ("realizehit", "publish", "--url", "{api}", "--file", "{file}"),
    "publish of no JSON": ("realizehit", "publish", ODD, "é😀"),
    "history": ("realizehit", "history", "--redis", "{redis}"),
    "presence": ("realizehit", "presence", "--url", "{api}", ODD),
    "audience": ("realizehit", "audience", "--url", "{api}", ODD),
    "admin": ("realizehit", "admin", "clients", ODD, "--url", "{api}"),
    "top": ("realizehit", "top", "--once", "--interval", "0.1", "--url", "{api}"),
    "subscribe": ("realizehit", "subscribe", "--url", "{ws}", ODD, "--timeout", "3"),
    "loadtest": (
        *("realizehit", "loadtest", "--url", "{ws}", "--connections", "2", "--duration", "0.2", "--rate", "20"),
        *("--json", "-"),
    ),
    "loadtest --list": ("realizehit", "loadtest", "--list"),
    "check-config": ("realizehit-server", "check-config", "--grants", "{grants}"),
    "healthcheck": ("realizehit-server", "healthcheck", "--port", "{port}"),
    "server": ("realizehit-server", "--port", "0", "--redis", "memory://", "--drain-seconds", "0"),
}

ENVIRONMENTS: dict[str, dict[str, str]] = {
    "ASCII, narrow, no colours, no home": {
        "LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
        "COLUMNS": "20", "NO_COLOR": "1", "HOME": "/nonexistent", "TMPDIR": "/nonexistent",
    },
    "Windows' encoding, proxies for others, no width": {
        "PYTHONIOENCODING": "cp1252:strict", "COLUMNS": "x", "FORCE_COLOR": "1", "TERM": "dumb",
        "HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1", "ALL_PROXY": "socks5://127.0.0.1:1",
        "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
    },
}  # fmt: skip

STREAMS = {
    "all closed": "<&- >&- 2>&-",
    "input and errors closed": "<&- 2>&-",
    "a full disk": ">/dev/full",
    "nobody reads": "| true",
    "one line is read": "| head -n 1",
}


@pytest.fixture(scope="module")
def server(shared_valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    rules = tmp_path_factory.mktemp("presence") / "presence.toml"
    rules.write_text("[[presence]]\npattern = {}\n")
    with serving("--redis", shared_valkey.url, "--presence", str(rules), "--drain-seconds", "0") as server:
        yield server


@pytest.fixture
def command(request: pytest.FixtureRequest, server: Server, shared_valkey: Valkey, tmp_path: Path) -> list[str]:
    """The words of a command."""
    file, grants = tmp_path / "x.ndjson", tmp_path / "grants.toml"
    file.write_text('{"pattern": {"a": "b"}, "payload": "é😀"}\n', encoding="utf-8")
    grants.write_text("\ufeff[[grant]]\npattern = { kind = 'ö' }\n", encoding="utf-8")
    port = server.ws.rpartition(":")[2].partition("/")[0]
    program, *words = COMMANDS[request.param]
    places = {"{ws}": server.ws, "{api}": server.api, "{port}": port, "{file}": str(file)}
    places |= {"{grants}": str(grants), "{redis}": shared_valkey.url}
    return [str(SCRIPTS / program), *(places.get(word, word) for word in words)]


def run(command: list[str], *, env: Mapping[str, str] | None = None, how: str = "", cwd: Path | None = None) -> None:
    """Run a command in a shell, with redirections; see that it ends as it should, and without a traceback."""
    unending = "--drain-seconds" in command
    with subprocess.Popen(
        ["bash", "-c", f'"$@" {how}; exit ${{PIPESTATUS[0]}}', "bash", *command],
        env={**os.environ, **(env or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    ) as process:
        if unending:
            assert process.stderr is not None
            for line in process.stderr:
                if b"broker: up" in line:
                    break
            os.killpg(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=SECONDS)
    text = (out + err).decode("latin-1")
    assert "Traceback" not in text
    assert "Exception ignored" not in text
    if unending:
        return  # the shell is ended by the signal too
    expected = 2 if command[-1] == "é😀" else 0
    # Output that nobody can have is a failure, except where there is none to speak of.
    assert process.returncode in ((1, expected) if how.startswith((">/dev/full", "|")) else (expected,)), text
    if how == ">/dev/full" and process.returncode == 1:
        assert text.endswith("Error: the output cannot be written: No space left on device\n")


def test_every_command_is_here() -> None:
    assert {*main.list_commands(None)} - {"server"} <= {words[1] for words in COMMANDS.values()}  # type: ignore[arg-type]
    assert {*serve.list_commands(None)} <= {words[1] for words in COMMANDS.values()}  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, indirect=True)
def test_encodings_widths_directories_and_proxies(command: list[str], tmp_path: Path) -> None:
    for env in ENVIRONMENTS.values():
        run(command, env=env, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "how"),
    # A server that can tell nobody that it serves is looked at below.
    [(name, how) for name in COMMANDS for how in STREAMS.values() if name != "server" or "2>&-" not in how],
    indirect=["command"],
)
def test_streams_of_every_kind(command: list[str], how: str) -> None:
    run(command, how=how)


@pytest.mark.slow
@pytest.mark.parametrize("how", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("command", ["id", "publish", "check-config"], indirect=True)
def test_streams_that_are_closed_full_or_unread(command: list[str], how: str) -> None:
    run(command, how=how)


@pytest.mark.parametrize("command", ["server"], indirect=True)
def test_a_server_without_standard_streams_serves(command: list[str]) -> None:
    port = free_port()
    with subprocess.Popen(
        ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", *command, "--port", str(port)], process_group=0
    ) as process:
        try:
            deadline = time.monotonic() + SECONDS
            asked = [str(SCRIPTS / "realizehit-server"), "healthcheck", "--port", str(port)]
            while subprocess.run(asked, check=False, capture_output=True).returncode:
                assert process.poll() is None
                assert time.monotonic() < deadline
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0


@pytest.mark.slow
@pytest.mark.parametrize("size", [(5, 20), (1, 1), (0, 0)])
@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "server"], indirect=True)
def test_a_tiny_terminal(command: list[str], size: tuple[int, int]) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**env, "TERM": "xterm"}, start_new_session=True
    ) as process:
        os.close(theirs)
        shown = b""
        while select.select([ours], [], [], SECONDS)[0]:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # EIO: nobody has the terminal open any more
                break
        assert process.wait(SECONDS) == (2 if command[-1] == "é😀" else 0), shown
    os.close(ours)
    assert b"Traceback" not in shown


@pytest.mark.parametrize(
    ("variables", "subscribing", "publishing"),
    [
        ({"HTTP_PROXY": "http://me:hidden@127.0.0.1:1"}, "that is the proxy of HTTP_PROXY", "of HTTP_PROXY"),
        ({"HTTPS_PROXY": "http://127.0.0.1:1"}, "that is the proxy of HTTPS_PROXY; NO_PROXY=127.0.0.1 goes", None),
        ({"HTTPS_PROXY": "a b"}, "names a proxy (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) that cannot be used", None),
        ({"ALL_PROXY": "gopher://x"}, None, "names a proxy (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) that cannot be used"),
        ({"ALL_PROXY": "http://[::1"}, None, "that cannot be used"),
    ],
)
def test_a_proxy_is_named(
    server: Server, variables: dict[str, str], subscribing: str | None, publishing: str | None
) -> None:
    own = {each: "" for name in ("HTTP", "HTTPS", "ALL", "NO") for each in (f"{name}_PROXY", f"{name}_PROXY".lower())}
    env = {**own, **{name.lower(): value for name, value in variables.items()}}
    for said, words in (
        (subscribing, ["subscribe", "--url", server.ws, "a=b", *([] if subscribing else ["--timeout", "3"])]),
        (publishing, ["publish", "--url", server.api, "a=b", "1"]),
    ):
        with running("realizehit", *words, env=env) as process:
            assert bool(process.wait()) == (said is not None)
        assert said is None or said in process.err[-1]
        assert "hidden" not in process.output
        assert "Traceback" not in process.output


def test_a_byte_order_mark_is_ignored_in_all_files_of_the_server(tmp_path: Path) -> None:
    secret, (_, lines) = "0123456789" * 4, generate("x")
    texts = {
        "config": 'jwt-algorithms = ["HS256"]\njwt-claims = ["user=sub"]\n',
        "grants": '[[grant]]\npattern = { kind = "news" }\n',
        "keys": lines,
        "jwt-key-file": secret + "\n",
    }
    options = []
    for name, text in texts.items():
        (tmp_path / name).write_text("\ufeff" + text, encoding="utf-8")
        options += [f"--{name}", str(tmp_path / name)]
    with running("realizehit-server", "check-config", *options) as process:
        assert process.wait() == 0, process.output
