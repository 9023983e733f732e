"""A client's message to an action."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import models
from realizehit.node.messages import parse_action

TEXT = b'{"id": "a1", "act": "sub", "pat": {"kind": "news", "channel": "CNN"}}'


@pytest.mark.parametrize("side", ["engine", "python"])
def test_parse(benchmark: Any, side: str) -> None:
    benchmark.group = "parse an action"
    work: Any = parse_action if side == "engine" else models.parse_action
    assert tuple(benchmark(work, TEXT))[:3] == ("a1", "sub", {"kind": "news", "channel": "CNN"})
