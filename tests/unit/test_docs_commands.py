"""The page about the commands, held against what they take."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from realizehit.cli.main import main
from realizehit.settings import OPTIONS, flag_of, type_of, variable_of

PAGE = Path(__file__).parents[2].joinpath("docs", "commands.md").read_text(encoding="utf-8")


def row(name: str) -> str:
    option = next(option for option in OPTIONS if option.name == name)
    default, unit = option.default, option.metadata["unit"]
    if default in (None, ()):
        shown = ""
    elif type_of(name) is bool:
        shown = "on" if default else "off"
    else:
        shown = f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
    if unit:
        shown += f" {unit}"
    flag = f"`{flag_of(name)}`" if flag_of(name) else ""
    return f"| {flag} | `{variable_of(name)}` | {shown} | {option.metadata['help']} |".replace("|  |", "| |")


def test_the_table_has_each_setting_as_it_is() -> None:
    settings = PAGE.partition("### `realizehit-server check-config`")[0]
    rows = [line for line in settings.splitlines() if re.match(r"\| (`--[a-z-]+` )?\| `", line)]
    assert rows == [row(option.name) for option in OPTIONS]


@pytest.mark.parametrize("name", ["publish", "subscribe", "history", "presence", "id", "can", "gen-key"])
def test_each_option_of_the_client_commands_is_described(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(f"`realizehit {name}`")]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert f"`{parameter.opts[0]}" in text, parameter.opts
