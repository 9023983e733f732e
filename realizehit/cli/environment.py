"""Finds mistyped environment variables, which would otherwise be ignored without a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from realizehit.common.suggestions import nearest
from realizehit.errors import SettingsError
from realizehit.settings import OPTIONS, variable_of

PREFIX: Final = "REALIZEHIT_"
CONFIG: Final = "REALIZEHIT_CONFIG"

KNOWN: Final = frozenset(
    {CONFIG, "REALIZEHIT_KEY", "REALIZEHIT_TOKEN", "REALIZEHIT_LOADTEST_REDIS"}
    | {variable_of(option.name) for option in OPTIONS}
)
"""The variables that the commands use."""

_NEAR: Final = 0.8  # similarity; other programs, such as Kubernetes, set variables with the same prefix


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the names of variables that have our prefix and that no command uses, sorted."""
    return sorted(name for name, value in environ.items() if name.startswith(PREFIX) and name not in KNOWN and value)


def check_variables(environ: Mapping[str, str]) -> None:
    """Refuse a variable whose name is nearly one of ours, or is the name of an option whose variable has another name.

    Raises:
        SettingsError: there is such a variable; the text suggests the right name, and never shows the value.
    """
    others = {f"{PREFIX}{option.name.upper()}": variable_of(option.name) for option in OPTIONS}
    names = {name.removeprefix(PREFIX) for name in KNOWN if name.startswith(PREFIX)}
    for name, value in environ.items():
        if not name.startswith(PREFIX) or name in KNOWN or not value:
            continue
        meant = others.get(name)
        if meant is None:
            near = nearest(name.removeprefix(PREFIX), names, cutoff=_NEAR)
            meant = near and PREFIX + near
        elif "://" in value and meant.endswith("_PORT"):
            continue  # Kubernetes sets it in a container if there is a service of this name
        if meant is not None:
            raise SettingsError(f"the environment: there is no variable {name}; did you mean {meant}?")
