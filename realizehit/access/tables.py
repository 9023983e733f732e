"""The files of grants and of keys: lists of TOML tables of one name, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from realizehit.errors import SettingsError
from realizehit.suggestions import did_you_mean


def read_tables(table: Mapping[str, Any], name: str, where: str) -> Iterator[tuple[str, Any]]:
    """Yield each ``[[name]]`` of a file, unchecked, with the place that errors about it name.

    Args:
        table: what TOML made of the file.
        name: of its tables, in the singular.
        where: the file, for errors.

    Raises:
        SettingsError: there is something else in it, or it is no list.
    """
    unknown = set(table) - {name}
    if unknown:
        meant = did_you_mean(min(unknown), [name]) or f"; a file of {name}s has [[{name}]] tables"
        raise SettingsError(f"{where}: unknown key {min(unknown)!r}{meant}")
    entries = table.get(name, [])
    if not isinstance(entries, list):
        raise SettingsError(f"{where}: write [[{name}]], with two brackets")
    for number, entry in enumerate(entries, 1):
        yield f"{where}: {name} {number}", entry
