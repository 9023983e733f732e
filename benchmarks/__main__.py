"""``python -m benchmarks``: measure the rows, print the table, write JSON and the picture."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import chart, machine, report
from benchmarks.against import installed
from benchmarks.results import Result, Verdict
from benchmarks.system import ROWS, ROWS_BY_COMMAND
from benchmarks.system.place import pinned
from benchmarks.system.row import Row, Run

DOCS = Path(__file__).parents[1] / "docs"
WHOLE = "; a complete run writes to docs/ by itself"
WHICH = f"which to measure: {', '.join(ROWS)}; only by name: {', '.join(ROWS_BY_COMMAND)}"
OWN_CLIENT = ("harness",)  # measures the load client, which is the same on both sides


def chosen(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str]:
    """Turn ``--rows`` into names, all of them by default."""
    names = value.split(",") if value else list(ROWS)
    for name in names:
        if name not in (*ROWS, *ROWS_BY_COMMAND):
            raise click.BadParameter(f"{name} is not a row; the rows are {', '.join((*ROWS, *ROWS_BY_COMMAND))}")
    return names


@click.command()
@click.option("--rows", callback=chosen, metavar="NAME,…", help=WHICH)
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="how often each is measured")
@click.option("--quick", is_flag=True, help="a fifth of the messages, for a quick look")
@click.option("--details", is_flag=True, help="also print the raw figures")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help=f"write figures here{WHOLE}")
@click.option(
    "--svg", "svg_path", type=click.Path(path_type=Path, dir_okay=False), help=f"draw the picture here{WHOLE}"
)
@click.option("--against", metavar="REV", help="build another revision and measure both in turn")
def main(
    rows: list[str],
    rounds: int,
    quick: bool,
    details: bool,
    json_path: Path | None,
    svg_path: Path | None,
    against: str | None,
) -> None:
    """Measure the throughput of this checkout on real sockets and a real Valkey.

    The server has its own core; the client and Valkey share another. The exit status is 1 if a "must" is missed.
    """
    if list(ROWS) == rows and not quick and not against:  # the documents show a complete run
        json_path, svg_path = json_path or DOCS / "performance.json", svg_path or DOCS / "performance.svg"
    console = Console()
    progress = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    run = Run(rounds=rounds, quick=quick, note=lambda text: progress.update(task, description=text))
    with progress, installed(against) as other, pinned(run.cores.client):
        task = progress.add_task("", total=len(rows))
        results: list[Result] = []
        theirs: list[Result] = []
        for name in rows:
            row: Row = import_module(f"benchmarks.system.{name}").measure
            try:
                if other is None or name in OWN_CLIENT:
                    results += row(run)
                else:
                    ours, others = in_turn(row, run, other)
                    results += ours
                    theirs += others
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                progress.console.print(f"[red]{name}: {error}[/]", highlight=False)
                results.append(Result(name, "not measured", "", [], None))
            progress.advance(task)
    measured = [result for result in results if result.samples]
    console.print(report.table(measured, theirs, against))
    if details:
        report.print_details(console, measured)
    document = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": machine.describe(),
        "against": against,
        "rows": [result.to_json() for result in measured],
        "rows_against": [result.to_json() for result in theirs],
    }
    if json_path:
        json_path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if svg_path:
        svg_path.write_text(chart.draw(measured, document), encoding="utf-8")
    if len(measured) < len(results) or any(result.verdict is Verdict.MISSED for result in measured):
        sys.exit(1)


def in_turn(row: Row, run: Run, other: str) -> tuple[list[Result], list[Result]]:
    """Measure this revision and another one, a round of each in turn."""
    sides: tuple[list[Result], list[Result]] = ([], [])
    for _ in range(run.rounds):
        for python, results in zip((run.python, other), sides, strict=True):
            fresh = row(Run(rounds=1, quick=run.quick, python=python, note=run.note, cores=run.cores))
            for result, more in zip(results, fresh, strict=False):
                result.merge(more)
            results.extend(fresh[len(results) :])
    return sides


if __name__ == "__main__":
    main()
