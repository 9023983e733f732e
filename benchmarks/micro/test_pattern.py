"""Filters to channel and id."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import models
from realizehit import _fanout

PATTERNS: dict[str, dict[str, Any]] = {
    "1 filter": {"user": 25442},
    "3 filters": {"kind": "news", "channel": "CNN", "show": "evening"},
    "3 filters, encoded": {"kind": "nouvelles du soir", "channel": "Ω?|:", "ratio": 1.5},
}


def engine_channel_and_id(filters: dict[str, Any]) -> tuple[bytes, str]:
    channel = _fanout.canonical(filters)
    return channel, _fanout.channel_id(channel)


def model_channel_and_id(filters: dict[str, Any]) -> tuple[bytes, str]:
    channel = models.canonical(filters)
    return channel, models.channel_id(channel)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("side", ["engine", "python"])
def test_channel_and_id(benchmark: Any, name: str, side: str) -> None:
    benchmark.group = f"channel and id: {name}"
    work = engine_channel_and_id if side == "engine" else model_channel_and_id
    assert benchmark(work, PATTERNS[name]) == model_channel_and_id(PATTERNS[name])


@pytest.mark.parametrize("side", ["engine", "hashlib"])
def test_id(benchmark: Any, side: str) -> None:
    benchmark.group = "id of a channel"
    channel = b"channel:CNN|kind:news"
    work = _fanout.channel_id if side == "engine" else models.channel_id
    assert benchmark(work, channel) == "3bf1d979"
