"""The table that the benchmarks print."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.results import Result, Verdict

STYLES = {Verdict.AIM: "green", Verdict.MUST: "yellow", Verdict.MISSED: "bold red", Verdict.NONE: ""}


def number(value: float) -> str:
    """Write a figure with three digits that matter."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{2 if value >= 1 else 3}f}"


def table(results: Sequence[Result], theirs: Sequence[Result], against: str | None) -> Table:
    """Lay the results out; another revision's, where there are any, beside them."""
    shown = Table(title="realizehit", title_justify="left", caption="medians; ± is half the quartiles' distance")
    shown.add_column("row", style="bold", no_wrap=True)
    shown.add_column("case", min_width=18)
    shown.add_column("figure", justify="right", no_wrap=True)
    shown.add_column("±", justify="right", no_wrap=True)
    if against:
        shown.add_column(against, justify="right", no_wrap=True)
        shown.add_column("change", justify="right", no_wrap=True)
    shown.add_column("must", justify="right", no_wrap=True)
    shown.add_column("aim", justify="right", no_wrap=True)
    shown.add_column("verdict", no_wrap=True)
    others = {(result.row, result.case): result for result in theirs}
    for result in results:
        spread = f"{result.spread:.0%}" if result.spread else ""
        cells = [result.row.upper(), result.case, f"{number(result.value)} {result.unit}", spread]
        if against:
            other = others.get((result.row, result.case))
            cells += [number(other.value), f"{result.value / other.value - 1:+.1%}"] if other else ["", ""]
        target = result.target
        cells += [number(target.must), number(target.aim)] if target else ["", ""]
        style = STYLES[result.verdict]
        cells.append(f"[{style}]{result.verdict.value}[/]" if style else "")
        shown.add_row(*cells)
    return shown


def print_details(console: Console, results: Sequence[Result]) -> None:
    """Print what lies behind the figures, as medians."""
    for result in results:
        console.print(f"[bold]{result.row.upper()}[/] {result.case}", highlight=False)
        for name, values in result.raw.items():
            console.print(f"  {number(median(values)):>12} {name}", highlight=False)
