"""The JavaScript client as nodes give it out."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Literal

import httpx2
import pytest

import realizehit
from realizehit.http.assets import accepts_gzip
from realizehit.process.server import serve
from realizehit.settings import Settings

SCRIPT = (Path(realizehit.__file__).parent / "static" / "realizehit.js").read_bytes()
CLIENT = Path(__file__).resolve().parents[2] / "clients" / "js"
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
                assert response.headers["vary"] == "Accept-Encoding"
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
        assert head.headers["etag"] == etag


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


@pytest.mark.parametrize(
    ("accepted", "gzipped"),
    [
        ("", False),
        ("gzip", True),
        ("GZip", True),
        ("x-gzip", True),
        ("gzip, deflate, br, zstd", True),
        ("deflate,gzip;q=0.5", True),
        ("*", True),
        ("*;q=0.1", True),
        ("br", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000, *", False),
        ("*;q=0", False),
        ("gzip;q=0.5, identity;q=0.6", False),
        ("gzip, identity", True),
        ("identity;q=0, gzip;q=0.001", True),
        ("gzip;q=many", False),
        ("gzip;q=2", False),
        ("gzip;q=-1", False),
        ("gzip;q=nan", False),
        ("gzipped", False),
        (";;,,=", False),
    ],
)
def test_which_requests_accept_gzip(accepted: str, gzipped: bool) -> None:
    assert accepts_gzip(accepted) is gzipped


async def test_each_coding_has_its_own_tag_and_length() -> None:
    async with (
        serve(Settings(port=0, redis=MEMORY)) as node,
        httpx2.AsyncClient(base_url=node.api_url, timeout=20) as client,
    ):
        tags: dict[str, str] = {}
        for coding, most in (("gzip", 6000), ("identity", len(SCRIPT))):
            for method in ("GET", "HEAD"):
                asked = {"Accept-Encoding": coding}
                async with client.stream(method, "realizehit.js", headers=asked) as response:
                    body = b"".join([piece async for piece in response.aiter_raw()])
                assert response.headers.get("content-encoding", "identity") == coding
                assert response.headers["vary"] == "Accept-Encoding"
                length = int(response.headers["content-length"])
                assert length <= most
                if method == "GET":
                    assert len(body) == length
                    assert (gzip.decompress(body) if coding == "gzip" else body) == SCRIPT
                else:
                    assert body == b""
                tags.setdefault(coding, response.headers["etag"])
                assert response.headers["etag"] == tags[coding]
        assert tags["gzip"] != tags["identity"]
        for coding, other in (("gzip", "identity"), ("identity", "gzip")):
            for tag, status in ((tags[coding], 304), (tags[other], 200)):
                asked = {"Accept-Encoding": coding, "If-None-Match": tag}
                response = await client.get("realizehit.js", headers=asked)
                assert response.status_code == status
                assert response.headers["etag"] == tags[coding]
                assert response.headers["vary"] == "Accept-Encoding"
                assert ("content-encoding" in response.headers) == (coding == "gzip" and status == 200)


def test_it_is_minified() -> None:
    source = (CLIENT / "realizehit.js").read_bytes()
    assert len(SCRIPT) < len(source) / 2
    assert len(gzip.compress(SCRIPT)) < len(gzip.compress(source)) / 2


def test_built_files_belong_to_their_sources() -> None:
    sources = CLIENT / "src"
    for name, folder, paths in (
        ("realizehit", "src/", sources.glob("*.js")),
        ("api", "src/api/", [*(sources / "api").glob("*.js"), sources / "json.js", sources / "pattern_key.js"]),
    ):
        modules = sorted(path.read_text(encoding="utf-8") for path in paths)
        digest = hashlib.sha256("".join(modules).encode()).hexdigest()[:16]
        first = (CLIENT / f"{name}.js").read_text(encoding="utf-8").partition("\n")[0]
        banner = f"/*! realizehit {realizehit.__version__}, MIT; joined of {folder}, {digest} */"
        assert first == banner, f"{name}.js is older than {folder}: run `npm run build` in clients/js"
    for name, made in {
        "realizehit": ("lib/realizehit.min.js", "lib/esm/realizehit.js", "lib/cjs/realizehit.js", "realizehit.d.ts"),
        "api": ("lib/cjs/api.js", "api.d.ts"),
        "pattern": ("lib/cjs/pattern.js", "pattern.d.ts"),
    }.items():
        digest = hashlib.sha256((CLIENT / f"{name}.js").read_bytes()).hexdigest()[:16]
        banner = f"/*! realizehit {realizehit.__version__}, MIT; made of {name}.js, {digest} */"
        for file in made:
            first = (CLIENT / file).read_text(encoding="utf-8").partition("\n")[0]
            assert first == banner, f"{file} is older than {name}.js: run `npm run build` in clients/js"


def test_it_is_a_module_that_evaluates(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    (tmp_path / "client.mjs").write_bytes(SCRIPT)
    program = "console.log(JSON.stringify(Object.entries(await import('./client.mjs')).map(([k, v]) => [k, typeof v])))"
    words = [node, "--input-type=module", "-e", program]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    names = ["APIClient", "RealizehitError", "Subscription", "WSClient"]
    assert json.loads(done.stdout) == [[name, "function"] for name in names]
