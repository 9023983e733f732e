"""``realizehit id``."""

from __future__ import annotations

import json

import click

from realizehit.cli.filters import pattern_from


@click.command("id")
@click.argument("filters", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show_id(filters: tuple[str, ...], as_json: bool) -> None:
    """Show the channel and the id of a pattern.

    \b
    realizehit id kind=news channel=CNN
    """  # noqa: D301 - \b is click's mark for lines that are to stay as they are
    pattern = pattern_from(filters)
    if as_json:
        click.echo(json.dumps({"pattern": dict(pattern), "channel": pattern.channel, "id": pattern.id}))
    else:
        click.echo(f"channel  {pattern.channel}\nid       {pattern.id}")
