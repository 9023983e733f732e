"""A group of commands that are imported when they are called."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

import click

from realizehit.cli.option_groups import Groups, write_options
from realizehit.common.suggestions import nearest


class LazyCommand(NamedTuple):
    """The module of a command, and its line in the list of commands.

    Attributes:
        module: imported when the command is called. If it is not installed, the command does not exist.
        attribute: the command's name in the module.
        summary: one line.
    """

    module: str
    attribute: str
    summary: str


class LazyGroup(click.Group):
    """A group that lists its commands without importing them."""

    lazy: Final[Mapping[str, LazyCommand]]

    def __init__(
        self, *args: Any, lazy: Mapping[str, LazyCommand], groups: Groups | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.groups = groups or {}
        self.lazy = {name: command for name, command in lazy.items() if find_spec(command.module)}
        self.absent = lazy.keys() - self.lazy.keys()

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = self.lazy.get(cmd_name)
        if place is None:
            return super().get_command(ctx, cmd_name)
        command = getattr(import_module(place.module), place.attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for a mistyped name, suggest the nearest one."""
        if args and args[0] in self.absent:
            ctx.fail(f"The command {args[0]!r} is not in this installation, which has the clients only.")
        if args and self.get_command(ctx, args[0]) is None and (near := nearest(args[0], self.list_commands(ctx))):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near!r}?")
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_options(self, ctx, formatter, self.groups)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._summary(ctx, name)) for name in self.list_commands(ctx)])

    def _summary(self, ctx: click.Context, name: str) -> str:
        if name in self.lazy:
            return self.lazy[name].summary
        command = self.get_command(ctx, name)
        return command.get_short_help_str() if command else ""
