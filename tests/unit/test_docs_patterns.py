"""The examples of ``docs/patterns.md`` hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from realizehit.errors import PatternError
from realizehit.pattern import MAX_CHANNEL, MAX_FILTERS, MAX_KEY, MAX_VALUE, Pattern, channel_of, project

PAGE = (Path(__file__).parents[2] / "docs" / "patterns.md").read_text(encoding="utf-8")


def rows(*columns: str) -> list[list[str]]:
    """The rows of all tables with these columns; `\\|` is a bar inside a cell."""
    found = []
    lines = PAGE.splitlines()
    for n, line in enumerate(lines):
        if cells(line) == list(columns):
            for row in lines[n + 2 :]:
                if not row.startswith("|"):
                    break
                found.append(cells(row))
    assert found, columns
    return found


def cells(line: str) -> list[str]:
    return [cell.strip().strip("`").replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def filters(cell: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(cell)
    return value


@pytest.mark.parametrize(("pattern", "channel", "label"), rows("pattern", "channel", "id"))
def test_channels_and_ids(pattern: str, channel: str, label: str) -> None:
    built = Pattern(filters(pattern))
    assert (built.channel, built.id) == (channel, label)


@pytest.mark.parametrize(("pattern", "channel"), rows("pattern", "channel"))
def test_numbers(pattern: str, channel: str) -> None:
    assert channel_of(filters(pattern)).decode() == channel


@pytest.mark.parametrize(("pattern", "because"), rows("pattern", "because"))
def test_refusals(pattern: str, because: str) -> None:
    with pytest.raises(PatternError) as refused:
        channel_of(filters(pattern))
    assert because in str(refused.value)


@pytest.mark.parametrize(("subscription", "publication", "gets"), rows("subscription", "publication", "gets it"))
def test_what_wildcards_get(subscription: str, publication: str, gets: str) -> None:
    assert Pattern(filters(subscription)).matches(filters(publication)) is (gets == "yes")


@pytest.mark.parametrize(
    ("subscription", "channel", "shape", "publication", "projection"),
    rows("subscription", "channel", "shape", "publication", "projection"),
)
def test_projections(subscription: str, channel: str, shape: str, publication: str, projection: str) -> None:
    pattern = Pattern(filters(subscription))
    assert (pattern.channel, pattern.shape) == (channel, shape)
    projected = project(channel_of(filters(publication)), shape.encode())
    assert (projected.decode() if projected else "none") == projection


def test_bounds() -> None:
    told = [int(re.sub(r"\D.*", "", bound.replace(",", ""))) for _, bound in rows("what", "at most")]
    assert told == [MAX_FILTERS, MAX_KEY, MAX_VALUE, MAX_CHANNEL]


def test_the_program() -> None:
    [program] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert program.count("assert ") == 7
    exec(program, {})
