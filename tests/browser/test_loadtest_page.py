"""The load test's page in a real browser, on a desk and on a telephone."""

from __future__ import annotations

from pathlib import Path

import pytest

from realizehit.loadtest.histogram import Histogram
from realizehit.loadtest.html_report import render
from tests.support.chromium import chromium, opened
from tests.unit.test_loadtest_report import report

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

# The heights of the charts' texts on the screen, and pairs of texts in one line of one chart that lie upon each other.
TEXTS = """() => {
    const heights = [], upon = [];
    const charts = [...document.querySelectorAll("svg")].filter((chart) => chart.checkVisibility());
    for (const chart of charts) {
        const shown = [...chart.querySelectorAll("text")].filter((it) => it.checkVisibility());
        const texts = shown.map((it) => [it.textContent, it.getBoundingClientRect()]);
        const { left, right } = chart.getBoundingClientRect();
        texts.forEach(([text, box], at) => {
            heights.push(box.height);
            if (box.left < left || box.right > right) upon.push([text, "the edge"]);
            for (const [other, its] of texts.slice(at + 1)) {
                const beside = box.right <= its.left || its.right <= box.left;
                if (!beside && box.bottom > its.top && its.bottom > box.top) upon.push([text, other]);
            }
        });
    }
    return [charts.length, Math.min(...heights), upon];
}"""


@pytest.mark.parametrize("width", [360, 520, 521, 1280])
def test_it_can_be_read_on_every_screen(tmp_path: Path, width: int) -> None:
    made = report(
        latencies=Histogram([(1000, 99_000_000), (1500, 900_000), (1800, 100_000)]),
        warnings=["a word that has no place to break: " + "x" * 300],
    )
    (tmp_path / "page.html").write_text(render(made), encoding="utf-8")
    with chromium() as browser, opened(browser, (tmp_path / "page.html").as_uri(), width=width) as watched:
        page = watched.page
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        charts, smallest, upon = page.evaluate(TEXTS)
        assert charts == 5
        assert smallest >= 9
        assert upon == []
        assert watched.errors == []
