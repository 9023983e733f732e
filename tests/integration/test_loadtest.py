"""The load test end to end: every scenario at a small size, what it finds on bad servers, the command's ends."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from realizehit.access.keys import generate
from realizehit.cli.loadtest import loadtest
from realizehit.errors import LoadTestError
from realizehit.loadtest import _load, worker
from realizehit.loadtest.client_processes import ClientProcesses
from realizehit.loadtest.coordinator import Coordinator
from realizehit.loadtest.expect import Expectation
from realizehit.loadtest.figures import FAULTS
from realizehit.loadtest.plan import make_plan
from realizehit.loadtest.report import Point, Report
from realizehit.loadtest.started_server import embedded_target
from realizehit.loadtest.target import Target, find_target
from realizehit.pattern import Pattern
from tests.support.ports import free_port
from tests.support.processes import serving
from tests.support.scripted_websocket import ACCEPTED, CLOSE, TEXT, ScriptedServer, scripted, server_frame
from tests.support.valkey import Valkey

pytestmark = pytest.mark.skipif(not _load.HAVE_EPOLL, reason="the load test needs epoll")

REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"

SMALL: dict[str, Any] = {"connections": 30, "duration": 0.6}


@pytest.fixture(scope="module")
def server(shared_valkey: Valkey) -> Iterator[Target]:
    """A server in a process of its own."""
    with embedded_target(redis=shared_valkey.url) as target:
        yield target


def conduct(target: Target, scenario: str, **numbers: Any) -> Report:
    return Coordinator(make_plan(scenario, {**SMALL, **numbers}), target, scenario=scenario).run()


def assert_flawless(report: Report) -> None:
    assert {name: report.figures[name] for name in FAULTS if report.figures[name]} == {}, report.as_json()
    assert report.problems == []
    assert report.figures["connections"] == report.plan.connections
    assert report.latencies.total == report.figures["deliveries"]
    assert report.points[-1].connections == report.plan.connections


# --- Scenarios --------------------------------------------------------------------------------------------------------


def test_wide(server: Target) -> None:
    report = conduct(server, "wide", rate=200.0)
    assert_flawless(report)
    published = report.figures["published"]
    assert published is not None
    assert 20 <= published <= 122  # 121 where nothing holds it up
    assert report.figures["deliveries"] == 30 * published
    assert (report.figures["server_cpu"] or 0) >= 0
    assert (report.figures["server_rss"] or 0) > 1 << 20
    assert {point.phase for point in report.points} <= {"connecting", "publishing", "settling"}
    assert [point.seconds for point in report.points] == sorted(point.seconds for point in report.points)
    assert report.points[-1].phase == "settling"


@pytest.mark.slow
def test_the_moment_when_all_are_connected_comes_before_the_first_message(server: Target) -> None:
    seen = []

    def joined() -> None:
        seen.append((coordinator.phase, [point.rate_in for point in coordinator.points if point.rate_in]))

    coordinator = Coordinator(make_plan("wide", SMALL), server, on_joined=joined)
    assert_flawless(coordinator.run())
    assert seen == [("connecting", [])]


def test_deep(server: Target) -> None:
    report = conduct(server, "deep", outstanding=32)
    assert_flawless(report)
    assert report.figures["deliveries"] == 30 * (report.figures["published"] or 0)
    assert (report.figures["published"] or 0) > 200


@pytest.mark.slow
def test_many_with_two_processes(server: Target) -> None:
    report = conduct(server, "many", patterns=30, rate=500.0, processes=2)
    assert_flawless(report)
    assert report.figures["deliveries"] == report.figures["published"]
    assert 100 <= (report.figures["published"] or 0) <= 302


@pytest.mark.slow
def test_one_message_reaches_the_subscribers_of_two_processes(server: Target) -> None:
    report = conduct(server, "wide", processes=2, patterns=3, subscriptions_per_connection=2)
    assert_flawless(report)
    # Each of three patterns has 20 of the 60 subscriptions.
    assert report.figures["deliveries"] == 20 * (report.figures["published"] or 0)


def test_churn(server: Target) -> None:
    report = conduct(server, "churn", patterns=6, rate=300.0, reconnects=60.0, resubscribes=100.0, duration=1.0)
    assert_flawless(report)
    assert (report.figures["reconnects"] or 0) >= 10
    assert (report.figures["resubscribes"] or 0) >= 10
    assert report.figures["rejoin_p50"] is not None


@pytest.mark.slow
def test_storm(server: Target) -> None:
    report = conduct(server, "storm", patterns=5, rate=200.0)
    assert_flawless(report)
    assert (report.figures["storm_seconds"] or 0) > 0
    assert report.figures["rejoin_max"] is not None
    assert (report.figures["deliveries"] or 0) < 6 * (report.figures["published"] or 0) + 1


@pytest.mark.slow
def test_clients_that_fail_in_a_storm_retry_until_all_are_back(valkey: Valkey) -> None:
    def relay(server: ScriptedServer, count: int, frame: bytes) -> None:
        # Three of those that come back are turned away at least.
        server.answer = REFUSED if len(server.heads) < 2 + 3 else ACCEPTED

    with relaying(valkey, relay) as target:
        report = conduct(target, "storm", connections=2, patterns=1, rate=100.0)
    assert (report.figures["storm_seconds"] or 0) > 0
    assert (report.figures["failed"] or 0) >= 3
    assert report.points[-1].connections == 2
    assert not any("storm" in warning for warning in report.warnings)


@pytest.mark.slow
def test_a_storm_that_not_everyone_comes_back_from_has_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "CONNECT_TIMEOUT", 0.5)
    ours, theirs = multiprocessing.Pipe()
    with scripted() as server, ours, theirs, tempfile.NamedTemporaryFile() as sent:
        sent.truncate(4)
        host, port = server.address
        target = find_target(f"ws://{host}:{port}/ws")
        plan = make_plan("storm", {"connections": 3, "patterns": 1})
        it = worker._Worker(theirs, worker.Job(0, plan, target, "test", Path(sent.name), 10.0))
        it.fleet.connect()
        assert it.fleet.run(15, _load.READY)
        server.answer = REFUSED
        it.storm()
        counts = it.fleet.counts()
        it.fleet.close()
    assert it.storm_seconds is None
    assert counts["ready"] == 0
    assert counts["failed"] >= 6


@pytest.mark.slow
@pytest.mark.parametrize("publish", ["api", "batch"])
def test_publishing_through_the_api(server: Target, publish: Any) -> None:
    target = find_target(server.url, publish=publish)
    assert target.pids == server.pids
    report = conduct(target, "wide", patterns=3, rate=300.0)
    assert_flawless(report)
    assert report.figures["deliveries"] == 10 * (report.figures["published"] or 0)


@pytest.mark.slow
def test_a_ramp_opens_connections_over_its_time(server: Target) -> None:
    report = conduct(server, "wide", ramp=0.5)
    assert_flawless(report)
    assert 0 < (report.figures["connect_rate"] or 0) < 80


@pytest.mark.slow
def test_processes_connect_when_all_are_there(server: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, list[str]]] = []
    say = ClientProcesses.send

    coordinators: list[Coordinator] = []

    class Watched(Coordinator):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            coordinators.append(self)

    def listen(processes: ClientProcesses, command: str, value: Any = None) -> None:
        said.append((command, list(coordinators[0]._events)))
        say(processes, command, value)

    monkeypatch.setattr(ClientProcesses, "send", listen)
    monkeypatch.setattr(f"{__name__}.Coordinator", Watched)
    report = conduct(server, "wide", processes=3, duration=0.3)
    assert_flawless(report)
    assert said[0] == ("connect", ["begun"] * 3)
    assert (report.figures["connect_rate"] or 0) > 0


# --- Bad servers ------------------------------------------------------------------------------------------------------


@contextmanager
def relaying(valkey: Valkey, relay: Callable[[ScriptedServer, int, bytes], None]) -> Iterator[Target]:
    """A server that passes publications on as ``relay(server, which one, frame)`` does."""
    client = redis.Redis(unix_socket_path=str(valkey.socket))
    subscriber: Any = client.pubsub()  # type: ignore[no-untyped-call]
    lock = threading.Lock()
    subscribed: dict[bytes, bytes] = {}

    def pump() -> None:
        count = 0
        for message in subscriber.listen():
            if message["type"] == "message":
                count += 1
                label = subscribed[message["channel"]]
                relay(bad, count, server_frame(TEXT, label + b"?" + message["data"]))
            elif message["type"] == "unsubscribe":
                return

    with scripted() as bad:
        thread = threading.Thread(target=pump, daemon=True)

        def reply(action: dict[str, object]) -> bytes:
            pattern = Pattern(action["pat"])  # type: ignore[arg-type]
            with lock:
                if pattern.channel.encode() not in subscribed:
                    subscribed[pattern.channel.encode()] = pattern.id.encode()
                    subscriber.subscribe(pattern.channel)
                    if not thread.is_alive():
                        thread.start()
                    # In force once the broker counts it.
                    while valkey.command("PUBSUB", "NUMSUB", pattern.channel)[1] == 0:
                        pass
            return ScriptedServer.good_reply(action)

        bad.reply = reply
        host, port = bad.address
        try:
            yield find_target(f"ws://{host}:{port}/ws", redis=valkey.url)
        finally:
            subscriber.unsubscribe()
            thread.join(10)
            assert not thread.is_alive()
            subscriber.close()
            client.close()


def to_all(server: ScriptedServer, frame: bytes, *, but: int = -1, times: int = 1) -> None:
    for number, _ in enumerate(list(server.clients)):
        if number != but:
            server.send(frame * times, number)


def test_a_good_relay_is_flawless(valkey: Valkey) -> None:
    with relaying(valkey, lambda server, count, frame: to_all(server, frame)) as target:
        report = conduct(target, "wide", connections=3, rate=100.0)
    assert_flawless(report)
    assert report.figures["deliveries"] == 3 * (report.figures["published"] or 0)


@pytest.mark.slow
def test_subscribers_send_the_headers_that_were_given(valkey: Valkey) -> None:
    heads: list[bytes] = []

    def relay(server: ScriptedServer, count: int, frame: bytes) -> None:
        heads[:] = server.heads
        to_all(server, frame)

    with relaying(valkey, relay) as target:
        conduct(replace(target, headers=(("X-User", "42"),)), "wide", connections=2, rate=100.0)
    assert len(heads) == 2
    assert all(head.endswith(b"\r\nX-User: 42") for head in heads)


def test_lost_messages_are_reported(valkey: Valkey) -> None:
    def relay(server: ScriptedServer, count: int, frame: bytes) -> None:
        to_all(server, frame, but=1 if count in (5, 6, 20) else -1)

    with relaying(valkey, relay) as target:
        report = conduct(target, "wide", connections=3, rate=100.0)
    assert report.figures["lost"] == 3
    assert report.figures["errors"] == 3
    assert report.figures["deliveries"] == 3 * (report.figures["published"] or 0) - 3
    assert report.problems == [
        "lost: connection 1, pattern 0: expected message 5, then came 7",
        "lost: connection 1, pattern 0: expected message 20, then came 21",
    ]
    assert "lost 3" in report.verdict


@pytest.mark.slow
def test_messages_after_a_close_by_the_server_are_lost(valkey: Valkey) -> None:
    def relay(server: ScriptedServer, count: int, frame: bytes) -> None:
        to_all(server, frame, but=1 if count > 3 else -1)
        if count == 3:
            server.send(server_frame(CLOSE, b"\x0f\xa2"), 1)

    with relaying(valkey, relay) as target:
        report = conduct(target, "wide", connections=2, rate=100.0)
    published = report.figures["published"] or 0
    assert published > 10
    assert report.figures["lost"] == published - 3
    assert report.figures["closed"] == 1
    assert report.figures["forgone"] == 0
    assert report.figures["deliveries"] == published + 3
    assert report.close_codes == {4002: 1}
    assert report.problems == ["lost: connection 1, pattern 0: message 4 and what followed never came"]
    assert Expectation.parse("lost==0").failure(report.figures) == f"lost==0: lost is {published - 3:,.0f}"


@pytest.mark.slow
def test_second_and_late_deliveries_are_found(valkey: Valkey) -> None:
    held: list[bytes] = []

    def relay(server: ScriptedServer, count: int, frame: bytes) -> None:
        if count == 4:
            held.append(frame)
            return
        to_all(server, frame, times=2 if count == 10 else 1)
        if count == 6:
            to_all(server, held[0])

    with relaying(valkey, relay) as target:
        report = conduct(target, "wide", connections=2, rate=100.0)
    found = {name: report.figures[name] for name in FAULTS if report.figures[name]}
    assert found == {"reordered": 2, "duplicates": 2}


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["churn", "storm"])
def test_thousands_come_and_go(server: Target, scenario: str) -> None:
    report = conduct(server, scenario, connections=4000, duration=8.0, processes=2)
    assert_flawless(report)
    assert scenario == "churn" or (report.figures["storm_seconds"] or 0) > 0
    assert scenario == "storm" or (report.figures["reconnects"] or 0) > 400


@pytest.mark.slow
def test_messages_that_stop_arriving_are_lost(valkey: Valkey) -> None:
    with relaying(valkey, lambda server, count, frame: to_all(server, frame, but=0 if count > 30 else -1)) as target:
        report = conduct(target, "wide", connections=2, rate=100.0)
    assert report.figures["lost"] == (report.figures["published"] or 0) - 30
    assert "what followed never came" in report.problems[0]


@pytest.mark.slow
def test_a_client_process_that_ends_is_an_error(server: Target) -> None:
    def kill(point: Point) -> None:
        os.kill(coordinator._processes.pid(0), signal.SIGKILL)

    coordinator = Coordinator(make_plan("wide", {**SMALL, "duration": 30.0}), server, on_point=kill)
    with pytest.raises(LoadTestError, match="client process 0 ended unexpectedly, with status -9"):
        coordinator.run()


# --- The command ------------------------------------------------------------------------------------------------------


def command(*arguments: str) -> Result:
    return CliRunner().invoke(loadtest, ["--no-live", *arguments])


@pytest.mark.slow
def test_a_report_as_json_and_as_a_page(server: Target, tmp_path: Path) -> None:
    page, file = tmp_path / "report.html", tmp_path / "report.json"
    result = command(
        "--url", server.url, "--connections", "20", "--rate", "100", "--duration", "0.5", "--expect", "lost==0",
        "--expect", "deliveries>100", "--html", str(page), "--json", str(file),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "every message reached every subscriber" in result.stdout
    assert "held: lost==0" in result.stdout
    assert "publishing: " in result.stderr
    found = json.loads(file.read_text())
    assert found["plan"]["publish"] == "api"
    assert found["expectations"] == [{"text": "lost==0", "failure": None}, {"text": "deliveries>100", "failure": None}]
    assert page.read_text().startswith("<!doctype html>")


def test_a_failed_expectation_is_exit_status_1_and_named(server: Target) -> None:
    result = command(
        "--url", server.url, "--connections", "5", "--duration", "0.3", "--expect", "p99<1us", "--expect", "lost==0",
        "--json", "-",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "failed: p99<1us: p99 is " in result.stderr
    found = json.loads(result.stdout)
    assert [each["failure"] is None for each in found["expectations"]] == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--expect", "p99<50"], "p99 is a time"),
        (["--scenario", "tall"], "no scenario 'tall'"),
        (["--connections", "0"], "--connections must be at least 1"),
        (["--url", "wss://127.0.0.1/ws"], "does not speak TLS"),
        (["--api", "http://127.0.0.1/"], "--api needs a server"),
        (["--header", "X-User: 42"], "--header needs a server"),
        (["--url", "ws://127.0.0.1/ws", "--header", "X-User"], "--header 'X-User' is not a header"),
        (["--url", "ws://127.0.0.1/ws", "--workers", "2"], "--workers is for the server that is started"),
        (["--key", "x"], "--key needs a server"),
        (["--url", "ws://127.0.0.1/ws", "--redis", "redis://x", "--publish", "api"], "--redis is for publishing at"),
        (["--url", "ws://127.0.0.1/ws", "--redis", "redis://x", "--key", "x"], "--key is for publishing through the"),
        (["--url", "ws://127.0.0.1/ws", "--publish", "redis", "--api", "http://x"], "--api is for publishing through"),
        (["--rate", "5", "--outstanding", "5"], "--rate and --outstanding contradict each other"),
        (["--json", "/tmp/x", "--html", "/tmp/x"], "--json and --html name the same file"),
        (["--expect", "storm_seconds<1s"], "only measured with --scenario storm"),
        (["--expect", "rejoin_p99<1s"], "no client rejoins without --reconnects"),
        (["--url", "ws://127.0.0.1/ws", "--source-address", "here"], "'here' is not a numeric IP address"),
        (["--url", "ws://127.0.0.1/ws", "--source-address", "::1"], "an address of the other version"),
        (["--url", "ws://127.0.0.1/ws", "--source-address", "192.0.2.1"], "--source-address 192.0.2.1 cannot be used"),
    ],
)
def test_unusable_arguments_exit_with_2(arguments: list[str], error: str) -> None:
    result = command(*arguments)
    assert result.exit_code == 2
    assert error in result.stderr


@pytest.mark.slow
def test_a_missing_server_gives_exit_status_1() -> None:
    result = command("--url", f"ws://127.0.0.1:{free_port()}/ws", "--connections", "2")
    assert result.exit_code == 1
    assert "Connection refused" in result.stderr


@contextmanager
def locked(valkey: Valkey, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The address of a server that wants a key to be published through, and the key."""
    key, lines = generate("test")
    keys = tmp_path / "keys.toml"
    keys.write_text(lines)
    with serving("--keys", str(keys), "--redis", valkey.url) as process:
        yield process.ws, key


@pytest.mark.slow
@pytest.mark.parametrize("publish", ["api", "batch"])
def test_it_publishes_with_a_key(
    shared_valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, publish: str
) -> None:
    report, page = tmp_path / "report.json", tmp_path / "report.html"
    with locked(shared_valkey, tmp_path) as (url, key):
        monkeypatch.setenv("REALIZEHIT_KEY", key)
        result = command(
            "--url", url, "--connections", "3", "--rate", "100", "--duration", "0.3", "--publish", publish,
            "--expect", "errors==0", "--expect", "deliveries>30", "--json", str(report), "--html", str(page),
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    for text in (result.output, report.read_text(), page.read_text()):
        assert key not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "401, an API key is needed: send Authorization: Bearer KEY; give a key with REALIZEHIT_KEY or --key"),
        (["--key", "rh_wrong"], "401, the API key is not known"),
    ],
)
def test_a_missing_right_to_publish_is_reported_first(
    shared_valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], error: str
) -> None:
    monkeypatch.delenv("REALIZEHIT_KEY", raising=False)
    with locked(shared_valkey, tmp_path) as (url, _):
        result = command("--url", url, "--connections", "3", *arguments)
    assert result.exit_code == 1
    assert error in result.stderr
    assert "connecting" not in result.stderr
    assert "rh_wrong" not in result.output


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--html", "--json"])
def test_an_unwritable_report_is_reported_before_the_load_test(server: Target, tmp_path: Path, option: str) -> None:
    for place, said in (
        (tmp_path / "no" / "report", "report cannot be written: No such file"),
        (tmp_path, "directory"),
    ):
        result = command("--url", server.url, "--connections", "1", "--duration", "600", option, str(place))
        assert result.exit_code == 1
        assert said in result.stderr
        assert result.stdout == ""


@pytest.mark.slow
def test_looking_whether_a_report_can_be_written_changes_nothing(tmp_path: Path) -> None:
    new, old = tmp_path / "new.html", tmp_path / "old.json"
    old.write_text("as it was")
    url = f"ws://127.0.0.1:{free_port()}/ws"
    result = command("--url", url, "--connections", "1", "--html", str(new), "--json", str(old))
    assert result.exit_code == 1
    assert "Connection refused; is the server running there?" in result.stderr
    assert not new.exists()
    assert old.read_text() == "as it was"


@pytest.mark.slow
def test_modules_in_the_working_directory_are_not_imported(tmp_path: Path) -> None:
    for name in ("json", "uvloop", "redis", "httpx2", "asyncio", "pickle", "realizehit", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the working directory was imported')\n")
    options = ["--connections", "4", "--duration", "0.2", "--processes", "2", "--workers", "2", "--expect", "errors==0"]
    # The working directory is first, as `python -m` puts it, or an empty text, as `python -c` does.
    code = "import sys; from realizehit.cli import client; sys.path.insert(0, sys.argv.pop(1)); client()"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for first in (str(tmp_path), ""):
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, first, "loadtest", *options],
            cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "every message reached every subscriber" in done.stdout


@pytest.mark.slow
def test_the_servers_reason_for_refusing_subscribers_is_shown(shared_valkey: Valkey) -> None:
    tokens = {"REALIZEHIT_JWT_SECRET": "0123456789" * 4}
    options = ("--jwt-algorithm", "HS256", "--jwt-claim", "user=sub")
    with serving("--redis", shared_valkey.url, *options, env=tokens) as process:
        header = ("--header", "Authorization: Bearer x")
        result = command("--url", process.ws, "--connections", "2", "--redis", shared_valkey.url, *header)
    assert result.exit_code == 1
    assert "401 Unauthorized; the token is malformed" in result.stderr


@pytest.mark.slow
def test_without_epoll_it_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_load, "HAVE_EPOLL", False)
    result = command("--connections", "2")
    assert result.exit_code == 1
    assert "needs epoll, that is Linux" in result.stderr


@pytest.mark.slow
def test_scenarios_and_figures_are_listed() -> None:
    result = command("--list")
    assert result.exit_code == 0
    for word in ("storm", "p99.9", "rss_per_connection"):
        assert word in result.stdout


@pytest.mark.slow
def test_ctrl_c_ends_it_early_with_a_report(server: Target) -> None:
    main = "from realizehit.cli.loadtest import loadtest; loadtest()"
    arguments = ["--url", server.url, "--connections", "10", "--duration", "600", "--json", "-"]
    with subprocess.Popen(
        [sys.executable, "-c", main, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        for line in process.stderr:
            if line.startswith("publishing"):
                break
        # A line is printed every five seconds: the first one of this phase comes as it begins.
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        found = json.loads(process.stdout.read())
        assert process.wait(20) == 0, rest
    assert found["interrupted"] is True
    assert "stopped early" in found["warnings"][0]
    assert found["figures"]["connections"] == 10
    assert found["figures"]["lost"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_is_started_if_no_url_is_given(workers: int) -> None:
    with embedded_target(workers=workers) as target:
        assert target.embedded
        # The parent of several workers counts too: it may hold their subscription at the broker.
        assert len(target.pids) == (1 if workers == 1 else 3)
        assert target.workers == workers
        assert set(find_target(target.url).pids) == set(target.pids)
        report = conduct(target, "wide", connections=5, duration=0.3)
    assert_flawless(report)
    assert not any(Path(f"/proc/{pid}").exists() for pid in target.pids)


@pytest.mark.slow
def test_sources_in_the_working_directory_do_not_shadow_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "realizehit").mkdir()
    (tmp_path / "realizehit" / "__init__.py").write_text("raise SystemExit('these are the wrong sources')")
    monkeypatch.chdir(tmp_path)
    with embedded_target() as target:
        assert target.embedded
