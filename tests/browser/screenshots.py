"""``python -m tests.browser.screenshots``: the pictures of the console in docs/, with the ticker as publisher."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import DEVNULL, Popen
from tempfile import NamedTemporaryFile

from playwright.sync_api import Browser

from tests.support.chromium import chromium, opened
from tests.support.processes import Server, serving

ROOT = Path(__file__).parents[2]
SECONDS = 62  # until the charts are full
HEIGHT = 1500  # of the page
RULES = '[[history]]\npattern = { kind = "stock" }\nsize = 100\nttl = "5m"\n'


def main() -> None:
    with NamedTemporaryFile("w", suffix=".toml") as rules, chromium() as browser:
        rules.write(RULES)
        rules.flush()
        with serving("--console", "--history", rules.name) as server:
            take(browser, server)


def take(browser: Browser, server: Server) -> None:
    """Take the pictures in both themes."""
    words = ["-m", "examples.ticker", "--speed", "6", "--api", server.api, "--ws", server.ws]
    ticker = Popen([sys.executable, *words], cwd=ROOT, stdin=DEVNULL, stdout=DEVNULL)
    try:
        url = f"{server.api}console"
        with (
            opened(browser, url, height=HEIGHT, theme="dark") as dark,
            opened(browser, url, height=HEIGHT, theme="light") as light,
        ):
            for watched in (dark, light):
                page = watched.page
                page.get_by_text("Text", exact=True).click()
                for symbol in ("AAPL", "MSFT", "IBM"):
                    page.locator("#pattern-text").fill(f"kind=stock,symbol={symbol}")
                    page.get_by_role("button", name="Subscribe", exact=True).click()
                page.locator("#publish-pattern").fill("kind=stock,symbol=AAPL")
                page.locator("#payload").fill('{"symbol": "AAPL", "date": "2010-03-01", "price": 223.02}')
            dark.page.wait_for_timeout(SECONDS * 1000)
            for watched, theme in ((dark, "dark"), (light, "light")):
                watched.page.get_by_role("button", name="Publish").click()
                watched.page.locator("#answer").filter(has_text="reached").wait_for()
                watched.page.evaluate("document.activeElement.blur()")
                watched.page.wait_for_timeout(400)
                watched.page.screenshot(path=ROOT / "docs" / f"console-{theme}.png")
    finally:
        ticker.terminate()
        ticker.wait(20)


if __name__ == "__main__":
    main()
