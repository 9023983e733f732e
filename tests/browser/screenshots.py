"""``python -m tests.browser.screenshots``: the pictures of the console and of ``realizehit top`` in docs/.

Three servers with two workers each serve the ticker, each on a host of its own; one of them dies. Needs root, for the
names of the hosts.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, Popen
from tempfile import NamedTemporaryFile, TemporaryDirectory

import websockets.sync.client
from playwright.sync_api import Browser
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from realizehit.cli.top import table_of
from tests.support.chromium import chromium, opened
from tests.support.processes import Server, serving
from tests.support.valkey import Valkey

ROOT = Path(__file__).parents[2]
SECONDS = 62  # until the charts are full
ANNOUNCED = 12  # seconds until all processes know of each other
WIDTH, HEIGHT = 1440, 1740  # of the page
COLUMNS = 126  # of the terminal
CLIENTS = 40
RULES = '[[history]]\npattern = { kind = "stock" }\nsize = 100\nttl = "5m"\n'


def main() -> None:
    with (
        NamedTemporaryFile("w", suffix=".toml") as rules,
        TemporaryDirectory(prefix="rh-") as directory,
        started(Valkey(Path(directory))) as valkey,
        chromium() as browser,
        contextlib.ExitStack() as stack,
    ):
        rules.write(RULES)
        rules.flush()
        words = ("--workers", "2", "--redis", valkey.url, "--history", rules.name, "--drain-seconds", "0.1")
        first, second, third = (
            stack.enter_context(serving(*words, *more, before=named(host)))
            for host, more in (("web-1", ("--console",)), ("web-2", ()), ("web-3", ()))
        )
        for server in (first, second):
            for _ in range(CLIENTS):
                client = stack.enter_context(websockets.sync.client.connect(server.ws, max_queue=None))
                client.send('{"id": "s", "act": "sub", "pat": {"kind": "stock", "symbol": "*"}}')
        time.sleep(ANNOUNCED)
        third.die()
        take(browser, first)


@contextmanager
def started(valkey: Valkey) -> Iterator[Valkey]:
    valkey.start()
    try:
        yield valkey
    finally:
        valkey.kill()


def named(host: str) -> list[str]:
    """The command that has a server run on a host of this name."""
    return ["/usr/bin/unshare", "--uts", "/bin/sh", "-c", f'hostname {host} && exec "$@"', "sh"]


def take_top(server: Server) -> None:
    """Take the picture of ``realizehit top``."""
    with urllib.request.urlopen(f"{server.api}nodes", timeout=20) as answer:
        rows = json.load(answer)["nodes"]
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True)
    console.print(table_of(rows, COLUMNS))
    # A page of the documentation loads nothing from other servers, so it has the reader's own font.
    layout = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    console.save_svg(str(ROOT / "docs" / "top.svg"), title="realizehit top", code_format=layout)


def take(browser: Browser, server: Server) -> None:
    """Take the pictures in both themes."""
    words = ["-m", "examples.ticker", "--speed", "6", "--api", server.api, "--ws", server.ws]
    ticker = Popen([sys.executable, *words], cwd=ROOT, stdin=DEVNULL, stdout=DEVNULL)
    try:
        url = f"{server.api}console"
        with (
            opened(browser, url, width=WIDTH, height=HEIGHT, theme="dark") as dark,
            opened(browser, url, width=WIDTH, height=HEIGHT, theme="light") as light,
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
            take_top(server)
    finally:
        ticker.terminate()
        ticker.wait(20)


if __name__ == "__main__":
    main()
