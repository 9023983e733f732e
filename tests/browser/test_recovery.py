"""A page that loses its network and comes back shows every message once, in order."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from tests.browser.cutting_proxy import cutting_proxy
from tests.browser.test_page import files_served
from tests.support.chromium import PATIENCE, chromium, opened, publish
from tests.support.processes import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

AWAY = 10.0  # seconds
PATTERN = {"kind": "chat", "room": 7}
RULES = '[[history]]\npattern = { kind = "chat" }\nsize = 100\nttl = "5m"\n'
PAGE = """<!doctype html><title>chat</title><p id="shown"></p><p id="told"></p>"""
SUBSCRIBE = """async ([base, options, pattern, history]) => {
    const { WSClient } = await import(`http://${base}/realizehit.js`);
    if (options.sse !== false) options.WebSocket = undefined;
    const client = new WSClient(`ws://${base}/ws`, options);
    const [shown, told] = ["shown", "told"].map((id) => document.getElementById(id));
    const subscription = client.subscribe(pattern, (n) => shown.append(`${n} `), history);
    subscription.on("gap", () => told.append("gap ")).on("recovered", () => told.append("recovered "));
    client.on("disconnect", () => told.append("lost "));
    await subscription.subscribe();
    return client.transport;
}"""


def numbers(last: int) -> str:
    return " ".join(map(str, range(1, last + 1)))


@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_a_page_that_was_offline_shows_every_message_once(tmp_path: Path, transport: str) -> None:
    (tmp_path / "history.toml").write_text(RULES, encoding="utf-8")
    (tmp_path / "page.html").write_text(PAGE, encoding="utf-8")
    words = ["--history", str(tmp_path / "history.toml"), "--drain-seconds", "0.1"]
    with (
        files_served(tmp_path) as site,
        serving(*words, "--allow-origin", site) as server,
        cutting_proxy(urlsplit(server.api).port or 0) as proxy,
        chromium() as browser,
        opened(browser, f"{site}/page.html") as watched,
    ):
        page, api = watched.page, server.api
        shown, told = page.locator("#shown"), page.locator("#told")
        publish(api, (PATTERN, 1), (PATTERN, 2), (PATTERN, 3))
        options = {"sse": False} if transport == "websocket" else {}
        base = f"127.0.0.1:{proxy.port}"
        assert page.evaluate(SUBSCRIBE, [base, options, PATTERN, {"last": 3}]) == transport
        publish(api, (PATTERN, 4), (PATTERN, 5))
        expect(shown).to_have_text(numbers(5), timeout=PATIENCE)

        page.context.set_offline(True)
        proxy.cut()
        began = time.monotonic()
        last = 5
        while time.monotonic() < began + AWAY:
            last += 1
            publish(api, (PATTERN, last))
            page.wait_for_timeout(250)
        expect(shown).to_have_text(numbers(5))
        expect(told).to_have_text("lost")
        proxy.restore()
        page.context.set_offline(False)
        for _ in range(5):  # while the client comes back
            last += 1
            publish(api, (PATTERN, last))
        expect(shown).to_have_text(numbers(last), timeout=PATIENCE)
        publish(api, (PATTERN, last + 1))
        expect(shown).to_have_text(numbers(last + 1), timeout=PATIENCE)
        expect(told).to_have_text("lost recovered")
