"""The JavaScript client as nodes give it out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import httpx2
import pytest

import realizehit
from realizehit.server import serve
from realizehit.settings import Settings

SCRIPT = (Path(realizehit.__file__).parent / "static" / "realizehit.js").read_bytes()
VERSIONED = f"realizehit-{realizehit.__version__}.js"
MEMORY = "memory://"


@pytest.mark.parametrize("role", ["all", "ws"])
async def test_nodes_with_websocket_clients_give_it_out(role: Literal["all", "ws"]) -> None:
    async with serve(Settings(port=0, redis=MEMORY, role=role)) as node:
        base = node.ws_url.replace("ws://", "http://").removesuffix("ws")
        async with httpx2.AsyncClient(base_url=base, timeout=20) as client:
            for path in ("realizehit.js", VERSIONED):
                response = await client.get(path)
                assert response.status_code == 200
                assert response.content == SCRIPT
                assert b"export class WSClient" in response.content
                assert response.headers["content-type"] == "text/javascript; charset=utf-8"
                assert response.headers["access-control-allow-origin"] == "*"
                assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "immutable"),
    [
        ("realizehit.js", False),
        ("realizehit.js?v=0.0.0", False),
        (f"realizehit.js?v={realizehit.__version__}", True),
        (VERSIONED, True),
    ],
)
async def test_only_an_address_with_the_version_is_kept(path: str, immutable: bool) -> None:
    async with (
        serve(Settings(port=0, redis=MEMORY)) as node,
        httpx2.AsyncClient(base_url=node.api_url, timeout=20) as client,
    ):
        response = await client.get(path)
        assert response.status_code == 200
        cache = response.headers["cache-control"]
        assert ("immutable" in cache, "no-cache" in cache) == (immutable, not immutable)


async def test_it_is_revalidated() -> None:
    async with (
        serve(Settings(port=0, redis=MEMORY)) as node,
        httpx2.AsyncClient(base_url=node.api_url, timeout=20) as client,
    ):
        etag = (await client.get("realizehit.js")).headers["etag"]
        assert etag.startswith('"')
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            response = await client.get("realizehit.js", headers={"If-None-Match": known})
            assert (response.status_code, response.content) == (304, b"")
            assert response.headers["etag"] == etag
        for unknown in ('"other"', etag.strip('"')):
            response = await client.get("realizehit.js", headers={"If-None-Match": unknown})
            assert response.status_code == 200
        head = await client.head("realizehit.js")
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) == len(SCRIPT)


async def test_other_versions_and_other_nodes_have_none() -> None:
    async with (
        serve(Settings(port=0, redis=MEMORY)) as node,
        httpx2.AsyncClient(base_url=node.api_url, timeout=20) as client,
    ):
        assert (await client.get("realizehit-0.0.0.js")).status_code == 404
    async with (
        serve(Settings(port=0, redis=MEMORY, role="api")) as node,
        httpx2.AsyncClient(base_url=node.api_url, timeout=20) as client,
    ):
        assert (await client.get("realizehit.js")).status_code == 404
