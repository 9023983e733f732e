"""No page is wider than a phone: the load test's report, and what finds such pages, which `tox -e docs` uses too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from realizehit.loadtest.html_report import render
from tests.docs.narrow import WIDTH, too_wide
from tests.support.chromium import chromium, opened
from tests.unit.test_loadtest_report import report

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def test_the_report_can_be_read_on_a_phone(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render(replace(report(), warnings=["long-word-" * 30], notes=["/a/path" * 30])), encoding="utf-8")
    with opened(browser, page.as_uri(), width=WIDTH, height=740) as watched:
        assert too_wide(watched.page) == []


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ("<p>short</p><div style='overflow-x: auto'><pre>{}</pre></div>", False),
        ("<pre>{}</pre>", True),
        ("<div style='overflow: hidden'><p style='white-space: nowrap'>{}</p></div>", True),
        ("<table><tr><td>{}</td></tr></table>", True),
    ],
)
def test_a_page_that_is_too_wide_is_found(body: str, faults: bool, browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><meta name=viewport content=width=device-width>{body.format('wide' * 40)}")
    with opened(browser, page.as_uri(), width=WIDTH, height=740) as watched:
        assert bool(too_wide(watched.page)) == faults
