"""The arithmetic of the benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from benchmarks import chart, machine
from benchmarks.__main__ import main
from benchmarks.results import Result, Target, Verdict
from benchmarks.system import capacity
from benchmarks.system.histogram import percentile

LESS = Target(must=1.1, aim=1.03)
MORE = Target(must=6000, aim=15_000, lower=False)


def result(*samples: float, target: Target | None = LESS) -> Result:
    return Result("wide", "some", "x send loop", list(samples), target, {"us": [1.0, 2.0, 3.0]})


def test_lower_or_higher_is_better() -> None:
    assert [LESS.verdict(value) for value in (1.03, 1.1, 1.11)] == [Verdict.AIM, Verdict.MUST, Verdict.MISSED]
    assert [MORE.verdict(value) for value in (15_000, 6000, 5999)] == [Verdict.AIM, Verdict.MUST, Verdict.MISSED]


def test_the_median_of_the_rounds_is_judged() -> None:
    assert result(1.0, 9.0, 1.05).verdict is Verdict.MUST
    assert result(1.0, 9.0, 1.05).to_json()["raw_medians"] == {"us": 2.0}
    assert result(1.0, target=None).verdict is Verdict.NONE


def test_rounds_of_two_measurements_are_put_together() -> None:
    both = result(1.0)
    both.merge(result(2.0, 3.0))
    assert both.value == 2.0
    assert len(both.raw["us"]) == 6


def test_percentiles_of_the_load_clients_histogram() -> None:
    assert percentile([(100, 98), (2047, 1), (2048, 1)], 98) == 100
    assert percentile([(100, 98), (2047, 1), (2048, 1)], 99) == 2047
    assert percentile([(100, 98), (2047, 1), (2048, 1)], 100) == 2048
    assert percentile([(3072, 1)], 50) == 4096


def test_the_picture_has_a_bar_and_two_marks_for_each_judged_result() -> None:
    results = [result(1.01), result(0.2), result(5000, target=MORE), result(1.0, target=None)]
    document = {"machine": machine.describe(), "measured": "2026-01-01T00:00:00+00:00"}
    picture = ElementTree.fromstring(chart.draw(results, document))
    bars = [each for each in picture.iter() if each.tag.endswith("rect") and len(each)]
    lines = [each.get("class") for each in picture.iter() if each.tag.endswith("line")]
    assert len(bars) == 3
    assert lines.count("must-mark") == lines.count("aim-mark") == 3 + 1  # one of each in the legend


def test_rates_of_a_part_of_the_connects() -> None:
    course = [(10.0, 0), (11.0, 100), (12.0, 150), (16.0, 200)]
    assert capacity.rate_between(course, 0, 100) == 100
    assert capacity.rate_between(course, 0, 50) == 100
    assert capacity.rate_between(course, 175, 200) == 12.5
    assert capacity.rate_between(course, 0, 200) == pytest.approx(200 / 6)


def test_the_connections_of_a_machine_follow_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(capacity.VARIABLE, raising=False)
    assert capacity.connections_for(20 << 30) == 300_000
    monkeypatch.setenv(capacity.VARIABLE, "1000")
    assert capacity.connections_for(20 << 30) == 1000


def test_unknown_rows_are_named() -> None:
    outcome = CliRunner().invoke(main, ["--rows", "wide,broad"])
    assert outcome.exit_code == 2
    assert "broad is not a row" in outcome.output


def test_the_json_describes_machine_versions_and_rows(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    outcome = CliRunner().invoke(main, ["--rows", "pattern", "--quick", "--rounds", "1", "--json", str(path)])
    assert outcome.exit_code in (0, 1), outcome.output
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["machine"]["cpu"]
    assert document["machine"]["packages"]["hiredis"]
    assert document["rows"][0]["row"] == "pattern"
    assert document["rows"][0]["value"] > 1
