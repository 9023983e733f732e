"""The files of grants and of keys: each is a list of TOML tables of one name.

A file that is cut off, by a full disk or while it is written, must not allow more than the whole file. Text in brackets
or braces is not valid TOML when it is cut off. So patterns and grants must be written in these, and not as the lines of
a table, some of which could be missing.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from realizehit.common.suggestions import did_you_mean
from realizehit.errors import SettingsError

_OPEN_ENDED: Final = re.compile(
    r"""^[ \t]*(?:\[+[ \t]*["']?(?:grant|key)["']?[ \t]*\.|["']?(?:pattern|grants)["']?[ \t]*\.)""", re.MULTILINE
)
_UNFINISHED_RATE: Final = re.compile(r"""^[ \t]*["']?rate["']?[ \t]*=[^\n]*\Z""", re.MULTILINE)


def parse(text: str, where: str) -> dict[str, Any]:
    """Parse a file of grants or keys.

    Args:
        text: its content.
        where: its name, for errors.

    Raises:
        SettingsError: it is not TOML, or it would allow more if it were cut off.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{where}: is not TOML: {error}") from None
    if (found := _OPEN_ENDED.search(text)) is not None:
        line = text.count("\n", 0, found.start()) + 1
        raise SettingsError(
            f'{where}: line {line}: write a pattern in braces, pattern = {{kind = "news"}}, and grants in brackets: '
            "if the file were cut off inside a table, it would allow more"
        )
    if _UNFINISHED_RATE.search(text) is not None:
        raise SettingsError(f"{where}: the last line, rate, does not end: end the file with a line break")
    return table


def read_tables(table: Mapping[str, Any], name: str, where: str) -> Iterator[tuple[str, Any]]:
    """Yield each ``[[name]]`` of a file, unchecked, with its place for errors.

    Args:
        table: the parsed file.
        name: the name of its tables, in the singular.
        where: the file's name, for errors.

    Raises:
        SettingsError: the file has anything else, or the name is not a list of tables.
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
