"""``realizehit publish`` and ``realizehit subscribe`` against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jwt
import pytest
import trustme

from realizehit.access.keys import generate
from tests.support.ports import free_port
from tests.support.processes import SCRIPTS, SECONDS, Process, Server, running, serving
from tests.support.valkey import Valkey
from tests.support.wire import unique

SUBSCRIBED = r"^subscribed to (\S+) \(([0-9a-f]{8})\) at ws://"


@pytest.fixture(scope="module")
def server(shared_valkey: Valkey) -> Iterator[Server]:
    with serving("--redis", shared_valkey.url, "--drain-seconds", "0.2") as server:
        yield server


def words(name: str) -> list[str]:
    """Filters that no other test uses, as arguments."""
    return [f"{key}={value}" for key, value in unique(name).items()]


def subscriber(server: Server, filters: list[str], *options: str) -> Process:
    process = Process("realizehit", "subscribe", "--url", server.ws, *filters, *options)
    try:
        process.find(SUBSCRIBED)
    except BaseException:
        process.stop()
        raise
    return process


def publish(server: Server, *arguments: str, stdin: str | None = None) -> Process:
    with running("realizehit", "publish", *arguments, env={"ENDPOINT_API": server.api}, stdin=stdin) as process:
        process.wait()
    return process


def test_from_publish_to_subscribe(server: Server) -> None:
    filters = words("through")
    text = '{"n": 12345678901234567890123, "f": 1.10,  "z": "é?\\u003f"}'
    process = subscriber(server, filters, "--count", "3")
    try:
        (match,) = process.find(SUBSCRIBED)
        first = publish(server, *filters, text)
        assert (first.out, first.err, first.stop()) == ([f"published {match[2]} to 1 node"], [], 0)
        second = publish(server, *filters, "--json", "-", stdin="[1,\n2]\n")
        assert [json.loads(line) for line in second.out] == [{"id": match[2], "nodes": 1}]
        publish(server, *filters, "null")
        assert process.wait() == 0
        assert process.out == [text, "[1, 2]", "null"]
        assert len(process.err) == 1
    finally:
        process.stop()


@pytest.mark.slow
@pytest.mark.parametrize("straight", [False, True], ids=["API", "broker"])
def test_a_message_with_an_idempotency_key_is_published_once(
    server: Server, shared_valkey: Valkey, tmp_path: Path, straight: bool
) -> None:
    filters, where = words("once"), ["--redis", shared_valkey.url] if straight else []
    pattern = dict(word.split("=", 1) for word in filters)
    file = tmp_path / "messages.ndjson"
    lines = [{"pattern": pattern, "payload": n, "key": key} for n, key in ((1, "k"), (2, "l"), (2, "l"))]
    lines += [{"pattern": pattern, "payload": 3}, {"pattern": pattern, "payload": 4, "key": "x" * 65}]
    file.write_text("\n".join(map(json.dumps, lines)))
    process = subscriber(server, filters, "--count", "3")
    try:
        process.find(SUBSCRIBED)
        first = publish(server, *where, *filters, "--idempotency-key", "k", "1")
        assert first.out[0].endswith(" to 1 node")
        again = publish(server, *where, *filters, "--idempotency-key", "k", "1")
        assert again.out[0].endswith(" before by this idempotency key, so not again")
        told = publish(server, *where, *filters, "--idempotency-key", "k", "--json", "1")
        assert json.loads(told.out[0])["duplicate"] is True
        many = publish(server, *where, "--file", str(file), "--json")
        assert many.wait() == 1
        results = [json.loads(line) for line in many.out]
        assert [result.get("duplicate", False) for result in results[:4]] == [True, False, True, False]
        assert "65 characters" in results[4]["error"]
        assert process.wait() == 0
        assert process.out == ["1", "2", "3"]
    finally:
        process.stop()


def test_publishing_straight_to_the_broker(server: Server, shared_valkey: Valkey) -> None:
    filters = words("straight")
    process = subscriber(server, filters, "--count", "1", "--json")
    try:
        done = publish(server, "--redis", shared_valkey.url, *filters, '"hello"')
        assert done.out[0].endswith(" to 1 node")
        assert process.wait() == 0
        assert process.out == ['"hello"']
    finally:
        process.stop()


@pytest.mark.slow
def test_a_file_of_payloads(server: Server, tmp_path: Path) -> None:
    filters = words("payloads")
    file = tmp_path / "payloads.ndjson"
    lines = [json.dumps({"n": n}) for n in range(5000)]
    file.write_text("\n".join(lines) + "\n\n")
    process = subscriber(server, filters, "--count", "5000")
    try:
        done = publish(server, *filters, "--file", str(file))
        assert (done.out, done.err, done.stop()) == (["published 5000 messages"], [], 0)
        assert process.wait() == 0
        assert process.out == lines
    finally:
        process.stop()


@pytest.mark.slow
@pytest.mark.parametrize("straight", [False, True])
def test_a_file_of_messages_some_of_them_bad(server: Server, shared_valkey: Valkey, straight: bool) -> None:
    pattern = unique("messages")
    lines = [
        json.dumps({"pattern": pattern, "payload": 1}),
        "",
        "{",
        '{"payload": 2}',
        '{"pattern": {}, "payload": 3}',
        json.dumps({"pattern": pattern, "payload": None}),
    ]
    process = subscriber(server, [f"{key}={value}" for key, value in pattern.items()], "--count", "2")
    option = ["--redis", shared_valkey.url] if straight else []
    try:
        done = publish(server, *option, "--file", "-", stdin="\n".join(lines))
        assert done.stop() == 1
        assert done.out == ["published 2 messages, 3 failed"]
        assert [line.split(":")[0] for line in done.err] == ["line 3", "line 4", "line 5"]
        assert process.wait() == 0
        assert process.out == ["1", "null"]
    finally:
        process.stop()
    again = publish(server, *option, "--json", "--file", "-", stdin="\n".join(lines))
    answers = [json.loads(line) for line in again.out]
    assert [answer["line"] for answer in answers] == [1, 3, 4, 5, 6]
    assert [answer.get("code") for answer in answers] == [None, "bad-request", "bad-request", "bad-pattern", None]


@pytest.mark.slow
@pytest.mark.parametrize("straight", [False, True])
def test_what_comes_through_a_pipe_is_published_as_it_comes(
    server: Server, shared_valkey: Valkey, straight: bool
) -> None:
    filters = words("pipe")
    target = ["--redis", shared_valkey.url] if straight else ["--url", server.api]
    command = [str(SCRIPTS / "realizehit"), "publish", *target, *filters, "--file", "-"]
    process = subscriber(server, filters)
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as publisher:
            assert publisher.stdin is not None
            assert publisher.stdout is not None
            for text in (b"1\n", b"2\n3\n\n", b"4\n[5"):  # the next one only when the last one has arrived
                publisher.stdin.write(text)
                publisher.stdin.flush()
                process.find(f"^{text.split()[-1 - text.count(b'[')].decode()}$")
            publisher.stdin.write(b",\t5]")
            publisher.stdin.close()
            assert publisher.stdout.read() == b"published 5 messages\n"
            assert publisher.wait(SECONDS) == 0
        process.find("5]")
        assert process.out == ["1", "2", "3", "4", "[5,\t5]"]
    finally:
        process.stop()


@pytest.mark.slow
def test_ctrl_c_ends_a_publisher_that_waits_for_input(server: Server) -> None:
    filters = words("waits")
    command = [str(SCRIPTS / "realizehit"), "publish", "--url", server.api, *filters, "--file", "-"]
    process = subscriber(server, filters)
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0) as publisher:
            assert publisher.stdin is not None
            publisher.stdin.write(b"1\n")
            publisher.stdin.flush()
            process.find("^1$")
            publisher.send_signal(signal.SIGINT)
            assert publisher.wait(SECONDS) == 130
    finally:
        process.stop()


def test_publishing_without_a_server(tmp_path: Path) -> None:
    port = free_port()
    with running("realizehit", "publish", "--url", f"127.0.0.1:{port}", "a=b", "1") as process:
        assert process.wait() == 1
    assert process.err[-1].startswith(f"Error: cannot connect to http://127.0.0.1:{port}/: ")
    assert process.err[-1].endswith("(unavailable)")
    file = tmp_path / "x.ndjson"
    file.write_text("1\n" * 5000)
    with running("realizehit", "publish", "--url", f"127.0.0.1:{port}", "a=b", "--file", str(file)) as process:
        assert process.wait() == 1
    assert process.err[-1] == "stopped after line 2000"
    assert process.out == ["published 0 messages, 2000 failed"]


def test_subscribing_without_a_server() -> None:
    port = free_port()
    with running("realizehit", "subscribe", "--url", f"127.0.0.1:{port}", "a=b") as process:
        assert process.wait() == 1
    assert process.err[-1].startswith(f"Error: cannot connect to ws://127.0.0.1:{port}/ws: ")


def test_a_pattern_that_the_server_refuses(server: Server) -> None:
    with running("realizehit", "subscribe", "--url", server.ws, "realizehit=x") as process:
        assert process.wait() == 1
    assert "forbidden" in process.err[-1]
    done = publish(server, "a=*", "1")
    assert done.stop() == 1
    assert "bad-pattern" in done.err[-1]


@pytest.mark.slow
def test_subscribe_ends_after_its_time(server: Server) -> None:
    process = subscriber(server, words("time"), "--timeout", "2")
    assert process.wait() == 0
    process = subscriber(server, words("time"), "--timeout", "2", "--count", "2")
    assert process.wait() == 1
    assert process.err[-1] == "2 seconds have passed and fewer than 2 payloads have come"


def test_ctrl_c_ends_subscribe_quietly(server: Server) -> None:
    process = subscriber(server, words("interrupted"))
    process.signal(signal.SIGINT)
    assert process.wait() == 130
    assert process.out == []
    assert len(process.err) == 1


@pytest.mark.slow
def test_payloads_that_are_not_json_are_left_out(server: Server, shared_valkey: Valkey) -> None:
    filters = words("no-json")
    process = subscriber(server, filters, "--count", "1")
    try:
        (match,) = process.find(SUBSCRIBED)
        shared_valkey.command("PUBLISH", match[1], "{oops")
        shared_valkey.command("PUBLISH", match[1], "true")
        assert process.wait() == 0
        assert process.out == ["true"]
        assert process.err[1].startswith("a payload of 5 bytes is not JSON and is left out: ")
    finally:
        process.stop()


@pytest.mark.slow
async def test_subscribe_comes_back_and_says_so(shared_valkey: Valkey) -> None:
    port, filters = str(free_port()), words("back")
    options = ("--redis", shared_valkey.url, "--drain-seconds", "0.1")
    with serving(*options, "--port", port) as first:
        process = await asyncio.to_thread(subscriber, first, filters, "--count", "1")
    try:
        await asyncio.to_thread(process.find, "^disconnected: .*messages may be missing$")
        with serving(*options, "--port", port) as second:
            await asyncio.to_thread(process.find, r"^a gap of \d+\.\d s has ended: messages may be missing$")
            await asyncio.to_thread(publish, second, *filters, '"again"')
            assert await asyncio.to_thread(process.wait) == 0
        assert process.out == ['"again"']
    finally:
        process.stop()


@pytest.mark.slow
def test_a_closed_pipe_ends_subscribe_quietly(server: Server) -> None:
    filters = words("pipe")
    command = [str(SCRIPTS / "realizehit"), "subscribe", "--url", server.ws, *filters]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        process.stderr.readline()
        process.stdout.close()
        publish(server, *filters, "1")
        assert process.wait(SECONDS) == 1
        assert process.stderr.read() == ""


@pytest.mark.slow
def test_on_a_terminal_a_bar_shows_how_far_a_file_is(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "payloads.ndjson"
    file.write_text("1\n" * 5000)
    command = [str(SCRIPTS / "realizehit"), "publish", *words("bar"), "--file", str(file)]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "ENDPOINT_API": server.api}
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=env) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal open any more
            while part := os.read(ours, 4096):
                shown += part
        assert process.stdout is not None
        assert process.stdout.read() == "published 5000 messages\n"
        assert process.wait(SECONDS) == 0
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert text.lstrip("\r").startswith("publishing ")
    assert "10.0/10.0 kB" in text  # 5,000 lines of 2 bytes


@pytest.mark.slow
def test_on_a_terminal_payloads_are_laid_out(server: Server) -> None:
    filters = words("terminal")
    ours, theirs = pty.openpty()
    command = [str(SCRIPTS / "realizehit"), "subscribe", "--url", server.ws, "--count", "1", *filters]
    env = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, text=True, env=env) as process:
        os.close(theirs)
        assert process.stderr is not None
        process.stderr.readline()
        publish(server, *filters, '{"title":"h\u009b\\ud800"}')
        assert process.wait(SECONDS) == 0
        shown = os.read(ours, 4096).decode()
    os.close(ours)
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == '{\r\n  "title": "h\\u009b\\ud800"\r\n}\r\n'


# ---- surroundings


@pytest.fixture(scope="module")
def secure(shared_valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server whose certificate is of an authority of the test's own, and that authority's file."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(folder / "cert.pem", append=True)
    options = ("--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem"))
    with serving("--redis", shared_valkey.url, "--drain-seconds", "0.2", *options) as server:
        yield server, folder / "ca.pem"


@pytest.mark.slow
@pytest.mark.parametrize("trust", ["ca", "insecure"])
def test_tls_with_a_certificate_of_ones_own(secure: tuple[Server, Path], trust: str) -> None:
    server, ca = secure
    options = ["--ca", str(ca)] if trust == "ca" else ["--insecure"]
    filters = words("tls")
    with running("realizehit", "subscribe", "--url", server.ws, *filters, *options, "--count", "1") as process:
        process.find(r"^subscribed to ")
        with running("realizehit", "publish", "--url", server.api, *options, *filters, "1") as publishing:
            assert publishing.wait() == 0
        assert process.wait() == 0
        assert process.out == ["1"]


@pytest.mark.slow
def test_tls_is_checked_and_its_options_too(secure: tuple[Server, Path], server: Server, tmp_path: Path) -> None:
    strange, ca = secure
    (tmp_path / "empty.pem").write_text("nothing")
    for status, said, *command in (
        (1, "certificate", "subscribe", "--url", strange.ws, "a=b"),
        (1, "certificate", "publish", "--url", strange.api, "a=b", "1"),
        (2, "--ca is for https:// and wss://", "subscribe", "--url", server.ws, "--ca", str(ca), "a=b"),
        (2, "--insecure is for https:// and wss://", "publish", "--url", server.api, "--insecure", "a=b", "1"),
        (2, "contradict", "publish", "--url", strange.api, "--insecure", "--ca", str(ca), "a=b", "1"),
        (2, "cannot be read: No such file", "subscribe", "--url", strange.ws, "--ca", str(tmp_path / "none"), "a=b"),
        (2, "has no certificates", "subscribe", "--url", strange.ws, "--ca", str(tmp_path / "empty.pem"), "a=b"),
    ):
        with running("realizehit", *command) as process:
            assert process.wait() == status, command
            assert said in process.output


@pytest.mark.slow
def test_the_servers_text_of_a_refusal_is_shown(shared_valkey: Valkey, tmp_path: Path) -> None:
    grants = tmp_path / "grants.toml"
    grants.write_text('[[grant]]\npattern = { kind = "open" }\n')
    with serving("--redis", shared_valkey.url, "--grants", str(grants)) as server:
        for said, *arguments in (
            ("(forbidden)", "kind=closed"),
            ("HTTP 404: ", "--url", server.ws + "x", "kind=open"),
        ):
            with running("realizehit", "subscribe", "--url", server.ws, *arguments) as process:
                assert process.wait() == 1
                assert said in process.output
                assert "1000" not in process.output
                assert "disconnected" not in process.output


@pytest.mark.slow
def test_output_and_arguments_without_utf8(server: Server) -> None:
    plain = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    filters = [*words("ascii"), "ö=😀"]
    arguments = ["realizehit", "subscribe", "--url", server.ws, *filters, "--count", "1"]
    with running(*arguments, env=plain) as process:
        process.find(r"^subscribed to %C3%B6:%F0%9F%98%80\|")
        publish(server, *filters, '"é😀"')
        assert process.wait() == 0
        assert process.out == [r'"\u00e9\ud83d\ude00"']


@pytest.mark.slow
def test_a_byte_order_mark_is_ignored_in_a_file(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "lines.ndjson"
    file.write_bytes(
        b'\xef\xbb\xbf{"pattern": {"a": "bom"}, "payload": "\\ud800"}\n{"pattern": {"a": "bom"}, "payload": 2}\n'
    )
    assert publish(server, "--file", str(file)).out == ["published 2 messages"]
    assert publish(server, "a=bom", "-", stdin="\ufeff[1]").out[0].startswith("published ")


@pytest.mark.slow
def test_a_socks_proxy_without_its_library_is_named(server: Server) -> None:
    proxies = {"ALL_PROXY": "socks5://127.0.0.1:1", "NO_PROXY": "", "no_proxy": ""}
    with running("realizehit", "publish", "--url", server.api, "a=b", "1", env=proxies) as process:
        assert process.wait() == 2
        assert "needs the package socksio" in process.output


# ---- failures that users meet


def fails(status: int, said: str, *command: str, env: dict[str, str] | None = None) -> None:
    with running("realizehit", *command, env=env) as process:
        assert process.wait() == status, process.output
    assert said in process.err[-1], process.output
    assert "Traceback" not in process.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "it has no host"),
        ("ftp://127.0.0.1/", "ftp://127.0.0.1/"),
        ("ws://127.0.0.1:99999/", "the port is not a number"),
        ("ws://127.0.0.1:http/", "the port is not a number"),
        ("http://[::1/", "the host cannot be read"),
        ("http://a b/", "there is a blank"),
        ("http://me:hidden@127.0.0.1:x/?token=hidden", "the port is not a number"),
    ],
)
def test_an_address_that_cannot_be_used_is_named(url: str, said: str) -> None:
    for command in (("subscribe", "--url", url, "a=b"), ("publish", "--url", url, "a=b", "1")):
        with running("realizehit", *command) as process:
            assert process.wait() == 2
        assert said in process.err[-1]
        assert "hidden" not in process.output
        assert "Traceback" not in process.output


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_connection_error_is_explained_in_words(host: str) -> None:
    url = f"http://{host}:{free_port()}"
    said = "Connection refused; is the server running there?  (unavailable)"
    fails(1, said, "subscribe", "--url", url, "a=b")
    fails(1, said, "publish", "--url", url, "a=b", "1")
    fails(1, "Connection refused  (unavailable)", "publish", "--redis", url.replace("http", "redis"), "a=b", "1")


@pytest.mark.slow
def test_a_host_that_has_no_address() -> None:
    fails(1, "cannot connect to ws://nobody.invalid/ws: ", "subscribe", "--url", "nobody.invalid", "a=b")
    fails(1, "cannot connect to http://nobody.invalid/: ", "publish", "--url", "nobody.invalid", "a=b", "1")


@pytest.mark.slow
def test_a_path_where_the_server_has_nothing(server: Server) -> None:
    fails(1, "answered the handshake with HTTP 404: ", "subscribe", "--url", server.ws + "x", "a=b")
    fails(1, f"{server.api}x/ answered with HTTP 404: ", "publish", "--url", server.api + "x", "a=b", "1")


@pytest.mark.slow
def test_tls_and_no_tls_confused(secure: tuple[Server, Path], server: Server) -> None:
    strange, ca = secure
    trust = "--ca FILE names the certificates to trust  (unavailable)"
    fails(1, trust, "subscribe", "--url", strange.ws, "a=b")
    fails(1, trust, "publish", "--url", strange.api, "a=b", "1")
    is_tls = "does the server speak TLS there? then it is https:// or wss://"
    fails(1, is_tls, "subscribe", "--url", strange.ws.replace("wss", "ws"), "a=b")
    fails(1, is_tls, "publish", "--url", strange.api.replace("https", "http"), "a=b", "1")
    is_plain = "without TLS it is http:// or ws://"
    fails(1, is_plain, "publish", "--url", server.api.replace("http", "https"), "--timeout", "0.3", "a=b", "1")
    other_name = strange.ws.replace("127.0.0.1", "localhost"), "--ca", str(ca)
    fails(1, "certificate is not valid for 'localhost'.  (unavailable)", "subscribe", "--url", *other_name, "a=b")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_times_are_numbers_over_zero(seconds: str) -> None:
    said = f"{seconds!r} is not a number of seconds over 0"
    fails(2, said, "subscribe", f"--timeout={seconds}", "a=b")
    fails(2, said, "publish", f"--timeout={seconds}", "a=b", "1")


@pytest.mark.slow
def test_options_of_publish_that_contradict_each_other(server: Server) -> None:
    broker = ("publish", "--redis", "redis://127.0.0.1:1", "a=b", "1")
    for option in (("--url", server.api), ("--key", "x"), ("--ca", "x.pem"), ("--insecure",)):
        fails(2, f"{option[0]} is about the API server", *broker, *option)
    both = {"ENDPOINT_API": server.api, "REALIZEHIT_KEY": "x"}  # for other commands too, so no contradiction
    fails(1, "(unavailable)", *broker, env=both)
    fails(2, "with --file the payloads are in the file; '1' is not a filter", "publish", "a=b", "1", "--file", "x")
    fails(2, "--idempotency-key is for one message", "publish", "a=b", "--file", "x", "--idempotency-key", "k")


@pytest.mark.slow
def test_a_key_that_no_header_can_carry(server: Server) -> None:
    fails(2, "the API key cannot be used", "publish", "--url", server.api, "a=b", "1", "--key", "caf\u00e9")
    fails(2, "the API key cannot be used", "publish", "--url", server.api, "a=b", "1", "--key", "a\nb")


@pytest.mark.slow
def test_a_missing_broker_is_named_in_the_error(tmp_path: Path) -> None:
    file = tmp_path / "x.ndjson"
    file.write_text("1\n")
    seconds = ("--subscribe-timeout", "0.1", "--publish-timeout", "0.1")
    with serving("--redis", f"redis://127.0.0.1:{free_port()}", *seconds, "--drain-seconds", "0") as server:
        said = "Error: the broker cannot be reached; try again later  (unavailable)"
        fails(1, said, "subscribe", "--url", server.ws, "a=b")
        fails(1, said, "publish", "--url", server.api, "a=b", "1")
        process = publish(server, "a=b", "--file", str(file))
        assert process.stop() == 1
        assert process.err == ["line 1: the broker cannot be reached; try again later  (unavailable)", *process.err[1:]]


@pytest.mark.slow
def test_a_key_that_was_replaced_ends_a_file(shared_valkey: Valkey, tmp_path: Path) -> None:
    keys, file = tmp_path / "keys.toml", tmp_path / "x.ndjson"
    (old, lines), (_, others) = generate("one"), generate("one")
    keys.write_text(lines)
    file.write_text("1\n" * 5000)
    with serving("--redis", shared_valkey.url, "--keys", str(keys), "--drain-seconds", "0") as server:
        words = ("publish", "--url", server.api, "a=b")
        fails(1, "an API key is needed", *words, "1")
        with running("realizehit", *words, "--key", old, "1") as process:
            assert process.wait() == 0
        keys.write_text(others)
        server.signal(signal.SIGHUP)
        server.find("grants and keys are reloaded")
        fails(1, "Error: the API key is not known  (not-authenticated)", *words, "--key", old, "1")
        with running("realizehit", *words, "--file", str(file), env={"REALIZEHIT_KEY": old}) as process:
            assert process.wait() == 1
        assert process.err[0] == "line 1: the API key is not known  (not-authenticated)"
        assert process.err[-1] == "stopped after line 2000"


@pytest.mark.slow
def test_a_token_that_holds_no_longer_ends_subscribe(shared_valkey: Valkey, tmp_path: Path) -> None:
    secret, file = "0123456789" * 4, tmp_path / "secret"
    file.write_text(secret)
    token = jwt.encode({"sub": "42", "exp": time.time() + 3600}, secret, "HS256")
    expired = jwt.encode({"sub": "42", "exp": time.time() - 3600}, secret, "HS256")
    options = ("--jwt-key-file", str(file), "--jwt-algorithm", "HS256", "--jwt-claim", "user=sub")
    with serving("--redis", shared_valkey.url, *options, "--drain-seconds", "0") as server:
        words = ("subscribe", "--url", server.ws, "user=42")
        fails(1, "HTTP 401: the token has expired  (not-authenticated)", *words, env={"REALIZEHIT_TOKEN": expired})
        fails(1, "HTTP 401: the token is malformed  (not-authenticated)", *words, "--token", "x")
        with running("realizehit", *words, env={"REALIZEHIT_TOKEN": token}) as process:
            process.find(SUBSCRIBED)
            file.write_text(secret[::-1])
            server.signal(signal.SIGHUP)
            assert process.wait() == 1
        why = "the key of the token was replaced  (not-authenticated)"
        assert process.err[1:] == [f"Error: the server closed the connection with 4501: {why}"]


@pytest.fixture(scope="module")
def limited(shared_valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str, str]]:
    """A server, a key with which one message a second may be published, and one with which 2,000 may."""
    (slow, first), (fast, second) = generate("slow"), generate("fast")
    keys = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys.write_text(f"{first}rate = 1\n{second}rate = 2000\n")
    with serving("--redis", shared_valkey.url, "--keys", str(keys), "--drain-seconds", "0") as server:
        yield server, slow, fast


@pytest.mark.slow
def test_a_wait_that_the_server_asks_for_is_kept_within_the_timeout(
    limited: tuple[Server, str, str], tmp_path: Path
) -> None:
    server, slow, fast = limited
    file = tmp_path / "x.ndjson"
    file.write_text("1\n" * 4001)  # three blocks
    words = ("publish", "--url", server.api, "a=b")
    with running("realizehit", *words, "--file", str(file), env={"REALIZEHIT_KEY": fast}) as process:
        assert process.wait() == 0
    assert process.out == ["published 4001 messages"]
    began = time.monotonic()
    with running("realizehit", *words, "--file", str(file), env={"REALIZEHIT_KEY": slow}) as process:
        assert process.wait() == 1
    asked = re.search(r"; it asks to wait ([\d,]+) s; with a longer --timeout .*  \(rate-limited\)$", process.err[0])
    assert asked is not None, process.err[0]
    assert time.monotonic() - began < int(asked[1].replace(",", ""))
    assert process.err[0].startswith("line 2001: the key slow may publish 1 messages per second")
    assert process.err[-1] == "stopped after line 4000"
    assert process.out == ["published 2000 messages, 2000 failed"]
    fails(1, "with a longer --timeout this command waits  (rate-limited)", *words, "1", env={"REALIZEHIT_KEY": slow})


@pytest.mark.slow
def test_a_time_that_is_over_before_the_server_answers_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connections wait to be accepted, for ever
        words = ("subscribe", "--url", f"127.0.0.1:{silent.getsockname()[1]}", "a=b", "--timeout", "0.2")
        fails(1, "0.2 seconds have passed and there is no subscription yet", *words)


class Elsewhere(BaseHTTPRequestHandler):
    """A server of somebody else's that sends publishers away, with an address that holds secrets."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(301)
        self.send_header("Location", "https://me:hidden@example.org/?token=hidden")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Stay silent."""


@pytest.mark.slow
def test_a_redirection_is_reported_and_not_followed() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"127.0.0.1:{server.server_port}"
            with running("realizehit", "publish", "--url", f"http://{url}/", "a=b", "1") as process:
                assert process.wait() == 1
            where = "Moved Permanently, and names https://***@example.org/?token=*** instead"
            assert process.err == [f"Error: http://{url}/ answered with HTTP 301: {where}"]
            fails(
                1, "does not let the load test publish: 301, Moved Permanently", "loadtest", "--url", f"ws://{url}/ws"
            )
        finally:
            server.shutdown()
            thread.join()
