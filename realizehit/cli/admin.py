"""``realizehit admin``: see and steer the clients of a whole deployment."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

import click

from realizehit.cli.api_request import API, Target, target_options
from realizehit.cli.filters import as_argument, pattern_from
from realizehit.cli.text import counted


@click.group()
def admin() -> None:
    """See and steer the clients of a whole deployment, through any of its API servers.

    IDENTITY is a pattern of identities: user=42,device=* has the clients of user 42 on any device, and user=42,** those
    with any further keys too. ** is everybody who is identified.
    """


def _run(work: Callable[[API], Coroutine[Any, Any, list[str]]], options: dict[str, Any]) -> None:
    from realizehit.cli.running import run

    async def show() -> int:
        async with API(Target(**options)) as api:
            for line in await work(api):
                click.echo(line)
        return 0

    run(show())


def _identity(text: str) -> dict[str, Any]:
    return dict(pattern_from((text,)))


@admin.command()
@click.argument("identity", metavar="IDENTITY", default="**")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each identity.")
@target_options
def clients(identity: str, *, as_json: bool, **options: Any) -> None:
    """List who is connected, with the number of connections of each."""

    async def work(api: API) -> list[str]:
        lines: list[str] = []
        after: str | None = ""
        connections = 0
        while after is not None:
            page = await api.get("clients", identity=json.dumps(_identity(identity)), after=after)
            connections, after = page["connections"], page["after"]
            lines += map(json.dumps if as_json else _line, page["clients"])
        if not as_json:
            lines.append(counted(connections, "connection"))
        return lines

    _run(work, options)


@admin.command()
@click.argument("identity", metavar="IDENTITY")
@click.option(
    "--code",
    type=click.IntRange(4000, 4999),
    help="Close code: 4500 or more means not to come back.  [default: 4502]",
)
@click.option("--reason", help="Text for the clients, at most 100 characters.")
@target_options
def disconnect(identity: str, *, code: int | None, reason: str | None, **options: Any) -> None:
    """Disconnect clients, wherever they are connected."""
    body = {"identity": _identity(identity), "code": code, "reason": reason}
    _run(lambda api: _act(api, "disconnect", body, "disconnected"), options)


@admin.command()
@click.argument("identity", metavar="IDENTITY")
@click.argument("filters", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.option("--reason", help="Text for the clients, at most 100 characters.")
@target_options
def unsubscribe(identity: str, filters: tuple[str, ...], *, reason: str | None, **options: Any) -> None:
    """End a subscription of clients, and tell them."""
    body = {"identity": _identity(identity), "pattern": dict(pattern_from(filters)), "reason": reason}
    _run(lambda api: _act(api, "unsubscribe", body, "lost the subscription"), options)


@admin.command()
@click.argument("identity", metavar="IDENTITY")
@click.argument("text", metavar="NOTE")
@target_options
def note(identity: str, text: str, **options: Any) -> None:
    """Send clients a note, as an event of its own; NOTE is JSON, or else a text."""
    try:
        content = json.loads(text)
    except ValueError:
        content = text
    body = {"identity": _identity(identity), "note": content}
    _run(lambda api: _act(api, "note", body, "were sent the note"), options)


@admin.command()
@target_options
def reload(**options: Any) -> None:
    """Have all servers read their files of grants, keys and tokens again."""

    async def work(api: API) -> list[str]:
        answer = await api.post("reload")
        return [f"{counted(answer['nodes'], 'process', 'processes')} read the files again"]

    _run(work, options)


def _line(row: dict[str, Any]) -> str:
    return f"{as_argument(row['identity'])}  {counted(row['connections'], 'connection')}"


async def _act(api: API, action: str, body: dict[str, Any], done: str) -> list[str]:
    given = {name: value for name, value in body.items() if value is not None}
    answer = await api.post(f"clients/{action}", given)
    asked = counted(answer["nodes"], "process", "processes")
    return [f"{counted(answer['connections'], 'connection')} {done}; {asked} asked"]
