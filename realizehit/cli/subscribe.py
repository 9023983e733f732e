"""``realizehit subscribe``."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from realizehit.cli.endpoints import DEFAULT_WS, ws_endpoint
from realizehit.cli.filters import as_argument, pattern_from
from realizehit.cli.option_types import Seconds
from realizehit.cli.text import without_controls
from realizehit.cli.tls import tls_context, tls_options
from realizehit.common.masking import masked

if TYPE_CHECKING:
    from realizehit.client.received_message import ReceivedMessage
    from realizehit.client.ws import Subscription, WSClient
    from realizehit.errors import Disconnected, RealizehitError
    from realizehit.pattern import Pattern


class Client(NamedTuple):
    """The server and the client's credentials; ``url`` is what the user wrote."""

    url: str
    token: str | None
    ca: Path | None
    insecure: bool

    def open(self) -> WSClient:
        """Make the client; ``async with`` connects it.

        Raises:
            SettingsError: the address, the token or the certificates cannot be used.
        """
        from realizehit.client.ws import WSClient

        url = ws_endpoint(self.url)
        return WSClient(url, token=self.token, ssl=tls_context(url, self.ca, self.insecure))


class HistoryOptions(NamedTuple):
    """What to ask for of the pattern's history: see `WSClient.subscribe`."""

    since: str | None
    last: int | None
    offsets: bool


class Layout(NamedTuple):
    """How to print messages: one line each, and with their pattern or position."""

    lines: bool
    with_pattern: bool
    with_position: bool


@click.command()
@click.argument("filters", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.option(
    "--url",
    envvar=["ENDPOINT_WS", "ENDPOINT"],
    default=DEFAULT_WS,
    show_default=True,
    show_envvar=True,
    help="The WebSocket server's address.",
)
@click.option(
    "--token",
    metavar="TOKEN",
    envvar="REALIZEHIT_TOKEN",
    show_envvar=True,
    help="Your token, if the server requires one; safer in the variable than here.",
)
@tls_options
@click.option("--last", metavar="N", type=click.IntRange(min=1), help="Begin with the last N messages of the history.")
@click.option("--since", metavar="POSITION", help="Begin with what was published after this position.")
@click.option("--positions", is_flag=True, help="Print the position of each message in the history.")
@click.option("--every", metavar="MS", type=click.IntRange(min=1), help="Get the newest message once in this time.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each message, also on a terminal.")
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="End after this number of payloads.")
@click.option("--timeout", metavar="SECONDS", type=Seconds(), help="End after this time.")
def subscribe(
    filters: tuple[str, ...],
    *,
    url: str,
    token: str | None,
    ca: Path | None,
    insecure: bool,
    last: int | None,
    since: str | None,
    positions: bool,
    every: int | None,
    as_json: bool,
    count: int | None,
    timeout: float | None,
) -> None:
    """Print what is published to a pattern, as it comes.

    On a terminal payloads are laid out and coloured; otherwise each is one line of JSON, as it was published. What
    happens to the connection is told on standard error. Ctrl+C ends it.

    \b
    realizehit subscribe kind=news channel=CNN

    A value of * stands for any value, ** for any further filters. The pattern of each message is printed too: above the
    payload on a terminal, otherwise in lines {"pattern": {...}, "payload": ...}, which publish --file reads.

    \b
    realizehit subscribe 'kind=news,channel=*'
    realizehit subscribe 'user=42,**'

    If the server keeps a history of the pattern, --last and --since begin with earlier messages. With any of
    --last, --since and --positions the command goes on after the last message when it connects again, and reports on
    standard error whether something is missing. With --positions the lines are {"pattern": {...}, "position": "...",
    "payload": ...}.

    \b
    realizehit subscribe kind=news channel=CNN --last 10
    realizehit subscribe kind=news channel=CNN --since k3f09a2c.17 --positions

    With --every the server sends at most one message in that number of milliseconds, always the newest. It cannot be
    combined with --last, --since and --positions.

    \b
    realizehit subscribe kind=price --every 100

    The exit status is 1 if it cannot subscribe, or if --timeout passes before --count payloads have come.
    """  # noqa: D301 - \b is click's mark for lines that are to stay as they are
    from realizehit.cli.running import run
    from realizehit.client.conflation import check_every
    from realizehit.client.log_cursor import LogCursor
    from realizehit.errors import RequestError

    try:
        check_every(every, LogCursor(since, last, positions))
    except RequestError as error:
        raise click.UsageError(str(error)) from None
    pattern = pattern_from(filters)
    layout = Layout(as_json or not sys.stdout.isatty(), pattern.has_wildcard or positions, positions)
    client = Client(url, token or None, ca, insecure)
    history = HistoryOptions(since, last, positions)
    run(_follow(pattern, client, history, layout, every=every, count=count, seconds=timeout))


async def _follow(
    pattern: Pattern,
    target: Client,
    history: HistoryOptions,
    layout: Layout,
    *,
    every: int | None,
    count: int | None,
    seconds: float | None,
) -> int:
    subscription = None
    try:
        async with asyncio.timeout(seconds), target.open() as client:
            client.on("error", _tell_failure)
            subscription = await client.subscribe(pattern, **history._asdict(), every=every)
            subscription.on("error", _tell_error)
            tell_disconnect = partial(_tell_disconnect, resumes=any(history))
            client.on("disconnect", tell_disconnect)
            subscription.on("gap", _tell_gap)
            subscription.on("recovered", lambda: _say("connected again: nothing is missing"))
            _say(f"subscribed to {pattern} ({subscription.id}) at {masked(client.url)}")
            _tell_history(subscription, history)
            try:
                await _print_all(subscription, layout, count)
            finally:
                client.off("disconnect", tell_disconnect)  # the command itself disconnects now
            return 0
    except TimeoutError:
        pass
    if subscription is None:
        _say(f"{seconds:g} seconds have passed and there is no subscription yet")
        return 1
    if count is None:
        return 0
    _say(f"{seconds:g} seconds have passed and fewer than {count} payloads have come")
    return 1


def _tell_history(subscription: Subscription, history: HistoryOptions) -> None:
    """Report what the server did not do of what was asked for."""
    if subscription.recovered is False:
        _say(f"the server does not have all messages after {history.since}: messages may be missing")
    if any(history) and subscription.position is None:
        _say("the server keeps no history of this pattern")


async def _print_all(subscription: Subscription, layout: Layout, count: int | None) -> None:
    seen = dropped = 0
    async for message in subscription.messages():
        if subscription.dropped > dropped:
            _say(f"{subscription.dropped - dropped} payloads were left out: they come faster than they can be printed")
            dropped = subscription.dropped
        if _show(message, layout):
            seen += 1
            if seen == count:
                return


def _tell_failure(error: RealizehitError) -> None:
    """Report an attempt that failed and is repeated. An error that ends the client is reported at the end."""
    from realizehit.cli.error_text import describe_error
    from realizehit.client.reconnect_rules import may_try_again
    from realizehit.errors import Rejected, Unavailable

    if isinstance(error, Rejected | Unavailable) and may_try_again(error):
        _say(f"not connected: {describe_error(error)}")


def _tell_error(error: RealizehitError) -> None:
    """Report messages that were left out. An error that ends the subscription is reported at the end."""
    from realizehit.errors import ClientError

    if type(error) is ClientError:
        _say(str(error))


def _tell_gap(seconds: float) -> None:
    if seconds:  # what the queue dropped is told while printing
        _say(f"a gap of {seconds:.1f} s has ended: messages may be missing")


def _tell_disconnect(error: Disconnected, *, resumes: bool) -> None:
    from realizehit.client.reconnect_rules import asked_delay, may_return

    if not may_return(error.close_code):
        return
    delay = asked_delay(error.close_code, getattr(error, "reason", ""))
    what = error if delay is None else f"the server is closing and asks to connect again in {delay:.1f} s"
    _say(f"disconnected: {what}; trying again{'' if resumes else ', messages may be missing'}")


def _say(text: str) -> None:
    click.echo(text, err=True)


def _show(message: ReceivedMessage, layout: Layout) -> bool:
    """Print one message; return whether its payload is JSON, so that it could be printed."""
    import orjson

    from realizehit.client.messages import check_json

    payload = message.raw
    try:
        check_json(payload)
    except ValueError as error:
        _say(f"a payload of {len(payload)} bytes is not JSON and is left out: {error}")
        return False
    # In a JSON text line breaks are only whitespace between its parts.
    text = payload.decode().replace("\r", " ").replace("\n", " ")
    if layout.lines:
        if layout.with_pattern:  # the form that `publish --file` reads
            position = f'"position":{orjson.dumps(message.position).decode()},' if layout.with_position else ""
            text = f'{{"pattern":{orjson.dumps(message.pattern).decode()},{position}"payload":{text}}}'
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    else:
        if layout.with_pattern:
            position = f"  {message.position}" if layout.with_position and message.position else ""
            click.secho(as_argument(message.pattern), bold=True, nl=False)
            click.secho(position, dim=True)
        _lay_out(text)
    return True


def _lay_out(text: str) -> None:
    from rich import get_console
    from rich.highlighter import JSONHighlighter

    from realizehit.cli.json_layout import lay_out_json

    get_console().print(JSONHighlighter()(without_controls(lay_out_json(text))), soft_wrap=True)
