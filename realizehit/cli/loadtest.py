"""``realizehit loadtest``."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from realizehit.cli.error_text import describe_error
from realizehit.cli.option_groups import GroupedCommand
from realizehit.errors import RealizehitError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from realizehit.loadtest.expect import Expectation
    from realizehit.loadtest.plan import Plan
    from realizehit.loadtest.report import Report
    from realizehit.loadtest.target import Target

_STATUS: Final = """\b
exit status
  0  it ran and every expectation holds
  1  an expectation does not hold, or it could not be carried out
  2  a flag or an expectation cannot be used
"""


_GROUPS: Final = {
    "Where": ("url", "api", "redis", "key", "header", "workers", "source_address"),
    "Load": (
        "connections", "patterns", "subscriptions_per_connection", "rate", "outstanding", "payload_bytes", "publish",
        "reconnects", "resubscribes", "duration", "ramp", "processes",
    ),
    "Results": ("expect", "json_file", "html_file", "no_live"),
}  # fmt: skip


@click.command(cls=GroupedCommand, groups=_GROUPS, epilog=_STATUS)
@click.option(
    "--scenario",
    default="wide",
    show_default=True,
    metavar="NAME",
    help="wide, deep, many, churn or storm; see --list. The flags below change its numbers.",
)
@click.option("--list", "list_all", is_flag=True, help="List the scenarios and the figures, and end.")
@click.option("--url", metavar="URL", help="WebSocket server, ws://host:port/ws; without it, one is started.")
@click.option("--api", metavar="URL", help="Its API, if it has another address: http://host:port/")
@click.option(
    "--redis", metavar="URL", envvar="REALIZEHIT_LOADTEST_REDIS", help="Its broker, for publishing directly to it."
)
@click.option(
    "--key",
    metavar="KEY",
    envvar="REALIZEHIT_KEY",
    show_envvar=True,
    help="API key to publish with; safer in the variable than here.",
)
@click.option(
    "--header",
    multiple=True,
    metavar="'NAME: VALUE'",
    help="Header line of the opening handshakes, for example a token; can be repeated.",
)
@click.option("--workers", type=click.IntRange(1, 1024), metavar="N", help="Processes of the server that is started.")
@click.option("--connections", type=int, metavar="N", help="Subscribers.")
@click.option("--patterns", type=int, metavar="N", help="Patterns; messages go to them in turn.")
@click.option("--subscriptions-per-connection", type=int, metavar="N", help="Patterns that each connection follows.")
@click.option("--rate", type=float, metavar="N", help="Messages per second, on a fixed schedule.")
@click.option("--outstanding", type=int, metavar="N", help="Messages that may be in flight at once; instead of --rate.")
@click.option("--payload-bytes", type=int, metavar="N", help="Size of each payload.")
@click.option("--duration", type=float, metavar="SECONDS", help="How long to publish.")
@click.option("--ramp", type=float, metavar="SECONDS", help="Time over which the connections are opened.")
@click.option("--processes", type=int, metavar="N", help="Client processes.")
@click.option(
    "--publish",
    type=click.Choice(["api", "batch", "redis"]),
    help="Publish through the API one by one or in batches, or directly to the broker.",
)
@click.option("--reconnects", type=float, metavar="N", help="Connections per second that are closed and opened again.")
@click.option("--resubscribes", type=float, metavar="N", help="Subscriptions per second that are ended and made again.")
@click.option("--source-address", multiple=True, metavar="IP", help="Connect from this address; can be repeated.")
@click.option("--expect", multiple=True, metavar="'p99<50ms'", help="What a figure must be; can be repeated.")
@click.option("--json", "json_file", metavar="FILE", help="Write the report as JSON; - for standard output.")
@click.option("--html", "html_file", metavar="FILE", type=click.Path(path_type=Path), help="Write a page with charts.")
@click.option("--no-live", is_flag=True, help="Print a line every few seconds instead of a live view.")
@click.pass_context
def loadtest(
    ctx: click.Context,
    /,
    *,
    scenario: str,
    list_all: bool,
    url: str | None,
    api: str | None,
    redis: str | None,
    key: str | None,
    header: tuple[str, ...],
    workers: int | None,
    source_address: tuple[str, ...],
    expect: tuple[str, ...],
    json_file: str | None,
    html_file: Path | None,
    no_live: bool,
    **numbers: Any,
) -> None:
    """Measure a server under load.

    Subscribers connect, messages are published, and each delivery is checked and timed: every message must reach every
    subscriber, in order, once. With --rate, messages are sent on a schedule and latency counts from the time when a
    message was due, so that a server that stalls cannot hide it. With --outstanding, as in the scenario deep, the next
    message waits until an earlier one has reached all its subscribers, and latency counts from the time when it was
    sent. Ctrl+C ends the load test early, with a report of what was measured so far.

    \b
    realizehit loadtest --scenario deep
    realizehit loadtest --connections 5000 --rate 100 --expect 'p99<50ms' --expect lost==0
    realizehit loadtest --url ws://127.0.0.1:8080/ws --publish batch --html report.html
    """  # noqa: D301 - \b is click's mark for lines that are to stay as they are
    if list_all:
        _list()
        return
    try:
        _check_platform()
        from realizehit.loadtest.expect import Expectation
        from realizehit.loadtest.plan import make_plan
        from realizehit.loadtest.source_addresses import with_sources
        from realizehit.loadtest.started_server import embedded_target
        from realizehit.loadtest.target import find_target

        expectations = [Expectation.parse(text) for text in expect]
        plan = make_plan(scenario, numbers)
        _check_together(ctx, plan)
        for expectation in expectations:
            _check_measured(expectation, plan)
        if html_file is not None:
            _check_writable(html_file)
        if json_file not in (None, "-"):
            _check_writable(Path(json_file))
        with contextlib.ExitStack() as stack:
            console = _console(stderr=True, plain=no_live)
            if url is None:
                console.print("starting a server", style="dim")
                server = embedded_target(redis=redis, publish=plan.publish, workers=workers or 1)
                target = stack.enter_context(server)
            else:
                target = find_target(url, api=api, redis=redis, publish=plan.publish, key=key or None, headers=header)
            report = _run(plan, with_sources(target, plan.connections, source_address), scenario, console)
        report.expect(expectations)
        _tell(report, json_file, html_file)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    except RealizehitError as error:
        raise click.ClickException(describe_error(error)) from None
    if any(failure for _, failure in report.expectations):
        sys.exit(1)


def _check_together(ctx: click.Context, plan: Plan) -> None:
    """Refuse options that have no effect together."""
    given = {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    by_api = plan.publish in ("api", "batch")
    if "url" not in given:
        for name in ("api", "header", "key"):
            if name in given:
                raise click.UsageError(f"--{name} needs a server that --url names")
    elif "workers" in given:
        raise click.UsageError("--workers is for the server that is started without --url")
    if "url" in given and "redis" in given and by_api:
        raise click.UsageError(f"--redis is for publishing at the broker; --publish {plan.publish} uses the API")
    if plan.publish == "redis" or (plan.publish is None and "redis" in given):
        for name in ("api", "key"):
            if name in given:
                raise click.UsageError(f"--{name} is for publishing through the API, and this publishes at the broker")
    if {"rate", "outstanding"} <= given and plan.rate and plan.outstanding:
        raise click.UsageError(
            "--rate and --outstanding contradict each other: one says when the next message goes out"
        )
    if {"json_file", "html_file"} <= given and ctx.params["json_file"] == str(ctx.params["html_file"]):
        raise click.UsageError("--json and --html name the same file")


def _check_measured(expectation: Expectation, plan: Plan) -> None:
    """Refuse an expectation about a figure that this load test does not measure."""
    figure = expectation.figure
    if figure == "storm_seconds" and not plan.storm:
        raise click.UsageError(f"--expect {expectation.text}: {figure} is only measured with --scenario storm")
    if figure.startswith("rejoin_") and not (plan.storm or plan.reconnects):
        raise click.UsageError(f"--expect {expectation.text}: no client rejoins without --reconnects or a storm")


def _check_writable(path: Path) -> None:
    """Check before the load test that a report can be written; an existing file is not changed yet."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            return  # a pipe or a device: opening it may do something
        is_new = not path.exists()
        with path.open("ab"):
            pass
        if is_new:
            path.unlink()
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from None


def _check_platform() -> None:
    try:
        from realizehit.loadtest._load import HAVE_EPOLL
    except ImportError:
        raise click.ClickException(
            "the load test needs its compiled part, which is missing from this installation"
        ) from None
    if not HAVE_EPOLL:
        raise click.ClickException("the load test needs epoll, that is Linux; run it there against this server")


def _run(plan: Plan, target: Target, scenario: str, console: Console) -> Report:
    from realizehit.loadtest.coordinator import Coordinator
    from realizehit.loadtest.terminal import LiveView

    with LiveView(console, plan, target, scenario) as view:
        coordinator = Coordinator(plan, target, scenario=scenario, on_point=view.show)

        def stop(number: int, frame: FrameType | None) -> None:
            # A second signal ends the load test at once.
            signal.signal(number, signal.default_int_handler)
            coordinator.stop()

        before = signal.signal(signal.SIGINT, stop)
        try:
            return coordinator.run()
        finally:
            signal.signal(signal.SIGINT, before)


def _tell(report: Report, json_file: str | None, html_file: Path | None) -> None:
    from realizehit.loadtest.terminal import show_report

    show_report(_console(stderr=json_file == "-"), report)
    try:
        if json_file is not None:
            text = json.dumps(report.as_json(), indent=1, allow_nan=False) + "\n"
            if json_file == "-":
                sys.stdout.write(text)
            else:
                Path(json_file).write_text(text, encoding="utf-8")
        if html_file is not None:
            from realizehit.loadtest.html_report import render

            html_file.write_text(render(report), encoding="utf-8")
    except OSError as error:
        if error.filename is None:
            raise  # it is about standard output
        raise click.ClickException(f"{error.filename} cannot be written: {error.strerror}") from None


def _console(*, stderr: bool, plain: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, force_terminal=False if plain else None)
    # If the output is not a terminal, lines are not folded, so that grep finds them.
    return console if console.is_terminal else Console(stderr=stderr, force_terminal=False, width=200, soft_wrap=True)


def _list() -> None:
    from realizehit.loadtest.expect import FIGURES
    from realizehit.loadtest.plan import SCENARIOS

    click.echo("Scenarios:")
    for name, scenario in SCENARIOS.items():
        click.echo(f"  {name:8} {scenario.summary}")
    click.echo("\nFigures, for --expect:")
    for name, (_, text) in FIGURES.items():
        click.echo(f"  {name:24} {text}")
