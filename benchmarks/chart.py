"""The chart of the results: a bar for each row on its own scale, with marks for floor and targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.report import number
from benchmarks.results import Result, Target, Verdict

WIDTH = 1010
LEFT = 420  # where the bars begin
BAR = 380  # the longest
ROW = 34
TOP = 84
TITLE = "realizehit and its targets"
FLOOR_ROWS = ("wide", "deep", "many")  # whose figure is a multiple of the send loop, marked where the scale reaches it

# Readable on white and on dark: the text follows the reader's theme, and the colours have medium brightness.
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #24292f; }
.title { font-size: 17px; font-weight: 600; }
.small { font-size: 11px; fill: #57606a; }
.row { font-weight: 600; }
.track { fill: #8b949e; opacity: .18; }
.aim { fill: #2da44e; } .met { fill: #bf8700; } .missed { fill: #cf222e; }
.must-mark { stroke: #24292f; stroke-width: 2; }
.aim-mark { stroke: #24292f; stroke-width: 2; stroke-dasharray: 3 3; }
.floor-mark { stroke: #0969da; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .small { fill: #9198a1; } .track { opacity: .3; }
  .must-mark, .aim-mark { stroke: #e6edf3; } .floor-mark { stroke: #58a6ff; }
  .aim { fill: #3fb950; } .met { fill: #d29922; } .missed { fill: #f85149; }
}
"""

CLASSES = {Verdict.AIM: "aim", Verdict.MUST: "met", Verdict.MISSED: "missed", Verdict.NONE: "met"}


def draw(results: Sequence[Result], document: dict[str, Any]) -> str:
    """Draw the results as SVG; ``document`` says on what they were measured."""
    judged = [result for result in results if result.target]
    height = TOP + ROW * len(judged) + 64
    machine = document["machine"]
    head = f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{TITLE}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="16" y="30">{TITLE}</text>',
        f'<text class="small" x="16" y="50">{escape(head)}; {escape(document["measured"][:10])}</text>',
    ]
    previous = ""
    for n, result in enumerate(judged):
        parts += _row(result, TOP + ROW * n, named=result.row != previous)
        previous = result.row
    parts += _legend(TOP + ROW * len(judged) + 30)
    return "\n".join([*parts, "</svg>", ""])


def _row(result: Result, y: int, *, named: bool) -> list[str]:
    assert result.target is not None
    middle = y + 14
    value = result.value
    marks = [result.target.must, result.target.aim]
    if result.row in FLOOR_ROWS and max(value, *marks) > 0.5:
        marks.append(1.0)
    scale = BAR / (1.08 * max(value, *marks))
    words = escape(_words(result, result.target))
    bar = f'x="{LEFT}" y="{y + 4}" width="{value * scale:.1f}" height="20" rx="3"'
    parts = [
        f'<text class="row" x="16" y="{middle + 4}">{escape(result.row.upper())}</text>' if named else "",
        f'<text class="small" x="96" y="{middle + 4}">{escape(result.case)}</text>',
        f'<rect class="track" x="{LEFT}" y="{y + 4}" width="{BAR}" height="20" rx="3"/>',
        f'<rect class="{CLASSES[result.verdict]}" {bar}><title>{words}</title></rect>',
    ]
    for kind, mark in zip(("must", "aim", "floor"), marks, strict=False):
        x = LEFT + mark * scale
        parts.append(f'<line class="{kind}-mark" x1="{x:.1f}" y1="{y + 1}" x2="{x:.1f}" y2="{y + 27}"/>')
    parts.append(f'<text x="{LEFT + BAR + 12}" y="{middle + 5}">{number(value)} {escape(result.unit)}</text>')
    return [part for part in parts if part]


def _words(result: Result, target: Target) -> str:
    most = "at most" if target.lower else "at least"
    return f"{number(result.value)} {result.unit}; must be {most} {number(target.must)}, aim {number(target.aim)}"


def _legend(y: int) -> list[str]:
    parts = []
    x = 16
    for name, text in (("aim", "aim met"), ("met", "must met"), ("missed", "missed")):
        parts.append(f'<rect class="{name}" x="{x}" y="{y - 10}" width="12" height="12" rx="2"/>')
        parts.append(f'<text class="small" x="{x + 18}" y="{y}">{text}</text>')
        x += 96
    marks = (
        ("must", "must"),
        ("aim", "aim"),
        ("floor", "plain C send loop (where aim is left of must, less is better)"),
    )
    for name, text in marks:
        parts.append(f'<line class="{name}-mark" x1="{x + 4}" y1="{y - 12}" x2="{x + 4}" y2="{y + 4}"/>')
        parts.append(f'<text class="small" x="{x + 14}" y="{y}">{text}</text>')
        x += 76
    return parts
