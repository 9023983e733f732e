"""``realizehit publish``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from realizehit.cli.endpoints import DEFAULT_API
from realizehit.cli.filters import pattern_from
from realizehit.cli.option_types import Seconds
from realizehit.cli.publish_target import Target
from realizehit.cli.text import counted, without_bom
from realizehit.cli.tls import tls_options

if TYPE_CHECKING:
    from realizehit.pattern import Pattern

_EXAMPLE: Final = """realizehit publish kind=news '{"title": "hello"}'"""
_QUOTING: Final = (
    "Put the payload in single quotes, so that the shell leaves it as it is, and a text in double quotes inside them: "
    "'\"hello\"'"
)


@click.command()
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]... [PAYLOAD]")
@click.option(
    "--url",
    envvar=["ENDPOINT_API", "ENDPOINT"],
    default=DEFAULT_API,
    show_default=True,
    show_envvar=True,
    help="The API server's address.",
)
@click.option("--redis", metavar="URL", help="Publish straight to this Redis or Valkey, without an API server.")
@click.option("--no-wildcards", is_flag=True, help="With --redis: do not publish to wildcard subscriptions.")
@click.option("--file", metavar="FILE", type=click.Path(path_type=Path), help="Publish a file's lines; - is stdin.")
@click.option(
    "--timeout", metavar="SECONDS", type=Seconds(), default=10.0, show_default=True, help="Time for an answer."
)
@click.option(
    "--key", metavar="KEY", envvar="REALIZEHIT_KEY", show_envvar=True, help="API key; safer in the variable than here."
)
@click.option(
    "--idempotency-key",
    metavar="TEXT",
    help="Publish the message once, however often it is sent with this text within the server's window (2 min).",
)
@tls_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each message.")
@click.pass_context
def publish(
    ctx: click.Context,
    /,
    arguments: tuple[str, ...],
    *,
    url: str,
    redis: str | None,
    no_wildcards: bool,
    file: Path | None,
    timeout: float,
    key: str | None,
    idempotency_key: str | None,
    ca: Path | None,
    insecure: bool,
    as_json: bool,
) -> None:
    """Publish a payload to a pattern, or a file of them.

    The payload is JSON and stands last; - reads it from standard input. A text is JSON with its quotes: '"hello"'.

    \b
    realizehit publish kind=news channel=CNN '{"title": "hello"}'
    echo '[1, 2]' | realizehit publish kind=news -

    A file has one JSON value a line. With filters, each line is a payload for that pattern; without, each line is an
    object {"pattern": {...}, "payload": ...}, and may have an idempotency key, "key". A bad line does not hold up the
    others; the exit status is 1 then. Lines of standard input (--file -) are published as they come.

    \b
    realizehit publish kind=news --file payloads.ndjson
    realizehit publish --file messages.ndjson
    """  # noqa: D301 - \b is click's mark for lines that are to stay as they are
    from realizehit.cli.running import run

    if redis is not None:
        _check_straight(ctx)
    elif no_wildcards:
        raise click.UsageError("--no-wildcards belongs to --redis; an API server has the option of its own")
    target = Target(url, redis, timeout, key or None, ca, insecure, wildcards=not no_wildcards)
    if file is not None:
        from realizehit.cli.publish_file import publish_file

        if idempotency_key is not None:
            raise click.UsageError('--idempotency-key is for one message; with --file a line may have a "key"')
        if arguments and "=" not in arguments[-1]:
            shown = _shortened(arguments[-1])
            raise click.UsageError(f"with --file the payloads are in the file; {shown!r} is not a filter KEY=VALUE")
        pattern = pattern_from(arguments) if arguments else None
        run(publish_file(target, file, pattern, as_json=as_json))
    if not arguments:
        raise click.UsageError(f"write filters and then the payload: {_EXAMPLE}")
    *filters, text = arguments
    payload = without_bom(sys.stdin.buffer.read()).strip() if text == "-" else os.fsencode(text)
    payload = _checked(payload, text)
    run(_publish(target, pattern_from(filters), payload, idempotency_key, as_json=as_json))


def _check_straight(ctx: click.Context) -> None:
    """Refuse options about the API server where nothing is sent to it; variables may stand for other commands."""
    for name, option in (("url", "--url"), ("key", "--key"), ("ca", "--ca"), ("insecure", "--insecure")):
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            tls = name in ("ca", "insecure")
            hint = "; options of TLS stand in its URL: rediss://host?ssl_ca_certs=FILE" if tls else ""
            raise click.UsageError(f"{option} is about the API server, and --redis publishes without one{hint}")


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "..."


def _checked(payload: bytes, argument: str) -> bytes:
    """Return the payload where it is JSON; otherwise say what may have happened to it."""
    from realizehit.client.messages import RawJSON, encode_payload
    from realizehit.errors import RequestError

    try:
        return encode_payload(RawJSON(payload))
    except RequestError as error:
        detail = str(error)
    if argument == "-":
        raise click.UsageError(f"standard input: {detail}")
    if "=" in argument and argument[0] not in '{["':
        raise click.UsageError(f"the payload is missing behind the filter {argument!r}: {_EXAMPLE}")
    raise click.UsageError(f"the payload {_shortened(argument)!r} is not JSON: {detail}\n{_QUOTING}")


async def _publish(
    target: Target, pattern: Pattern, payload: bytes, idempotency_key: str | None, *, as_json: bool
) -> int:
    from realizehit.client.messages import RawJSON

    async with target.open() as publisher:
        result = await publisher.publish(pattern, RawJSON(payload), idempotency_key=idempotency_key)
    at = f", at {result.at}" if result.at else ""
    if as_json:
        more: dict[str, Any] = {"duplicate": True} if result.duplicate else {}
        more |= {"at": result.at} if result.at else {}
        click.echo(json.dumps({"id": result.id, "nodes": result.nodes, **more}))
    elif result.duplicate:
        click.echo(f"published {result.id or pattern.id} before by this idempotency key, so not again{at}")
    else:
        nodes = "an unknown number of nodes" if result.nodes is None else counted(result.nodes, "node")
        click.echo(f"published {result.id or pattern.id} to {nodes}{at}")
    return 0
