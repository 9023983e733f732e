"""A page of another origin: what it may do over a WebSocket it may do over events, as the same user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.browser.blocking_proxy import cookie_proxy
from tests.browser.chromium import Watched, chromium, opened
from tests.browser.test_page import files_served
from tests.processes import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SUBSCRIBE = """async ([base, pattern, options]) => {
    const { WSClient } = await import(`http://${base}/realizehit.js`);
    if (options.sse) options = { WebSocket: undefined };
    const client = new WSClient(`ws://${base}/ws`, options);
    const subscription = client.subscribe(pattern);
    try {
        return await new Promise((resolve) => {
            subscription.on("subscribed", () => resolve(client.transport));
            subscription.on("error", ({ code }) => resolve(code));
            client.on("error", ({ code }) => code && resolve(code));
        });
    } finally {
        client.close();
    }
}"""
EVENT_SOURCE = """([base, options]) => new Promise((resolve) => {
    const source = new EventSource(`http://${base}/sse?pat=user=7`, options);
    const tell = (text) => { source.close(); resolve(text); };
    source.addEventListener("subscribed", ({ data }) => tell(JSON.parse(data).errors?.[0].code ?? "subscribed"));
    source.onerror = () => tell(`closed: ${source.readyState === EventSource.CLOSED}`);
})"""
POLLING = """async ([base, pattern]) => {
    const url = `http://${base}/ws/?EIO=4&transport=polling`;
    const ask = async (address, options) => (await fetch(address, { credentials: "include", ...options })).text();
    const { sid } = JSON.parse((await ask(url)).slice(1));
    const body = "4" + JSON.stringify({ id: "a", act: "sub", pat: pattern });
    await ask(`${url}&sid=${sid}`, { method: "POST", body });
    const { ret, code } = JSON.parse((await ask(`${url}&sid=${sid}`)).slice(1));
    return code ?? (ret && "polling");
}"""
PUBLISH = """async ([base]) => {
    const { APIClient } = await import(`http://${base}/realizehit.js`);
    return Number.isInteger((await new APIClient(`http://${base}/`).publish({ kind: "news" }, 1)).nodes);
}"""


@contextmanager
def page_of_another_origin(directory: Path, *, allowed: bool) -> Iterator[tuple[Watched, str]]:
    """Open a page of one origin; say where the server is, which knows users by what a proxy makes of their cookies."""
    (directory / "page.html").write_text("<title>a page</title>", encoding="utf-8")
    with files_served(directory) as address:
        site = address.replace("127.0.0.1", "localhost")
        words = ["--identify", "user=X-User", "--trusted-proxies", "127.0.0.1", "--insecure-publish"]
        words += ["--allow-origin", site if allowed else "http://localhost:1", "--drain-seconds", "0.1"]
        with (
            serving(*words) as server,
            cookie_proxy(urlsplit(server.api).port or 0) as proxy,
            chromium() as browser,
            opened(browser, f"{site}/page.html") as watched,
        ):
            base = f"localhost:{proxy.port}"
            watched.page.context.add_cookies([{"name": "user", "value": "7", "url": f"http://{base}"}])
            yield watched, base


def test_who_it_is_by_cookie_it_is_over_every_transport(tmp_path: Path) -> None:
    with page_of_another_origin(tmp_path, allowed=True) as (watched, base):
        page = watched.page

        def subscribed(user: int, **options: Any) -> Any:
            return page.evaluate(SUBSCRIBE, [base, {"user": user}, options])

        assert subscribed(7) == "websocket"
        assert subscribed(7, sse=True) == "sse"
        assert subscribed(8) == subscribed(8, sse=True) == "forbidden"
        assert page.evaluate(POLLING, [base, {"user": 7}]) == "polling"
        assert page.evaluate(POLLING, [base, {"user": 8}]) == "forbidden"
        assert page.evaluate(PUBLISH, [base])
        assert page.evaluate(EVENT_SOURCE, [base, {"withCredentials": True}]) == "subscribed"
        assert page.evaluate(EVENT_SOURCE, [base, {}]) == "closed: true"  # nobody may not have this pattern


def test_a_page_that_may_not_use_the_server_learns_why_and_gets_nothing(tmp_path: Path) -> None:
    with page_of_another_origin(tmp_path, allowed=False) as (watched, base):
        page = watched.page
        for options in ({}, {"sse": True}):
            assert page.evaluate(SUBSCRIBE, [base, {"kind": "news"}, options]) == "forbidden"
        for options in ({}, {"withCredentials": True}):
            assert page.evaluate(EVENT_SOURCE, [base, options]) == "closed: true"
