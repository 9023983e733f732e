"""Reading settings: a flag wins over the environment, the environment over a TOML file, the file over a default."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from realizehit.common.suggestions import did_you_mean
from realizehit.errors import SettingsError
from realizehit.settings.model import OPTIONS, Settings, flag_of, shown, variable_of


def load(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> tuple[Settings, dict[str, str]]:
    """Put the settings together: a flag wins over the environment, that over the file, that over the default.

    Args:
        flags: values by field name, already of the right type; ``None`` and an empty tuple mean not given.
        environ: the environment, usually ``os.environ``; an empty value means not given.
        file: a TOML file whose keys are the fields' names, with ``-`` or ``_``.

    Returns:
        The settings, and for each field where its value came from: ``flag``, ``environment``, ``file`` or ``default``.

    Raises:
        SettingsError: a value cannot be used, a key is unknown, or the file cannot be read.
    """
    values: dict[str, Any] = {}
    origin: dict[str, str] = {option.name: "default" for option in OPTIONS}
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if file is not None:
        layers.append(("file", _read_file(file)))
    variables = {option.name: (environ or {}).get(variable_of(option.name), "") for option in OPTIONS}
    layers.append(("environment", {name: text for name, text in variables.items() if text != ""}))
    layers.append(("flag", {name: value for name, value in (flags or {}).items() if value not in (None, ())}))
    for source, layer in layers:
        for name, value in layer.items():
            values[name] = _convert(name, value, source, file)
            origin[name] = source
    return Settings(**values), origin


def _read_file(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not TOML: {error}") from None
    known = {option.name for option in OPTIONS}
    values = {key.replace("-", "_"): value for key, value in table.items()}
    for name in values:
        if name not in known:
            meant = did_you_mean(name, known) or f"; known are {', '.join(sorted(known))}"
            raise SettingsError(f"{path}: unknown key {name!r}{meant}")
    return values


_HINTS: Final[dict[str, Any]] = get_type_hints(Settings)


def type_of(name: str) -> type:
    """Return the type of an option's values, or of each item of a list: `bool`, `int`, `float` or `str`."""
    hint = _HINTS[name]
    return next((kind for kind in (bool, int, float) if kind is hint or kind in get_args(hint)), str)


def is_list(name: str) -> bool:
    """Whether an option takes any number of values: a flag that may be repeated, a list, or a text with commas."""
    return get_origin(_HINTS[name]) is tuple


def choices_of(name: str) -> tuple[str, ...]:
    """Return the values that an option allows; empty if it allows any."""
    hint = _HINTS[name]
    return get_args(hint) if get_origin(hint) is Literal else ()


def _convert(name: str, value: Any, source: str, file: Path | None) -> Any:
    where = {"flag": flag_of(name), "environment": variable_of(name), "file": f"{file}: {name}"}[source]
    wanted, choices = type_of(name), choices_of(name)
    if is_list(name):
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise SettingsError(f"{where}: {shown(name, value)} is not a list of texts")
        # The value of a flag may hold several items too, so that a list looks the same everywhere.
        return tuple(part.strip() for item in items for part in item.split(",") if part.strip())
    if isinstance(value, str) and wanted is not str:
        try:
            return _BOOLEANS[value.lower()] if wanted is bool else wanted(value)
        except (ValueError, KeyError):
            kind = {int: "a whole number", float: "a number", bool: "yes or no"}[wanted]
            raise SettingsError(f"{where}: {shown(name, value)} is not {kind}") from None
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise SettingsError(f"{where}: {shown(name, value)} is of the wrong type; it takes {_WANTED[wanted]}")
    if choices and value not in choices:
        raise SettingsError(f"{where}: {shown(name, value)} is not one of {', '.join(choices)}")
    return value


_WANTED: Final[dict[type, str]] = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}

_BOOLEANS: Final = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}
