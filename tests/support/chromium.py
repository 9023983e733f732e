"""The installed Chromium, with pages that record errors and foreign requests."""

from __future__ import annotations

import os
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import urlsplit

import orjson
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

PATIENCE = 20_000  # ms; more than anything takes
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

_QUIET = [
    "--no-sandbox",  # root has no sandbox, and all pages are our own
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with a new profile."""
    assert CHROMIUM is not None, "there is no chromium; install Debian's package or set CHROMIUM"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET, headless=True)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page, with its console output, errors and requests."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def _note(self, message: ConsoleMessage) -> None:
        # A browser requests an icon for each page, and reports an error if there is none.
        if message.type == "error" and urlsplit(message.location["url"]).path != "/favicon.ico":
            self.errors.append(message.text)


@contextmanager
def opened(
    browser: Browser, url: str, *, width: int = 1280, height: int = 900, theme: Literal["dark", "light"] = "light"
) -> Iterator[Watched]:
    """Open a page in a fresh profile."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme, locale="en-GB")
    try:
        watched = Watched(context.new_page())
        watched.page.goto(url)
        yield watched
    finally:
        context.close()


def publish(api: str, *messages: tuple[dict[str, Any], Any]) -> Any:
    """Publish over HTTP; return the answer."""
    items = [{"pattern": pattern, "payload": payload} for pattern, payload in messages]
    request = urllib.request.Request(
        f"{api}batch", orjson.dumps({"messages": items}), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        return orjson.loads(response.read())
