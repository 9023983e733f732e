"""What a browser gets that opens a server's address, and what everybody else gets there."""

from __future__ import annotations

import re
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from realizehit.broker.open import open_bus
from realizehit.http.api import create_app
from realizehit.process.server import serve
from realizehit.settings import Settings

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def at(app: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://here")


async def test_a_browser_gets_a_page_whose_links_lead_somewhere() -> None:
    settings = Settings(port=0, redis="memory://", console=True)
    async with serve(settings) as node, httpx2.AsyncClient(base_url=node.api_url, headers=BROWSER) as client:
        page = await client.get("/")
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["vary"] == "Accept"
        assert page.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "<script" not in page.text
        links = re.findall(r'href="([^"]+)"', page.text)
        assert {"console", "openapi.json", "metrics"} <= {*links}
        for link in links:
            assert (await client.get(f"/{link}", headers={"Sec-Fetch-Mode": "navigate"})).status_code == 200, link
        assert (await client.head("/")).status_code == 200


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html;q=0, */*", "text/*", ""])
async def test_programs_are_answered_as_on_any_other_path(accept: str) -> None:
    async with at(create_app(open_bus("memory://"))) as client:
        answer = await client.get("/", headers={"Accept": accept})
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == "this path takes POST; GET /openapi.json lists what there is"


@pytest.mark.parametrize(
    ("settings", "there", "absent"),
    [
        ({}, ["--console", "POST /<", "/ws"], ['href="console"']),
        ({"role": "ws"}, ["/ws"], ["POST"]),
        ({"role": "api", "console": True, "prefix": "/rt/"}, ["POST /rt/<"], ["/ws", "onsole"]),
    ],
)
async def test_the_page_names_what_this_server_has(settings: Any, there: list[str], absent: list[str]) -> None:
    app = create_app(open_bus("memory://"), Settings(**settings), publish=settings.get("role") != "ws")
    async with at(app) as client:
        page = await client.get("/", headers=BROWSER)
    assert page.status_code == 200
    assert all(part in page.text for part in there), page.text
    assert not any(part in page.text for part in absent), page.text


async def test_other_methods_paths_and_mounts() -> None:
    app = create_app(open_bus("memory://"))
    async with at(app) as client:
        assert (await client.put("/", headers=BROWSER)).status_code == 405
        assert (await client.get("/nothing", headers=BROWSER)).status_code == 404
        assert (await client.get("/batch", headers=BROWSER)).status_code == 405
    async with at(Starlette(routes=[Mount("/realtime", app)])) as client:
        assert (await client.get("/realtime/", headers=BROWSER)).text.startswith("<!doctype html>")
        assert (await client.get("/realtime/x", headers=BROWSER)).status_code == 404
