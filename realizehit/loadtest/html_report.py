"""The report as one HTML page: no scripts, no requests, charts as inline SVG, light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Final, NamedTuple

from realizehit.loadtest.expect import FIGURES, show, show_time
from realizehit.loadtest.histogram import Histogram
from realizehit.loadtest.report import LIMITED, Point, Report, machine

WIDTH: Final = 720
HEIGHT: Final = 276
EDGE: Final = 0.97  # of the width; a text in the middle under a mark beyond it would not have room
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 28, 56

_TILES: Final = {
    "rate_out": "deliveries a second",
    "rate_in": "messages a second",
    "p50": "latency, half of the deliveries",
    "p99": "latency, 99 % of the deliveries",
    "max": "latency, the slowest delivery",
    "connections": "connections",
    "errors": "errors",
    "server_cpu": "the server's processor time",
}

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2330; --dim: #5d6778; --line: #d9dee7; --back: #ffffff; --card: #f6f8fb;
  --a: #2563eb; --b: #d97706; --bad: #b91c1c; --good: #15803d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --dim: #97a1b3; --line: #333b49; --back: #11151c;
  --card: #191f29; --a: #6ea8fe; --b: #fbbf24; --bad: #f87171; --good: #4ade80; } }
body { margin: 0 auto; padding: 2rem 1rem; max-width: 760px; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; } p { margin: .3rem 0; }
h1, p, li { overflow-wrap: anywhere; }
.dim { color: var(--dim); } .bad { color: var(--bad); } .good { color: var(--good); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .6rem; margin: 1.2rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem .8rem; }
.tile b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; } .tile span { color: var(--dim); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td { border-top: 1px solid var(--line); padding: .25rem .5rem .25rem 0; vertical-align: top; }
td:nth-child(2) { text-align: right; white-space: nowrap; padding-right: 1rem; }
svg { width: 100%; height: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
svg text { fill: var(--dim); font: 11px system-ui, sans-serif; } .grid { stroke: var(--line); }
.a { stroke: var(--a); } .b { stroke: var(--b); } .curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg .key-a { fill: var(--a); } svg .key-b { fill: var(--b); }
.limit { border-left: 4px solid var(--b); padding: .1rem .8rem; background: var(--card); margin: 1rem 0; }
@media (max-width: 600px) {
  body { padding: 1rem .8rem; } .tiles { grid-template-columns: 1fr 1fr; }
  /* The charts shrink with the page, and their texts must not: twice as large, half as many. */
  svg text { font-size: 22px; } svg .odd { display: none; }
  svg .y { text-anchor: start; transform: translate(-52px, -8px); }
  table, tbody, tr, td { display: block; } td { border: 0; padding: 0; overflow-wrap: anywhere; }
  tr { border-top: 1px solid var(--line); padding: .4rem 0; } td:nth-child(2) { text-align: left; font-weight: 600; }
}
"""


class Axis(NamedTuple):
    """One axis of a chart: where values fall between 0 and 1, and which of them are marked with what text."""

    place: Callable[[float], float]
    marks: list[tuple[float, str]]


class Curve(NamedTuple):
    """One line of a chart; `None` interrupts it."""

    name: str
    points: Sequence[tuple[float, float | None]]


def render(report: Report) -> str:
    """Return the page."""
    figures = report.figures
    made = machine()
    place = (
        f"{report.target.url} · {report.started:%Y-%m-%d %H:%M} UTC · {made['model']}, {made['cpus']} cores · "
        f"{made['system']}"
    )
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Load test: {escape(report.scenario)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>Load test: {escape(report.scenario)}</h1>",
        f'<p class="dim">{escape(report.summary)}</p>',
        f'<p class="dim">{escape(place)}</p>',
        '<div class="tiles">',
        *(
            f'<div class="tile"><b>{escape(show(name, figures[name]))}</b><span>{escape(text)}</span></div>'
            for name, text in _TILES.items()
            if figures.get(name) is not None
        ),
        "</div>",
        *([f"<p>{escape(_sentence(report.headline))}</p>"] if report.headline else []),
        f'<p class="{"bad" if figures["errors"] else "good"}">{escape(_sentence(report.verdict))}</p>',
        *([f'<p class="limit"><b>{escape(_sentence(LIMITED))}</b></p>'] if report.limited else []),
        *(f'<p class="bad">Warning: {escape(warning)}</p>' for warning in report.warnings),
        *_expectations(report),
        "<h2>Latency by percentile</h2>",
        percentile_chart(report.latencies),
        "<h2>Throughput</h2>",
        time_chart(
            report.points,
            [("deliveries a second", lambda p: p.rate_out), ("messages a second", lambda p: p.rate_in)],
            show_count,
        ),
        "<h2>Latency over time</h2>",
        time_chart(report.points, [("p99", lambda p: p.p99), ("p50", lambda p: p.p50)], show_time),
        "<h2>Connections</h2>",
        time_chart(report.points, [("ready", lambda p: float(p.connections))], show_count),
        *_server(report),
        "<h2>All figures</h2><table>",
        *(
            f"<tr><td>{name}</td><td>{escape(show(name, figures.get(name)))}</td>"
            f'<td class="dim">{escape(text)}</td></tr>'
            for name, (_, text) in FIGURES.items()
        ),
        "</table>",
        *_texts("Examples of errors", report.problems),
        *_texts("Notes", report.notes),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _expectations(report: Report) -> list[str]:
    return [
        f'<p class="bad">Failed: {escape(failure)}</p>' if failure else f'<p class="good">Held: {escape(text)}</p>'
        for text, failure in report.expectations
    ]


def _server(report: Report) -> list[str]:
    curves: list[tuple[str, Callable[[Point], float | None]]] = [
        ("cores busy", lambda p: p.server_cpu),
        ("busiest client", lambda p: p.client_cpu),
    ]
    known = [curve for curve in curves if any(curve[1](point) is not None for point in report.points)]
    if not known:
        return []
    return ["<h2>Processor time, in cores</h2>", time_chart(report.points, known, lambda value: f"{value:.2f}")]


def _texts(title: str, texts: Sequence[str]) -> list[str]:
    if not texts:
        return []
    return [f"<h2>{title}</h2><ul>", *(f"<li>{escape(text)}</li>" for text in texts), "</ul>"]


def percentile_chart(latencies: Histogram) -> str:
    """Draw latency against the share of deliveries that do not exceed it, with the last percent spread out."""
    total = latencies.total
    if not total:
        return '<p class="dim">Nothing was delivered.</p>'
    nines = min(6, max(2, math.ceil(math.log10(total))))
    seen, points = 0, []
    for value, count in latencies.buckets():
        seen += count
        # The last value is at 100 %, which would be infinitely far out.
        points.append((min(nines, -math.log10(max(1 - seen / total, 10.0**-nines))), value))
    names = ["0", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %"]
    x = Axis(lambda value: value / nines, [(float(n), names[n]) for n in range(nines + 1)])
    return chart(x, linear(max(value for _, value in points), show_time), [Curve("latency", [(0.0, 0.0), *points])])


def time_chart(
    points: Sequence[Point],
    curves: Sequence[tuple[str, Callable[[Point], float | None]]],
    text: Callable[[float], str],
) -> str:
    """Draw values over the course of the load test."""
    if len(points) < 2:
        return '<p class="dim">It was too short for a curve.</p>'
    first, last = points[0].seconds, points[-1].seconds
    span = max(last - first, 1e-9)
    step = nice(span / 6)
    marks = [(n * step, f"{n * step:g} s") for n in range(math.ceil(first / step), math.floor(last / step) + 1)]
    x = Axis(lambda value: (value - first) / span, marks)
    lines = [Curve(name, [(point.seconds, get(point)) for point in points]) for name, get in curves]
    top = max((y for line in lines for _, y in line.points if y is not None), default=0.0)
    return chart(x, linear(top, text), lines)


def chart(x: Axis, y: Axis, curves: Sequence[Curve]) -> str:
    """Return an SVG with axes and curves."""
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def across(value: float) -> str:
        return f"{LEFT + x.place(value) * width:.1f}"

    def up(value: float) -> str:
        return f"{TOP + (1 - y.place(value)) * height:.1f}"

    label = escape(", ".join(curve.name for curve in curves))
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">']
    for value, text in y.marks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(value)}" y2="{up(value)}"/>')
        parts.append(f'<text class="y" x="{LEFT - 6}" y="{up(value)}" dy="4" text-anchor="end">{escape(text)}</text>')
    for number, (value, text) in enumerate(x.marks):
        parts.append(f'<line class="grid" x1="{across(value)}" x2="{across(value)}" y1="{TOP}" y2="{TOP + height}"/>')
        anchor = "end" if x.place(value) > EDGE else "middle"
        odd = ' class="odd"' if number % 2 else ""  # left out where there is little room
        parts.append(f'<text{odd} x="{across(value)}" y="{HEIGHT - 35}" text-anchor="{anchor}">{escape(text)}</text>')
    for key, curve in zip("ab", curves, strict=False):
        path, pen = [], "M"
        for at, reading in curve.points:
            if reading is None:
                pen = "M"
                continue
            path.append(f"{pen}{across(at)} {up(reading)}")
            pen = "L"
        parts.append(f'<path class="curve {key}" d="{"".join(path)}"/>')
        left = LEFT + "ab".index(key) * (width // 2)
        parts.append(f'<text class="key-{key}" x="{left}" y="{HEIGHT - 6}">■ {escape(curve.name)}</text>')
    return "".join(parts) + "</svg>"


def linear(top: float, text: Callable[[float], str]) -> Axis:
    """Return an axis from zero to a round number above `top`."""
    step = nice(top / 4) if top > 0 else 1.0
    count = max(1, math.ceil(top / step - 1e-9))
    return Axis(
        lambda value: value / (count * step), [(n * step, text(n * step) if n else "0") for n in range(count + 1)]
    )


def nice(value: float) -> float:
    """Return the lowest of 1, 2, 2.5 and 5 times a power of ten that is not below a value."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(n * power for n in (1, 2, 2.5, 5, 10) if n * power >= value * (1 - 1e-9))


def show_count(value: float) -> str:
    """Write a number short."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"
