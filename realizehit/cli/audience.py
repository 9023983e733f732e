"""``realizehit audience``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from realizehit.cli.endpoints import DEFAULT_API, api_endpoint
from realizehit.cli.filters import pattern_from
from realizehit.cli.option_types import Seconds
from realizehit.cli.publish_target import Target
from realizehit.cli.text import counted
from realizehit.cli.tls import tls_context, tls_options

if TYPE_CHECKING:
    from realizehit.pattern import Pattern


@click.command()
@click.argument("filters", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.option(
    "--url",
    envvar=["ENDPOINT_API", "ENDPOINT"],
    default=DEFAULT_API,
    show_default=True,
    show_envvar=True,
    help="The API server's address.",
)
@click.option(
    "--timeout", metavar="SECONDS", type=Seconds(), default=10.0, show_default=True, help="Time for an answer."
)
@click.option(
    "--key", metavar="KEY", envvar="REALIZEHIT_KEY", show_envvar=True, help="API key; safer in the variable than here."
)
@tls_options
@click.option("--json", "as_json", is_flag=True, help="Print the server's answer, one JSON object.")
def audience(
    filters: tuple[str, ...],
    *,
    url: str,
    timeout: float,
    key: str | None,
    ca: Path | None,
    insecure: bool,
    as_json: bool,
) -> None:
    """Show who would get a publication, without publishing anything.

    A publication goes to the channel of its pattern, and to one channel for each shape of wildcard subscriptions that
    applies to it. For each channel the answer has the number of nodes that are subscribed at the broker, and the number
    of subscribers that the asked server process has itself.

    \b
    realizehit audience kind=news channel=CNN
    """  # noqa: D301 - \b is click's mark for lines that are to stay as they are
    from realizehit.cli.running import run

    target = Target(url, None, timeout, key or None, ca, insecure)
    run(_show(target, pattern_from(filters), as_json=as_json))


async def _show(target: Target, pattern: Pattern, *, as_json: bool) -> int:
    import httpx2

    from realizehit.client.http import Endpoint, raise_for_refusal, response_of
    from realizehit.errors import Rejected

    url = api_endpoint(target.url)
    context = tls_context(url, target.ca, target.insecure)
    endpoint = Endpoint(url, target.timeout, target.key, None)
    place = endpoint.url + "audience"
    async with endpoint.make(httpx2.AsyncClient, {} if context is None else {"verify": context}) as client:
        outcome: httpx2.Response | httpx2.HTTPError
        try:
            outcome = await client.get(place, params={"pat": json.dumps(dict(pattern))})
        except httpx2.HTTPError as error:
            outcome = error
        response = response_of(outcome, place)
    raise_for_refusal(response)
    if as_json:
        click.echo(response.text)
        return 0
    try:
        lines = _lines(response.json())
    except (ValueError, LookupError, TypeError) as error:
        raise Rejected(f"{place} answered something else than an audience: {error!r}") from None
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
