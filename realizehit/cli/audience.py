"""``realizehit audience``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from realizehit.cli.api_request import API, Target, publisher_options
from realizehit.cli.filters import pattern_from
from realizehit.cli.text import counted

if TYPE_CHECKING:
    from realizehit.pattern import Pattern


@click.command()
@click.argument("filters", nargs=-1, required=True, metavar="KEY=VALUE...")
@publisher_options
@click.option("--json", "as_json", is_flag=True, help="Print the server's answer, one JSON object.")
def audience(
    filters: tuple[str, ...],
    *,
    as_json: bool,
    **options: Any,
) -> None:
    """Show who would get a publication, without publishing anything.

    A publication goes to the channel of its pattern, and to one channel for each shape of wildcard subscriptions that
    applies to it. For each channel the answer has the number of nodes that are subscribed at the broker, and the number
    of subscribers that the asked server process has itself.

    \b
    realizehit audience kind=news channel=CNN
    """  # noqa: D301 - \b is click's mark for lines that are to stay as they are
    from realizehit.cli.running import run

    run(_show(Target(**options), pattern_from(filters), as_json=as_json))


async def _show(target: Target, pattern: Pattern, *, as_json: bool) -> int:
    from realizehit.errors import Rejected

    async with API(target) as api:
        answer = await api.get("audience", pat=json.dumps(dict(pattern)))
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
        return 0
    try:
        lines = _lines(answer)
    except (ValueError, LookupError, TypeError) as error:
        raise Rejected(f"{target.url} answered something else than an audience: {error!r}") from None
    click.echo("\n".join(lines))
    return 0


def _lines(answer: dict[str, Any]) -> list[str]:
    """Return what a person reads."""
    rows = answer["channels"]
    channels, times = counted(len(rows), "channel"), counted(answer["nodes"], "time")
    lines = [f"a publication would go to {channels}, and {times} to a node:"]
    width = max(len(row["channel"]) for row in rows)
    for row in rows:
        line = f"  {row['channel']:{width}}  {row['id']}  {counted(row['nodes'], 'node')}"
        if row["subscribers"] is not None:
            line += f", {counted(row['subscribers'], 'subscriber')} of this server"
        lines.append(line if row["shape"] is None else f"{line}  (shape {row['shape']})")
    applied = {row["shape"] for row in rows}
    rest = [shape for shape in answer["shapes"] if shape not in applied]
    if rest:
        verb = "does" if len(rest) == 1 else "do"
        lines.append(f"{counted(len(rest), 'shape')} in use that {verb} not apply: {', '.join(rest)}")
    return lines
