"""``realizehit-server check-config``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from realizehit.cli.explain_access import explain_access
from realizehit.cli.option_groups import GroupedCommand
from realizehit.cli.options import Unusable, settings_from, settings_options
from realizehit.errors import SettingsError
from realizehit.settings import GROUPS, OPTIONS, Settings, flag_of, variable_of

if TYPE_CHECKING:
    from rich.console import Console

MIN_WIDTH = 120  # columns, if the output is not a terminal


@click.command(cls=GroupedCommand, groups=GROUPS)
@settings_options
@click.option(
    "--pattern",
    "patterns",
    metavar="KEY=VALUE",
    multiple=True,
    help="Instead, tell whether a client may subscribe to this, and why; may be repeated for more filters.",
)
@click.option(
    "--identity", "identities", metavar="KEY=VALUE", multiple=True,
    help="With --pattern: what the client is; may be repeated.",
)  # fmt: skip
@click.pass_context
def check_config(ctx: click.Context, /, patterns: tuple[str, ...], identities: tuple[str, ...], **flags: Any) -> None:
    """Show each setting, its value and where it comes from, and what the server would do; or say what is wrong.

    What the server would do: where it listens, who may publish and subscribe, which pages may use it. Nothing is
    started or connected. Passwords are not shown. The exit status is 2 if the settings cannot be used.
    Warnings about settings that are probably a mistake go to standard error.
    With --pattern the command answers instead whether a client may subscribe, with the grant that allows it or the
    nearest one that does not; the exit status is then 0 for yes and 1 for no.
    """
    if identities and not patterns:
        raise click.UsageError("--identity goes with --pattern")
    settings, origin = settings_from(ctx.obj or {}, flags)

    from rich.table import Table

    from realizehit.cli.banner import doubts
    from realizehit.cli.summary import summary
    from realizehit.process.supervisor import check

    try:
        check(settings)
    except SettingsError as error:
        raise Unusable(str(error)) from None
    if patterns:
        explain_access(settings, patterns, identities, complete=True)
    widest = max(len(_shown(settings, option.name)) for option in OPTIONS)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("setting", "value", "from", "variable"):
        table.add_column(title, overflow="fold")
    for option in OPTIONS:
        name, place = option.name, origin[option.name]
        style = "dim" if place == "default" else ""
        table.add_row(flag_of(name) or "-", _shown(settings, name), place, variable_of(name), style=style)
    _console(widest).print(table, markup=False, highlight=False)
    sys.stdout.flush()

    told = Table(box=None, pad_edge=False, show_header=False)
    told.add_column(style="bold")
    told.add_column(overflow="fold")
    lines = list(summary(settings, os.environ))
    for line in lines:
        told.add_row(*line)
    # Scripts read the table from standard output, so everything else goes to standard error.
    _console(max(len(text) for _, text in lines), stderr=True).print(told, markup=False, highlight=False)
    for doubt in doubts(settings):
        click.echo(f"Warning: {doubt}", err=True)


def _console(widest: int, *, stderr: bool = False) -> Console:
    """Return where to print; if that is not a terminal, it is wide enough that nothing is folded.

    Args:
        widest: characters of the longest text.
        stderr: whether it is standard error.
    """
    from rich.console import Console

    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=max(MIN_WIDTH, widest + 80))


def _shown(settings: Settings, name: str) -> str:
    value = getattr(settings, name)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    if next(option for option in OPTIONS if option.name == name).metadata["secret"] and name != "redis":
        return "set"
    if isinstance(value, tuple):
        return ", ".join(map(_without_secrets, value)) or "-"
    return _without_secrets(str(value))


def _without_secrets(text: str) -> str:
    from realizehit.broker.url import redacted

    return redacted(text) if "://" in text else text
