"""The dashboard and the alert rules in ``deploy/`` name metrics that a server has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx2
import pytest
import yaml

from tests.support.processes import serving

ROOT = Path(__file__).resolve().parents[2]
NAME = re.compile(r"\b(?:realizehit|process)_\w+(?!\w*=)")
MATCHER = re.compile(r'\b(?:reason|outcome|source)=~?"([^"]+)"')

pytestmark = pytest.mark.slow  # it starts a server


def rules() -> list[str]:
    """The expressions of the alert rules."""
    groups = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def dashboard() -> list[str]:
    """The expressions of the dashboard, and the queries of its variables."""
    board = json.loads((ROOT / "deploy/grafana/realizehit.json").read_text())
    variables = [each["query"]["query"] for each in board["templating"]["list"] if each["type"] == "query"]
    return [*variables, *(target["expr"] for panel in board["panels"] for target in panel.get("targets", []))]


@pytest.fixture(scope="module")
def known() -> set[str]:
    """The names of all series of a server, of histograms too."""
    with serving() as server:
        text = httpx2.get(f"{server.api}metrics").raise_for_status().text
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    buckets = {
        f"{name}_{part}" for name, kind in types.items() if kind == "histogram" for part in ("bucket", "sum", "count")
    }
    return buckets | types.keys()


@pytest.mark.parametrize("read", [rules, dashboard])
def test_each_metric_exists(read: type, known: set[str]) -> None:
    named = {name for expression in read() for name in NAME.findall(expression)}
    assert len(named) >= 8
    assert named <= known


def test_each_label_value_is_documented() -> None:
    page = (ROOT / "docs/http-api.md").read_text()
    values = {
        value for each in [*rules(), *dashboard()] for found in MATCHER.findall(each) for value in found.split("|")
    }
    assert {"slow_consumer", "unavailable", "failed"} <= values
    assert [value for value in values if f"`{value}`" not in page] == []


def test_panels_have_places_of_their_own() -> None:
    panels = json.loads((ROOT / "deploy/grafana/realizehit.json").read_text())["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in panels}) == len(panels)
