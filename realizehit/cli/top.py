"""``realizehit top``: all processes of a deployment in a table that is drawn again every second."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

import click

from realizehit.cli.api_request import API, Target, target_options
from realizehit.cli.option_types import Seconds

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS: Final = (
    "host", "pid", "role", "version", "up", "broker", "clients", "subs", "channels", "shapes", "in/s", "out/s",
    "published/s", "waiting", "slow",
)  # fmt: skip
_TEXTS: Final = ("host", "role", "version", "broker")
_DISPENSABLE: Final = ("shapes", "version", "slow", "channels", "published/s", "up", "subs", "role")
"""Columns that are left out first where a terminal is too narrow."""

_SUMMED: Final = ("connections", "subscriptions", "messages_rate", "deliveries_rate", "published_rate", "queued_bytes")


@click.command()
@click.option("--interval", type=Seconds(), default=1.0, show_default=True, help="Seconds between two looks.")
@click.option("--once", is_flag=True, help="Print the table once, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each process, once.")
@target_options
def top(*, interval: float, once: bool, as_json: bool, **options: Any) -> None:
    """Show all processes of a deployment: version, clients, rates, queues, and the state of their broker.

    A process that does not answer any more is shown as gone for ten minutes. Ctrl+C ends the command.
    """
    from realizehit.cli.running import run

    run(_show(Target(**options), interval, once=once, as_json=as_json))


async def _show(target: Target, interval: float, *, once: bool, as_json: bool) -> int:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    async with API(target) as api:
        rows = (await api.get("nodes"))["nodes"]
        if as_json:
            for row in rows:
                click.echo(json.dumps(row))
            return 0
        if once or not console.is_terminal:
            # Rates are those since the question before.
            await asyncio.sleep(interval)
            console.print(table_of((await api.get("nodes"))["nodes"], console.width))
            return 0
        with Live(table_of(rows, console.width), console=console, auto_refresh=False, screen=True) as live:
            while True:
                await asyncio.sleep(interval)
                live.update(table_of((await api.get("nodes"))["nodes"], console.width), refresh=True)


def table_of(rows: list[dict[str, Any]], width: int) -> Table:
    """Return the table of what ``GET nodes`` answered, with as many columns as fit into a terminal of this width."""
    from rich.table import Table

    from realizehit.cli.text import counted

    here = [row for row in rows if "gone" not in row]
    title = counted(len(here), "process", "processes")
    if here != rows:
        title += f", {len(rows) - len(here)} gone"
    total = {name: sum(row[name] for row in here) for name in _SUMMED}
    footers = {
        "host": "all", "clients": f"{total['connections']:,}", "subs": f"{total['subscriptions']:,}",
        "in/s": f"{total['messages_rate']:,.0f}", "out/s": f"{total['deliveries_rate']:,.0f}",
        "published/s": f"{total['published_rate']:,.0f}", "waiting": _size(total["queued_bytes"]),
    }  # fmt: skip
    lines = [_cells(row) for row in rows]
    widths = {name: max(len(line.get(name, "")) for line in [*lines, footers, {name: name}]) for name in _COLUMNS}
    shown = list(_COLUMNS)
    for name in _DISPENSABLE:
        if sum(widths[each] + 2 for each in shown) > width:
            shown.remove(name)
    table = Table(title=title, title_justify="left", show_footer=True, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in shown:
        table.add_column(name, footers.get(name, ""), justify="left" if name in _TEXTS else "right", no_wrap=True)
    for row, line in zip(rows, lines, strict=True):
        table.add_row(*(line.get(name, "") for name in shown), style="dim" if "gone" in row else None)
    return table


def _cells(row: dict[str, Any]) -> dict[str, str]:
    who = {"host": row["host"], "pid": str(row["pid"]), "role": row["role"], "version": row["version"]}
    if "gone" in row:
        return {**who, "broker": f"gone for {row['gone']:.0f} s"}
    return {
        **who, "up": _duration(row["uptime"]), "broker": row["broker"], "clients": f"{row['connections']:,}",
        "subs": f"{row['subscriptions']:,}", "channels": f"{row['channels']:,}", "shapes": f"{row['shapes']:,}",
        "in/s": f"{row['messages_rate']:,.0f}", "out/s": f"{row['deliveries_rate']:,.0f}",
        "published/s": f"{row['published_rate']:,.0f}", "waiting": _size(row["queued_bytes"]),
        "slow": f"{row['slow_disconnects']:,}",
    }  # fmt: skip


def _duration(seconds: float) -> str:
    minutes = int(seconds) // 60
    if minutes < 1:
        return f"{seconds:.0f}s"
    if minutes < 60:
        return f"{minutes}m"
    hours = minutes // 60
    return f"{hours}h{minutes % 60:02}m" if hours < 48 else f"{hours // 24}d{hours % 24:02}h"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
