"""A load test in the terminal: its progress, and its report."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from realizehit.loadtest.expect import show, show_bytes, show_time
from realizehit.loadtest.plan import Plan
from realizehit.loadtest.report import LIMITED, Point, Report
from realizehit.loadtest.target import Target

_SPARKS: Final = "▁▂▃▄▅▆▇█"
_WIDTH: Final = 40  # points of the small curves
PLAIN_INTERVAL: Final = 5.0  # seconds between two lines if the output is not a terminal


class LiveView:
    """Shows the points of a load test as they come: redrawn on a terminal, otherwise a line every few seconds.

    Args:
        console: where to print.
        plan: for the progress bar.
        target: the title names it.
        scenario: the title names it too.
    """

    def __init__(self, console: Console, plan: Plan, target: Target, scenario: str) -> None:
        self._console = console
        self._plan = plan
        self._title = f"{scenario} · {target.url}{' (started for this test)' if target.embedded else ''}"
        self._points: list[Point] = []
        self._phase = ""
        self._told = 0.0
        self._progress = Progress(
            TextColumn("{task.description:11}"), BarColumn(), TextColumn("{task.fields[state]}"), console=console
        )
        self._task: TaskID = self._progress.add_task("starting", total=1.0, state="")
        self._live: Live | None = None

    def __enter__(self) -> LiveView:
        if self._console.is_terminal:
            self._live = Live(self._draw(), console=self._console, refresh_per_second=8, transient=True)
            self._live.start()
        else:
            self._console.print(self._title, markup=False, highlight=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, point: Point) -> None:
        """Take one more point."""
        self._points.append(point)
        plan = self._plan
        if point.phase == "publishing":
            done, state = point.seconds / plan.duration, f"{max(0.0, point.seconds):.1f} of {plan.duration:g} s"
        elif point.phase == "connecting":
            done, state = point.connections / plan.connections, f"{point.connections:,} of {plan.connections:,}"
        else:
            done, state = 1.0, "waiting for what is under way"
        self._progress.update(self._task, description=point.phase, completed=min(1.0, max(0.0, done)), state=state)
        if self._live is not None:
            self._live.update(self._draw())
        elif point.phase != self._phase or time.monotonic() - self._told >= PLAIN_INTERVAL:
            self._told = time.monotonic()
            self._console.print(_line(point, state), markup=False, highlight=False)
        self._phase = point.phase

    def _draw(self) -> RenderableType:
        point = self._points[-1] if self._points else None
        grid = Table.grid(padding=(0, 3))
        for _ in range(3):
            grid.add_column()
        if point is not None:
            rows = [
                ("connections", f"{point.connections:,}", [float(p.connections) for p in self._points]),
                ("messages in", f"{point.rate_in:,.0f}/s", [p.rate_in for p in self._points]),
                ("deliveries out", f"{point.rate_out:,.0f}/s", [p.rate_out for p in self._points]),
                ("latency p50", _time(point.p50), [p.p50 or 0.0 for p in self._points]),
                ("latency p99", _time(point.p99), [p.p99 or 0.0 for p in self._points]),
            ]
            if point.server_cpu is not None:
                cpus = [p.server_cpu or 0.0 for p in self._points]
                rows.append(("server", f"{point.server_cpu:.2f} cores, {show_bytes(point.server_rss or 0)}", cpus))
            for name, value, curve in rows:
                grid.add_row(Text(name, style="dim"), Text(value, style="bold", justify="right"), Text(spark(curve)))
            grid.add_row(
                Text("errors", style="dim"), Text(f"{point.errors:,}", style="bold red" if point.errors else "green")
            )
        return Group(Text(self._title, style="bold"), self._progress, grid)


def spark(values: list[float]) -> str:
    """Draw the last values as a small curve from zero to the highest of them."""
    shown = values[-_WIDTH:]
    top = max(shown, default=0.0)
    if top <= 0:
        return _SPARKS[0] * len(shown)
    return "".join(_SPARKS[min(len(_SPARKS) - 1, int(max(0.0, value) / top * len(_SPARKS)))] for value in shown)


def show_report(console: Console, report: Report) -> None:
    """Print the report of a load test."""
    figures = report.figures
    console.print(Text(f"{report.scenario}: {report.summary}", style="bold"))
    table = Table.grid(padding=(0, 3))
    for _ in range(4):
        table.add_column()
    left = [
        ("published", _figure(report, "published")),
        ("rate in", _figure(report, "rate_in")),
        ("deliveries", _figure(report, "deliveries")),
        ("rate out", _figure(report, "rate_out")),
        ("connections", f"{_figure(report, 'connections')}, made at {_figure(report, 'connect_rate')}"),
        ("client CPU", _figure(report, "client_cpu")),
    ]
    right = [(f"latency {name}", _figure(report, name)) for name in ("p50", "p90", "p99", "p99.9", "max")]
    right.append(("join p99", _figure(report, "join_p99")))
    if figures["server_cpu"] is not None:
        left.append(("server CPU", f"{_figure(report, 'server_cpu')}"))
        right.append(("per delivery", _figure(report, "server_cpu_per_delivery")))
        left.append(("server memory", _figure(report, "server_rss")))
        right.append(("per connection", _figure(report, "rss_per_connection")))
    if figures["reconnects"] or figures["resubscribes"]:
        left.append(("came and went", f"{_figure(report, 'reconnects')} connections"))
        right.append(("", f"{_figure(report, 'resubscribes')} subscriptions"))
    if figures["rejoin_p99"] is not None:
        left.append(("back after storm", _figure(report, "storm_seconds")))
        right.append(("rejoin p99", _figure(report, "rejoin_p99")))
    for (name, value), (other, other_value) in zip(left, right, strict=True):
        table.add_row(Text(name, style="dim"), value, Text(other, style="dim"), other_value)
    console.print(table, highlight=False)
    if report.headline:
        console.print(Text(report.headline))
    if report.limited:
        console.print(Text(LIMITED, style="bold yellow"))
    console.print(Text(report.verdict, style="bold red" if figures["errors"] else "green"))
    for code, count in sorted(report.close_codes.items()):
        console.print(Text(f"  closed with {code or 'no code'}: {count:,} connections"))
    for text in (*report.problems[:5], *report.notes[:5]):
        console.print(Text(f"  {text}"))
    for warning in report.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))
    for text, failure in report.expectations:
        console.print(Text(f"failed: {failure}", style="bold red") if failure else Text(f"held: {text}", style="green"))


def _figure(report: Report, name: str) -> str:
    return show(name, report.figures.get(name))


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else show_time(seconds)


def _line(point: Point, state: str) -> str:
    return (
        f"{point.phase}: {state}; {point.connections:,} connections, {point.rate_in:,.0f}/s in, "
        f"{point.rate_out:,.0f}/s out, p50 {_time(point.p50)}, p99 {_time(point.p99)}, {point.errors:,} errors"
    )
