"""Which web pages may ask the API and read its answers: the gate and the headers for browsers agree."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.support.valkey import Valkey

FIGURES = ("metrics", "readyz")
MESSAGE = {"pattern": {"a": 1}, "payload": 1}
PAGE = "https://app.example"
PAGES = [
    # allowed, Origin, whether it may publish, whether it is named
    ((), "http://{own}", True, True),
    ((), PAGE, False, False),
    ((), "null", False, False),
    ((PAGE,), PAGE, True, True),
    ((PAGE,), "HTTPS://APP.example:443", True, True),
    ((PAGE,), "https://evil.example", False, False),
    ((PAGE,), "https://app.example.evil.example", False, False),
    (("https://*.app.example",), "https://a.app.example", True, True),
    (("https://*.app.example",), PAGE, False, False),
    (("capacitor://localhost",), "capacitor://localhost", True, True),
    (("null",), "null", True, True),
    (("*",), "https://evil.example", True, False),
    (("*",), "null", True, False),
    (("*", PAGE), PAGE, True, True),
]


@asynccontextmanager
async def api(valkey: Valkey, **options: Any) -> AsyncIterator[tuple[Node, httpx2.AsyncClient]]:
    settings = Settings(port=0, redis=valkey.url, **options)
    async with serve(settings) as node, httpx2.AsyncClient(base_url=node.api_url, timeout=15) as http:
        yield node, http


def readers(answer: httpx2.Response) -> list[str]:
    """The origins whose pages may read an answer."""
    assert "access-control-allow-credentials" not in answer.headers
    return answer.headers.get_list("access-control-allow-origin")


@pytest.mark.parametrize(("allowed", "origin", "may", "named"), PAGES)
@pytest.mark.parametrize("access_log", [False, True])  # with it no publication is served without ASGI
async def test_a_page(
    shared_valkey: Valkey, allowed: tuple[str, ...], origin: str, may: bool, named: bool, access_log: bool
) -> None:
    options = {"insecure_publish": True, "console": True, "allow_origin": allowed, "access_log": access_log}
    async with api(shared_valkey, **options) as (node, http):
        origin = origin.format(own=str(http.base_url).removeprefix("http://").rstrip("/"))
        page = {"Origin": origin}
        first = {**page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        for path in ("", "batch", "openapi.json", "nothing"):
            asked = await http.options(path, headers=first)
            assert (asked.status_code, readers(asked)) == ((200, [origin]) if may else (403, []))
        assert "POST" in (await http.options("", headers=first)).headers.get("access-control-allow-methods", "POST")
        for answer, status in (
            (await http.post("", json=MESSAGE, headers=page), 200),
            (await http.post("batch", json={"messages": [MESSAGE]}, headers=page), 200),
            (await http.post("", content=b"{", headers={**page, "Content-Type": "application/json"}), 400),
            (await http.get("openapi.json", headers=page), 200),
        ):
            assert (answer.status_code, readers(answer)) == ((status, [origin]) if may else (403, []))
            assert "Origin" in answer.headers["vary"]
        for path in FIGURES:
            answer = await http.get(path, headers=page)
            assert (answer.status_code, readers(answer)) == ((200, [origin]) if named else (403, []))
            asked = await http.options(path, headers={**page, "Access-Control-Request-Method": "GET"})
            assert (asked.status_code, readers(asked)) == ((200, [origin]) if named else (403, []))
        console = await http.get("console", headers=page)
        assert console.status_code == (200 if origin.startswith("http://127.") else 403)
        assert readers(console) == ([origin] if named else [])
        assert (await http.get("healthz", headers=page)).status_code == 200
        assert (node.guard.gate.refusals.counts["origin"] > 0) is not named


@pytest.mark.parametrize("allowed", [(), ("*",), (PAGE,)])
async def test_plain_requests_of_foreign_pages_get_no_figures(shared_valkey: Valkey, allowed: tuple[str, ...]) -> None:
    async with api(shared_valkey, allow_origin=allowed) as (node, http):
        for path in FIGURES:
            for site in ("cross-site", "same-site"):
                foreign = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
                answer = await http.get(path, headers=foreign)
                assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
                assert "--allow-origin" in answer.json()["detail"]
                followed = await http.get(path, headers={**foreign, "Sec-Fetch-Mode": "navigate"})
                assert followed.status_code == 200
            for headers in ({}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
                assert (await http.get(path, headers=headers)).status_code == 200
        assert node.guard.gate.refusals.counts["origin"] == 4


async def test_monitors_may_use_any_host(shared_valkey: Valkey) -> None:
    async with api(shared_valkey, console=True) as (_, http):
        for path, status in (("metrics", 200), ("readyz", 200), ("console", 403)):
            assert (await http.get(path, headers={"Host": "rt.example"})).status_code == status


async def test_refusals_of_the_console_and_of_preflights_are_logged(
    shared_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with api(shared_valkey, console=True) as (_, http):
        for _ in range(5):
            await http.get("console", headers={"X-Forwarded-For": "192.0.2.1"})
            await http.options("", headers={"Origin": PAGE, "Access-Control-Request-Method": "POST"})
    lines = [record.getMessage() for record in caplog.records if record.name == "realizehit.access.refusals"]
    assert len(lines) == 2
    assert lines[0].startswith("refused: console; peer 127.0.0.1, ")
    assert "the request came through a proxy" in lines[0]
    assert f"--allow-origin {PAGE}" in lines[1]
