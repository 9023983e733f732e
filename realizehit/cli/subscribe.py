"""``realizehit subscribe``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from realizehit.cli.endpoints import DEFAULT_WS, ws_endpoint
from realizehit.cli.filters import as_argument, pattern_from
from realizehit.cli.option_types import Seconds
from realizehit.cli.tls import tls_context, tls_options
from realizehit.common.masking import masked

if TYPE_CHECKING:
    from realizehit.client.received_message import ReceivedMessage
    from realizehit.client.ws import Subscription, WSClient
    from realizehit.errors import Disconnected, RealizehitError
    from realizehit.pattern import Pattern

# JSON strings may contain these unescaped, and some terminals obey them.
_CONTROLS: Final = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}


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

    The exit status is 1 if it cannot subscribe, or if --timeout passes before --count payloads have come.
    """  # noqa: D301 - \b is click's mark for lines that are to stay as they are
    from realizehit.cli.running import run

    lines = as_json or not sys.stdout.isatty()
    client = Client(url, token or None, ca, insecure)
    run(_follow(pattern_from(filters), client, lines=lines, count=count, seconds=timeout))


async def _follow(pattern: Pattern, target: Client, *, lines: bool, count: int | None, seconds: float | None) -> int:
    subscription = None
    try:
        async with asyncio.timeout(seconds), target.open() as client:
            client.on("error", _tell_failure)
            subscription = await client.subscribe(pattern)
            subscription.on("error", _tell_error)
            client.on("disconnect", _tell_disconnect)
            subscription.on("gap", lambda away: _say(f"a gap of {away:.1f} s has ended: messages may be missing"))
            _say(f"subscribed to {pattern} ({subscription.id}) at {masked(client.url)}")
            try:
                await _print_all(subscription, lines, count, with_pattern=pattern.has_wildcard)
            finally:
                client.off("disconnect", _tell_disconnect)  # the command itself disconnects now
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


async def _print_all(subscription: Subscription, lines: bool, count: int | None, *, with_pattern: bool) -> None:
    seen = dropped = 0
    async for message in subscription.messages():
        if subscription.dropped > dropped:
            _say(f"{subscription.dropped - dropped} payloads were left out: they come faster than they can be printed")
            dropped = subscription.dropped
        if _show(message, lines, with_pattern):
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


def _tell_disconnect(error: Disconnected) -> None:
    from realizehit.client.reconnect_rules import asked_delay, may_return

    if not may_return(error.close_code):
        return
    delay = asked_delay(error.close_code, getattr(error, "reason", ""))
    what = error if delay is None else f"the server is closing and asks to connect again in {delay:.1f} s"
    _say(f"disconnected: {what}; trying again, messages may be missing")


def _say(text: str) -> None:
    click.echo(text, err=True)


def _show(message: ReceivedMessage, lines: bool, with_pattern: bool) -> bool:
    """Print one payload, and its pattern if asked; return whether the payload is JSON, so that it could be printed."""
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
    if lines:
        if with_pattern:  # the form that `publish --file` reads
            text = f'{{"pattern":{orjson.dumps(message.pattern).decode()},"payload":{text}}}'
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    else:
        if with_pattern:
            click.secho(as_argument(message.pattern), bold=True)
        _lay_out(text)
    return True


def _lay_out(text: str) -> None:
    from rich import get_console
    from rich.highlighter import JSONHighlighter

    from realizehit.cli.json_layout import lay_out_json

    get_console().print(JSONHighlighter()(lay_out_json(text).translate(_CONTROLS)), soft_wrap=True)
