"""The smallest page there is, in a real browser, with an embedded broker and the ticker as its publisher."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from tests.support.chromium import PATIENCE, chromium, opened
from tests.support.processes import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "examples" / "ticker" / "page.html"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def files_served(directory: Path) -> Iterator[str]:
    """Serve files as ``python -m http.server`` does."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(directory))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(20)


def test_the_page_of_the_readme_shows_the_ticker(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(text.splitlines()) == 5
    with files_served(tmp_path) as site, serving("--allow-origin", site, "--drain-seconds", "0.1") as server:
        (tmp_path / "page.html").write_text(
            text.replace("127.0.0.1:8080", urlsplit(server.api).netloc), encoding="utf-8"
        )
        words = ["-m", "examples.ticker", "--api", server.api, "--ws", server.ws]
        ticker = Popen([sys.executable, *words], cwd=ROOT, stdin=DEVNULL, stdout=DEVNULL)
        try:
            with chromium() as browser, opened(browser, f"{site}/page.html") as watched:
                prices = watched.page.locator("#prices")
                line = r"\d{4}-\d\d-01 \d+(\.\d+)?\s"
                expect(prices).to_have_text(re.compile(f"^({line}){{5}}"), timeout=PATIENCE)
                assert watched.errors == []
        finally:
            ticker.terminate()
            ticker.wait(20)
