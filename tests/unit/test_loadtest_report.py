from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from rich.console import Console

from realizehit.loadtest import doubts, source_addresses
from realizehit.loadtest.addresses import Address
from realizehit.loadtest.doubts import make_limits, make_warnings
from realizehit.loadtest.expect import FIGURES, Expectation
from realizehit.loadtest.figures import FAULTS, Moment, errors_of, make_figures
from realizehit.loadtest.histogram import Histogram
from realizehit.loadtest.html_report import nice, render
from realizehit.loadtest.plan import Plan
from realizehit.loadtest.proc_usage import MachineTimes, Usage, machine_times
from realizehit.loadtest.report import Point, Report, describe_problems
from realizehit.loadtest.target import Target
from realizehit.loadtest.terminal import LiveView, show_report, spark

COUNTS = dict.fromkeys(
    ("ready", "deliveries", "published", "reconnects", "resubscribes", "late", "abandoned", "forgone", *FAULTS), 0
)


def moment(clock: float, *, cpu: float = 0, server: Usage | None = None, **counts: int) -> Moment:
    return Moment(clock + 0.1, clock, {**COUNTS, **counts}, [cpu, cpu / 2], server)


def figures(**changes: object) -> dict[str, float | None]:
    values: dict[str, object] = {
        "began": moment(10, server=Usage(1, 1000)),
        "joined": replace(moment(12, ready=100, server=Usage(1.5, 51_000)), kernel=0.2),
        "started": moment(13, ready=100, cpu=1, server=Usage(2, 51_000)),
        "published": moment(23, ready=100, cpu=6, deliveries=200_000, published=2000, server=Usage(4, 51_000)),
        "last": moment(24, ready=100, cpu=6.2, deliveries=200_100, published=2001, lost=3, closed=1),
        "latencies": Histogram([(1000, 99), (2000, 1)]),
        "joins": Histogram([(500, 100)]),
        "rejoins": Histogram(),
        "storm_seconds": None,
        "rss": 60_000,
    }
    return make_figures(**{**values, **changes})  # type: ignore[arg-type]


def report(**changes: object) -> Report:
    points = [
        Point(
            n / 4 - 1,
            "connecting" if n < 4 else "publishing",
            100,
            200.0,
            2e4,
            0.001 if n > 4 else None,
            0.004,
            n,
            0.5,
            1,
        )
        for n in range(20)
    ]
    place = Address("127.0.0.1", 80, "/ws", "127.0.0.1")
    values: dict[str, object] = {
        "scenario": "wide",
        "plan": Plan(),
        "target": Target(place, place, None, "redis", embedded=True, pids=(1,)),
        "started": datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        "interrupted": False,
        "figures": figures(),
        "latencies": Histogram([(1000, 99), (2000, 1)]),
        "points": points,
        "warnings": ["take <care>"],
        "problems": ["lost: a & b"],
        "notes": ["<script>alert(1)</script>"],
        "close_codes": {4002: 1},
    }
    return Report(**{**values, **changes})  # type: ignore[arg-type]


def test_figures_are_differences_over_the_time_of_publishing() -> None:
    found = figures()
    assert set(found) == set(FIGURES)
    assert found["rate_in"] == 200
    assert found["rate_out"] == 20_000
    assert found["client_cpu"] == 0.5
    assert found["server_cpu"] == 0.2
    assert found["server_cpu_per_delivery"] == 1e-5
    assert found["connect_rate"] == 50
    assert found["rss_per_connection"] == 500
    assert found["server_cpu_per_connection"] == 0.005
    assert found["client_kernel_per_connection"] == 0.002
    assert found["errors"] == 4
    assert found["p50"] == 0.001
    assert found["max"] == 0.002
    assert found["rejoin_p99"] is None


def test_unmeasured_figures_are_none() -> None:
    found = figures(began=None, joined=None, started=None, published=None, rss=None)
    assert set(found) == set(FIGURES)
    assert {name for name, value in found.items() if value is None} == {
        "rate_in", "rate_out", "client_cpu", "server_cpu", "server_cpu_per_delivery", "connect_rate",
        "rss_per_connection", "server_cpu_per_connection", "client_kernel_per_connection", "server_rss",
        "storm_seconds", "rejoin_p50", "rejoin_p99", "rejoin_max",
    }  # fmt: skip


def test_every_fault_is_an_error_and_a_figure() -> None:
    assert errors_of(dict.fromkeys(FAULTS, 1)) == len(FAULTS)
    assert set(FAULTS) < set(FIGURES)


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"client_cpu": 0.95}, "95% of a core"),
        ({"late": 100.0}, "more than 10 ms after their time"),
        ({"rate_in": 150.0}, "150 messages per second were published instead of 200"),
        ({"connections": 60.0}, "only 60 of 1,000 connections"),
    ],
)
def test_doubtful_figures_have_warnings(changes: dict[str, float], warning: str) -> None:
    target = report(target=Target(Address("h", 1, "/", "h"), Address("h", 1, "/", "h"), None, "api")).target
    calm = {**figures(), "connections": 1000.0}
    assert make_warnings(Plan(), target, calm, Histogram()) == []
    (found,) = make_warnings(Plan(), target, {**calm, **changes}, Histogram([(2000, 1)]))
    assert warning in found
    assert "7 outstanding messages did not reach" in make_warnings(Plan(), target, calm, Histogram(), 7)[0]


def test_a_busy_client_gets_advice() -> None:
    busy = {**figures(), "connections": 1000.0, "client_cpu": 0.95}
    target = report(target=Target(Address("h", 1, "/", "h"), Address("h", 1, "/", "h"), None, "api")).target
    (found,) = make_warnings(Plan(), target, busy, Histogram())
    assert "spread the load with --processes" in found
    (found,) = make_warnings(Plan(rate=0, outstanding=8), target, busy, Histogram())
    assert "use --rate with --processes" in found


@pytest.mark.parametrize(
    ("cpus", "workers", "embedded", "warning"),
    [
        (3, 1, True, None),
        (2, 1, True, "1 server process, broker and 1 client process share 2 cores"),
        (4, 3, True, "3 server processes, broker and 1 client process share 4 cores"),
        (4, 3, False, None),
        (1, 1, False, "1 server process and 1 client process share 1 core:"),
    ],
)
def test_shared_cores_are_reported(
    monkeypatch: pytest.MonkeyPatch, cpus: int, workers: int, embedded: bool, warning: str | None
) -> None:
    monkeypatch.setattr(doubts, "machine", lambda: {"cpus": cpus})
    target = replace(report().target, embedded=embedded, workers=workers)
    found = make_warnings(Plan(), target, {**figures(), "connections": 1000.0}, Histogram())
    assert [warning in each for each in found] == [True] if warning else not found


def test_json_has_every_part_and_nothing_but_plain_values() -> None:
    it = report()
    expectation = Expectation.parse("lost==0")
    it.expectations = [(expectation.text, expectation.failure(it.figures))]
    found = json.loads(json.dumps(it.as_json(), allow_nan=False))
    assert set(found) == {
        "schema", "realizehit", "started", "interrupted", "scenario", "plan", "target", "machine", "figures", "latency",
        "timeline", "close_codes", "warnings", "problems", "notes", "expectations",
    }  # fmt: skip
    assert found["schema"] == 1
    assert found["started"] == "2026-01-02T03:04:00+00:00"
    assert set(found["figures"]) == set(FIGURES)
    assert found["latency"] == [[0.001, 99], [0.002, 1]]
    assert len(found["timeline"]) == 20
    assert set(found["timeline"][0]) == set(Point.__dataclass_fields__)
    assert found["plan"]["publish"] == "redis"
    assert found["close_codes"] == {"4002": 1}
    assert found["expectations"] == [{"text": "lost==0", "failure": "lost==0: lost is 3"}]


class Tags(HTMLParser):
    """Holds a page to balanced tags, and collects what it would load."""

    void = ("meta", "line")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in self.void:
            self.open.append(tag)
        self.loads += [f"{name}={value}" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_one_file_that_parses_and_loads_nothing() -> None:
    page = render(report())
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    assert tags.loads == []
    assert not {"script", "link", "img", "iframe", "object"} & set(tags.seen)
    assert "url(" not in page
    assert "@import" not in page
    assert "prefers-color-scheme: dark" in page
    assert "&lt;script&gt;" in page
    for figure in FIGURES:
        assert f"<td>{figure}</td>" in page


def test_the_charts_are_svg_with_their_curves() -> None:
    charts = [ET.fromstring(text) for text in re.findall(r"<svg.*?</svg>", render(report()), re.DOTALL)]
    labels = ["latency", "deliveries a second, messages a second", "p99, p50", "ready", "cores busy"]
    assert [chart.get("aria-label") for chart in charts] == labels
    for chart in charts:
        _, _, width, height = map(float, (chart.get("viewBox") or "").split())
        paths = [element.get("d") or "" for element in chart.iter("path")]
        assert paths
        for path in paths:
            numbers = [float(number) for number in re.findall(r"[0-9.]+", path)]
            assert len(numbers) >= 6
            assert all(0 <= x <= width for x in numbers[::2])
            assert all(0 <= y <= height for y in numbers[1::2])


def test_a_page_without_deliveries_is_still_a_page() -> None:
    empty = report(latencies=Histogram(), points=[], figures=figures(latencies=Histogram()), warnings=[], notes=[])
    page = render(empty)
    assert "Nothing was delivered." in page
    assert "<svg" not in page


@pytest.mark.parametrize(("value", "step"), [(1, 1), (1.1, 2), (2.2, 2.5), (3, 5), (6, 10), (0.03, 0.05), (700, 1000)])
def test_steps_of_axes_are_round(value: float, step: float) -> None:
    assert nice(value) == pytest.approx(step)


def test_the_summary_is_one_line() -> None:
    assert report().summary == "1,000 connections, 1 pattern, 200 messages/s, 128 bytes, published by redis"
    plan = Plan(connections=1, patterns=1, outstanding=512)
    assert report(plan=plan).summary == "1 connection, 1 pattern, 512 outstanding, 128 bytes, published by redis"
    assert report(plan=Plan(processes=2)).summary.endswith("published by redis, 2 client processes")


def test_problems_are_sentences() -> None:
    assert describe_problems([("lost", 1, 2, 3, 9), ("lost", 1, 2, 3, 0), ("duplicate", 0, 0, 5, 4)]) == [
        "lost: connection 1, pattern 2: expected message 3, then came 9",
        "lost: connection 1, pattern 2: message 3 and what followed never came",
        "duplicate: connection 0, pattern 0: message 4 came again, after it 5 was next",
    ]


def test_the_terminal_shows_what_came_of_it() -> None:
    out = io.StringIO()
    it = report()
    it.expectations = [("lost==0", "lost==0: lost is 3"), ("p99<1s", None)]
    show_report(Console(file=out, width=120), it)
    text = out.getvalue()
    for part in (
        "200,100",
        "20,000/s",
        "1.00 ms",
        "errors: lost 3, closed 1",
        "closed with 4002: 1",
        "failed: lost==0",
    ):
        assert part in text
    assert "held: p99<1s" in text
    assert "warning: take <care>" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_the_live_view_takes_every_point(terminal: bool) -> None:
    out = io.StringIO()
    it = report()
    console = Console(file=out, force_terminal=terminal, width=100, _environ={"TERM": "xterm"})
    with LiveView(console, it.plan, it.target, "wide") as view:
        for point in it.points:
            view.show(point)
    text = out.getvalue()
    assert "ws://127.0.0.1/ws" in text
    if terminal:
        # It is redrawn a few times a second, which leaves points out; at the end it shows the last one.
        lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).splitlines()
        last = [line.strip() for line in lines if line.strip()][-8:]
        wanted = [
            r"publishing\s+\S+\s+3\.8 of 10 s",
            r"connections\s+100\s+█{20}",
            r"messages in\s+200/s\s+█{20}",
            r"deliveries out\s+20,000/s\s+█{20}",
            r"latency p50\s+1\.00 ms\s+▁{5}█{15}",
            r"latency p99\s+4\.00 ms\s+█{20}",
            r"server\s+0\.50 cores, 1 B\s+█{20}",
            r"errors\s+19",
        ]
        for line, pattern in zip(last, wanted, strict=True):
            assert re.fullmatch(pattern, line), line
    else:
        rates = "100 connections, 200/s in, 20,000/s out"
        assert f"connecting: 100 of 1,000; {rates}, p50 -, p99 4.00 ms, 0 errors" in text
        assert f"publishing: 0.0 of 10 s; {rates}, p50 -, p99 4.00 ms, 4 errors" in text


def test_small_curves_go_from_zero_to_the_highest() -> None:
    assert spark([]) == ""
    assert spark([0.0, 0.0]) == "▁▁"
    assert spark([0.0, 50.0, 100.0]) == "▁▅█"
    assert len(spark([1.0] * 100)) == 40


# ---- whose limit it was


def point(client_cpu: float | None, phase: str = "publishing") -> Point:
    return Point(0.0, phase, 1, 1.0, 1.0, 0.001, 0.001, 0, 0.1, 1, client_cpu)


def limits(*points: Point, busy: float = 0.5, machine: float | None = None, pids: tuple[int, ...] = ()) -> list[str]:
    place = Address("127.0.0.1", 80, "/ws", "127.0.0.1")
    target = Target(place, place, None, "redis", pids=pids)
    return make_limits(Plan(), target, {**figures(), "client_cpu": busy}, points, machine)


def test_a_client_that_was_calm_was_no_limit() -> None:
    assert limits(*[point(0.5)] * 20, point(1.0), point(1.0, "connecting"), point(None), machine=0.9) == []


def test_a_client_that_was_busy_all_the_time_or_often_was_the_limit() -> None:
    (always,) = limits(busy=0.97)
    assert always.startswith("a client process used 97% of a core: the figures may be the client's limit")
    (often,) = limits(*[point(0.5)] * 3, point(0.95))
    assert often.startswith("a client process used over 90% of a core for 25% of the time")
    assert "spread the load with --processes" in often


def test_a_machine_without_a_free_core_was_the_limit() -> None:
    (alone,) = limits(machine=0.99)
    assert "the cores of this machine were busy 99% of the time" in alone
    assert "the client had to wait" in alone
    (shared,) = limits(machine=0.95, pids=(1,))
    assert "server and client had to wait for each other" in shared


def connecting(*course: tuple[int, float]) -> list[Point]:
    """Return a point a second: connections, and cores that the client's kernel kept busy."""
    return [
        replace(point(0.5, "connecting"), seconds=float(n), connections=connections, client_kernel=kernel)
        for n, (connections, kernel) in enumerate(course)
    ]


def test_a_kernel_that_looked_long_for_free_ports_was_the_limit() -> None:
    fast = [(0, 0.0), (5000, 0.5), (10_000, 0.6)]
    (found,) = limits(*connecting(*fast, (10_700, 1.4), (11_400, 1.4)))
    assert found.startswith("the kernel of the client's machine used 2.00 ms of CPU for each connection")
    assert "--source-address" in found
    assert limits(*connecting(*fast)) == []
    # A server that takes few connections leaves the client idle.
    assert limits(*connecting(*fast, (10_010, 0.1), (10_020, 0.1))) == []
    # A moment in a long time of connecting does not count.
    assert limits(*connecting(*[(5000 * n, 0.5) for n in range(20)], (95_100, 0.9))) == []
    later = [replace(each, phase="publishing") for each in connecting((0, 0.0), (10, 0.9))]
    assert limits(*later) == []


@pytest.mark.parametrize(("sources", "share"), [((), "71%"), (("127.0.0.2", "127.0.0.3"), None)])
def test_source_addresses_whose_ports_are_mostly_taken_are_told(
    monkeypatch: pytest.MonkeyPatch, sources: tuple[str, ...], share: str | None
) -> None:
    monkeypatch.setattr(source_addresses, "ports", lambda: 28_000)
    place = Address("127.0.0.1", 80, "/ws", "127.0.0.1")
    target = Target(place, place, None, "redis", sources=sources)
    found = make_warnings(Plan(connections=20_000), target, {**figures(), "connections": 20_000.0}, Histogram())
    told = [text for text in found if "--source-address" in text]
    assert [f"use {share} of the ports" in text for text in told] == ([True] if share else [])


def test_the_share_of_the_time_in_which_a_machine_was_busy() -> None:
    assert MachineTimes(60, 200).share_since(MachineTimes(10, 100)) == 0.5
    assert MachineTimes(60, 200).share_since(MachineTimes(60, 200)) is None
    now = machine_times()
    assert now is None or 0 < now.busy < now.total


@pytest.mark.parametrize("limited", [False, True])
def test_a_report_does_not_blame_the_server_for_the_clients_limit(limited: bool) -> None:
    found = report(limited=limited)
    found.expect([Expectation.parse(text) for text in ("p99<1us", "rate_out>1M", "lost==0", "p50<1s")])
    failures = [failure for _, failure in found.expectations]
    blames = [failure is not None and "the server may not be the cause" in failure for failure in failures]
    assert blames == [limited, limited, False, False]  # a message that is lost is lost however busy a client is
    assert failures[3] is None
    screen = io.StringIO()
    show_report(Console(file=screen, width=200), found)
    for text in (screen.getvalue().lower(), render(found).lower()):
        assert ("the load test was at its own limit: " in text) == limited
        assert "half of the deliveries came within 1.00 ms after the message was " in text


def test_the_page_fits_a_narrow_screen() -> None:
    page = render(report())
    assert "@media (max-width: 600px)" in page
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    for chart in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        texts = [text for text in ET.fromstring(chart).iter("text") if text.get("class") in (None, "odd")]
        classes = [text.get("class") for text in texts]
        assert classes == [None if number % 2 == 0 else "odd" for number in range(len(classes))]
        assert len(classes) > 1
