"""A page of another origin: what it may do over a WebSocket it may do over events, as the same user."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
from playwright.sync_api import Error

from tests.browser.blocking_proxy import cookie_proxy
from tests.browser.test_page import files_served
from tests.support.chromium import Watched, chromium, opened
from tests.support.processes import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SUBSCRIBE = """async ([base, pattern, options]) => {
    const { WSClient } = await import(`http://${base}/realizehit.js`);
    if (options.sse) options = { ...options, sse: undefined, WebSocket: undefined };
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
    const opened = await ask(url);
    if (opened.startsWith("{")) return JSON.parse(opened).message.replace(/.*\\((.*)\\)$/, "$1");
    const { sid } = JSON.parse(opened.slice(1));
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
def page_of_another_origin(directory: Path, *, allowed: bool | str) -> Iterator[tuple[Watched, str]]:
    """Open a page of one origin; say where the server is, which knows users by what a proxy makes of their cookies.

    Args:
        directory: where the page is to stand.
        allowed: whether the page may use the server; or the origins that may.
    """
    (directory / "page.html").write_text("<title>a page</title>", encoding="utf-8")
    with files_served(directory) as address:
        site = address.replace("127.0.0.1", "localhost")
        words = ["--identify", "user=X-User", "--trusted-proxies", "127.0.0.1", "--insecure-publish"]
        origin = allowed if isinstance(allowed, str) else site if allowed else "http://localhost:1"
        words += ["--allow-origin", origin, "--drain-seconds", "0.1"]
        with (
            serving(*words) as server,
            cookie_proxy(urlsplit(server.api).port or 0) as proxy,
            chromium() as browser,
            opened(browser, f"{site}/page.html") as watched,
        ):
            base = f"localhost:{proxy.port}"
            watched.page.context.add_cookies([{"name": "user", "value": "7", "url": f"http://{base}"}])
            yield watched, base


@pytest.mark.parametrize("allowed", [True, "*"], ids=["by-name", "any"])
def test_cookies_identify_the_client_over_every_transport(tmp_path: Path, allowed: bool | str) -> None:
    with page_of_another_origin(tmp_path, allowed=allowed) as (watched, base):
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


def test_a_page_that_is_not_allowed_gets_the_reason_and_no_payload(tmp_path: Path) -> None:
    with page_of_another_origin(tmp_path, allowed=False) as (watched, base):
        page = watched.page
        for options in ({}, {"sse": True}):
            assert page.evaluate(SUBSCRIBE, [base, {"kind": "news"}, options]) == "forbidden"
        for options in ({}, {"withCredentials": True}):
            assert page.evaluate(EVENT_SOURCE, [base, options]) == "closed: true"
        with pytest.raises(Error, match="Failed to fetch"):  # cookies go along, so that the answer is not for this page
            page.evaluate(POLLING, [base, {"kind": "news"}])
        why = page.evaluate(POLLING.replace('"include"', '"omit"'), [base, {"kind": "news"}])
        assert why == "forbidden"
        with pytest.raises(Error, match="Failed to fetch"):
            page.evaluate(PUBLISH, [base])


@pytest.mark.parametrize("allowed", [True, "null", "*"], ids=["by-name", "null", "any"])
def test_a_page_without_an_origin_is_allowed_only_as_null_or_any(tmp_path: Path, allowed: bool | str) -> None:
    """A sandboxed frame has the origin ``null``, which every page can give itself."""
    with page_of_another_origin(tmp_path, allowed=allowed) as (watched, base):
        watched.page.set_content('<iframe sandbox="allow-scripts" srcdoc="<p>a frame</p>"></iframe>')
        frame = watched.page.frames[1]
        assert frame.evaluate("origin") == "null"
        answers = [frame.evaluate(SUBSCRIBE, [base, {"kind": "news"}, options]) for options in ({}, {"sse": True})]
        if isinstance(allowed, str):
            assert answers == ["websocket", "sse"]
            assert frame.evaluate(PUBLISH, [base])
        else:
            assert answers == ["forbidden", "forbidden"]
            with pytest.raises(Error, match="Failed to fetch"):
                frame.evaluate(PUBLISH, [base])


@pytest.mark.parametrize("origin", ["https://app.example/path", "*.example", "https://*", "about:blank"])
def test_values_that_are_not_origins_are_refused(origin: str) -> None:
    with pytest.raises(AssertionError, match="is not an origin"), serving("--allow-origin", origin):
        pass


def test_a_token_is_sent_to_another_origin_over_both_transports(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<title>a page</title>", encoding="utf-8")
    secret = "s" * 40
    token = jwt.encode({"sub": "7", "exp": time.time() + 600}, secret, "HS256")
    with files_served(tmp_path) as address:
        site = address.replace("127.0.0.1", "localhost")
        words = [
            "--jwt-algorithm",
            "HS256",
            "--jwt-claim",
            "user=sub",
            "--allow-origin",
            site,
            "--drain-seconds",
            "0.1",
        ]
        with (
            serving(*words, env={"REALIZEHIT_JWT_SECRET": secret}) as server,
            chromium() as browser,
            opened(browser, f"{site}/page.html") as watched,
        ):
            base = urlsplit(server.api).netloc
            for options, transport in (({}, "websocket"), ({"sse": True}, "sse")):
                asked = [base, {"user": 7}, {**options, "token": token}]
                assert watched.page.evaluate(SUBSCRIBE, asked) == transport
                assert watched.page.evaluate(SUBSCRIBE, [base, {"user": 7}, options]) == "forbidden"
            assert not any(token in url for url in watched.requests)
