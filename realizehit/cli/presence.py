"""``realizehit presence``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from realizehit.cli.api_request import API, Target, publisher_options
from realizehit.cli.filters import pattern_from
from realizehit.cli.text import counted, without_controls

if TYPE_CHECKING:
    from realizehit.pattern import Pattern


@click.command()
@click.argument("filters", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.option("--count", is_flag=True, help="Only how many there are.")
@click.option("--after", metavar="MEMBER", help="Go on behind the last member of a page, as the note says.")
@click.option("--limit", type=click.IntRange(1, 1000), metavar="N", help="At most N members.  [default: 100]")
@publisher_options
@click.option("--json", "as_json", is_flag=True, help="Print the server's answer, one JSON object.")
def presence(
    filters: tuple[str, ...],
    *,
    count: bool,
    after: str | None,
    limit: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show who is subscribed to a pattern.

    A rule of presence of the server has to contain the pattern (realizehit-server --presence). One line is one member:
    its identity as JSON. How many there are goes to standard error, with the clients that are not identified.

    \b
    realizehit presence kind=chat room=7
    """  # noqa: D301 - \b is click's mark for lines that are to stay as they are
    from realizehit.cli.running import run

    if count and (after is not None or limit is not None):
        raise click.UsageError("--count shows no members, so --after and --limit do not go with it")
    asked: dict[str, str] = {"count": "1"} if count else {}
    if after is not None:
        asked["after"] = after
    if limit is not None:
        asked["limit"] = str(limit)
    run(_show(Target(**options), pattern_from(filters), asked, as_json=as_json))


async def _show(target: Target, pattern: Pattern, asked: dict[str, str], *, as_json: bool) -> int:
    from realizehit.errors import Rejected

    async with API(target) as api:
        answer = await api.get("presence", **{"pat": json.dumps(dict(pattern)), **asked})
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
        return 0
    try:
        members, notes = _lines(answer)
    except (ValueError, LookupError, TypeError) as error:
        raise Rejected(f"{target.url} answered something else than members: {error!r}") from None
    for line in members:
        click.echo(line)
    for line in notes:
        click.echo(line, err="count" not in asked)
    return 0


def _lines(answer: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the members and the notes that a person reads."""
    members = [without_controls(json.dumps(member, ensure_ascii=False)) for member in answer.get("members", ())]
    others = counted(answer["anonymous"], "connection")
    notes = [f"{counted(answer['count'], 'member')}, and {others} without an identity"]
    if answer.get("after") is not None:
        notes.append(f"there are more; go on with --after {without_controls(answer['after'])!r}")
    return members, notes
