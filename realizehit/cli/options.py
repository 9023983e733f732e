"""The server's flags, made from the table of options in `realizehit.settings`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from realizehit.cli.endpoints import api_endpoint, ws_endpoint
from realizehit.cli.environment import CONFIG, check_variables
from realizehit.errors import SettingsError
from realizehit.settings import OPTIONS, Settings, choices_of, flag_of, is_list, load, type_of, variable_of

CONFIG_VARIABLE: Final = CONFIG

_Function = TypeVar("_Function", bound=Callable[..., Any])


def settings_options(function: _Function) -> _Function:
    """Add a flag for each option, and ``--config``; the function gets them as keyword arguments."""
    # Decorators add from the last to the first.
    for option in reversed(OPTIONS):
        if not flag_of(option.name):
            continue  # a secret: other users of the machine can read a command line
        function = _flag(option.name, option.default, option.metadata["help"], option.metadata["unit"])(function)
    return click.option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help=f"TOML file with settings; flags and variables win over it.  [env: {CONFIG_VARIABLE}]",
    )(function)


def _flag(name: str, default: Any, text: str, unit: str) -> Callable[[_Function], _Function]:
    kind, choices = type_of(name), choices_of(name)
    notes = [f"env: {variable_of(name)}"]
    if default not in (None, ()):
        shown = (
            ("on" if default else "off")
            if kind is bool
            else f"{default:g} {unit}"
            if kind is float
            else f"{default} {unit}".rstrip()
        )
        notes.append(f"default: {shown}")
    help = f"{text}.  [{'; '.join(notes)}]"
    if kind is bool:
        return click.option(f"{flag_of(name)}/--no-{flag_of(name)[2:]}", name, default=None, help=help)
    if is_list(name):
        return click.option(flag_of(name), name, multiple=True, metavar="TEXT", help=f"{help}  May be repeated.")
    metavar = None if choices else {int: "N", float: "SECONDS"}.get(kind, "TEXT")
    return click.option(
        flag_of(name), name, default=None, type=click.Choice(choices) if choices else kind, metavar=metavar, help=help
    )


def settings_from(*flags: dict[str, Any]) -> tuple[Settings, dict[str, str]]:
    """Make the settings from flags, this process's environment and the file that they name.

    Args:
        flags: the values that click found; later ones win.

    Raises:
        click.UsageError: the settings cannot be used.
    """
    given = {name: value for found in flags for name, value in found.items() if value not in (None, ())}
    file = given.pop("config", None)
    if file is None and os.environ.get(CONFIG_VARIABLE):
        file = Path(os.environ[CONFIG_VARIABLE])
    try:
        check_variables(os.environ)
        settings, origin = load(given, os.environ, file)
        _check_endpoints(settings)
    except SettingsError as error:
        raise Unusable(str(error)) from None
    return settings, origin


def _check_endpoints(settings: Settings) -> None:
    """Check the addresses that are printed at start, so that an error names the setting."""
    for name in ("endpoint", "endpoint_ws", "endpoint_api"):
        given = getattr(settings, name)
        try:
            for read in (ws_endpoint, api_endpoint) if given else ():
                read(given)
        except SettingsError as error:
            raise SettingsError(f"{flag_of(name)} ({variable_of(name)}): {error}") from None


class Unusable(click.ClickException):
    """Settings that cannot be used; exit status 2, as for a wrong flag."""

    exit_code = 2
