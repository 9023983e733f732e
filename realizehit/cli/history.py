"""``realizehit history``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from realizehit.cli.endpoints import DEFAULT_API, api_endpoint
from realizehit.cli.filters import as_argument, pattern_from
from realizehit.cli.option_types import Seconds
from realizehit.cli.text import without_controls
from realizehit.cli.tls import tls_context, tls_options

if TYPE_CHECKING:
    from realizehit.client.history import History, KeptMessage
    from realizehit.pattern import Pattern

LAST: Final = 10  # messages that are shown by default


@click.command()
@click.argument("filters", nargs=-1, metavar="[KEY=VALUE...]")
@click.option("--last", type=click.IntRange(1, 10_000), metavar="N", help=f"The newest N messages.  [default: {LAST}]")
@click.option("--since", metavar="POSITION", help="Instead, the messages after a position, such as k3f09a2c.17.")
@click.option("--limit", type=click.IntRange(1, 10_000), metavar="N", help="With --since: at most N.  [default: 100]")
@click.option(
    "--url",
    envvar=["ENDPOINT_API", "ENDPOINT"],
    default=DEFAULT_API,
    show_default=True,
    show_envvar=True,
    help="The API server's address.",
)
@click.option(
    "--redis",
    metavar="URL",
    envvar="REDIS_URI",
    show_envvar=True,
    help="Without a pattern: the broker whose rules are shown.",
)
@click.option(
    "--timeout", metavar="SECONDS", type=Seconds(), default=10.0, show_default=True, help="Time for an answer."
)
@click.option(
    "--key", metavar="KEY", envvar="REALIZEHIT_KEY", show_envvar=True, help="API key; safer in the variable than here."
)
@tls_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each message or rule.")
@click.pass_context
def history(
    ctx: click.Context,
    /,
    filters: tuple[str, ...],
    *,
    last: int | None,
    since: str | None,
    limit: int | None,
    url: str,
    redis: str | None,
    timeout: float,
    key: str | None,
    ca: Path | None,
    insecure: bool,
    as_json: bool,
) -> None:
    """Show the messages that are kept of a pattern, or which patterns have history.

    With filters, an API server is asked for the messages of that pattern, which may be the one of a subscription with
    wildcards. Without filters, the rules of history at the broker are shown, and how much is kept by each.

    \b
    realizehit history kind=chat room=7 --last 20
    realizehit history --redis redis://localhost:6379
    """  # noqa: D301 - \b is click's mark for lines that are to stay as they are
    from realizehit.cli.running import run

    if not filters:
        _check_given(ctx, ("last", "since", "limit", "url", "key", "ca", "insecure"), "goes with a pattern: KEY=VALUE")
        if redis is None:
            raise click.UsageError("write a pattern, or --redis URL (REDIS_URI) for the rules at a broker")
        from realizehit.cli.history_rules import show_rules

        run(show_rules(redis, timeout, as_json=as_json))
    _check_given(ctx, ("redis",), "is for the rules; messages are read through an API server, --url")
    if since is not None and last is not None:
        raise click.UsageError("--since and --last do not go together; use one")
    if since is None and limit is not None:
        raise click.UsageError("--limit goes with --since; --last says how many messages by itself")
    api = api_endpoint(url)
    context = tls_context(api, ca, insecure)
    options: dict[str, Any] = {"timeout": timeout, "key": key or None}
    if context is not None:
        options["verify"] = context
    asked = {"last": LAST if last is None else last} if since is None else {"since": since, "limit": limit}
    run(_show(api, options, pattern_from(filters), asked, as_json=as_json))


def _check_given(ctx: click.Context, names: tuple[str, ...], why: str) -> None:
    """Refuse options of the other form of the command; variables may stand for other commands."""
    for name in names:
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} {why}")


async def _show(url: str, options: dict[str, Any], pattern: Pattern, asked: dict[str, Any], *, as_json: bool) -> int:
    from realizehit.client.api import APIClient

    async with APIClient(url, **options) as api:
        found = await api.history(pattern, **asked)
    for message in found.messages:
        click.echo(_json(message) if as_json else _line(message))
    for line in _notes(found, asked.get("since")):
        click.echo(line, err=True)
    return 0


def _json(message: KeptMessage) -> str:
    import orjson

    head: dict[str, Any] = {"at": message.position}
    if message.pattern is not None:
        head["pattern"] = message.pattern
    return f'{orjson.dumps(head).decode()[:-1]},"payload":{_one_line(message)}}}'


def _line(message: KeptMessage) -> str:
    parts = [message.position]
    if message.pattern is not None:
        parts.append(as_argument(message.pattern))
    return "  ".join([*parts, without_controls(_one_line(message))])


def _one_line(message: KeptMessage) -> str:
    # In a JSON text line breaks are only whitespace between its parts.
    return message.raw.decode(errors="replace").replace("\r", " ").replace("\n", " ")


def _notes(found: History, since: str | None) -> list[str]:
    """Return what a person should know besides the messages."""
    epoch, _, last = found.position.partition(".")
    kept = int(last) - found.first + 1
    notes = [f"{kept} kept: {epoch}.{found.first} to {found.position}" if kept else f"none kept, at {found.position}"]
    if found.recovered is False:
        notes.append(f"not all messages after {since} are kept")
    if found.more:
        after = found.messages[-1].position if found.messages else f"{epoch}.{found.first - 1}"
        notes.append(f"there are more; go on with --since {after}")
    return notes
