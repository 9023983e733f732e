"""Long lists of options, shown in groups by ``--help``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

Groups = Mapping[str, Sequence[str]]
"""The names of parameters by the title of their group."""


def write_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter, groups: Groups) -> None:
    """Write a command's options in sections; options without a group come first, under "Options"."""
    grouped = {name for names in groups.values() for name in names}
    parameters = command.get_params(ctx)
    sections: dict[str, list[tuple[str, str]]] = {"Options": [], **{title: [] for title in groups}}
    for parameter in parameters:
        if parameter.name not in grouped and (record := parameter.get_help_record(ctx)) is not None:
            sections["Options"].append(record)
    by_name = {parameter.name: parameter for parameter in parameters}
    for title, names in groups.items():
        for name in names:
            if name in by_name and (record := by_name[name].get_help_record(ctx)) is not None:
                sections[title].append(record)
    for title, records in sections.items():
        if records:
            with formatter.section(title):
                formatter.write_dl(records)


class GroupedCommand(click.Command):
    """A command whose options are shown in groups."""

    def __init__(self, *args: Any, groups: Groups, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.groups = groups

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_options(self, ctx, formatter, self.groups)
