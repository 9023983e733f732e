"""What a real server logs of requests that it refuses, on each of its transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from realizehit.access.keys import generate
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.support.valkey import Valkey

LOGGER = "realizehit.access.refusals"
UPGRADE = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip
NGINX = {"Host": "127.0.0.1:8080", "Origin": "https://rt.example.org", "X-Forwarded-For": "192.0.2.9"}
TOKENS: dict[str, Any] = {"jwt_secret": "s" * 32, "jwt_algorithms": ("HS256",), "jwt_claims": ("user=sub",)}


@asynccontextmanager
async def serving(valkey: Valkey, **options: Any) -> AsyncIterator[Node]:
    async with asyncio.timeout(60), serve(Settings(port=0, redis=valkey.url, **options)) as node:
        yield node


async def ask(node: Node, data: bytes) -> int:
    """Send bytes on a connection of their own, and return the status of the answer."""
    address = urlsplit(node.api_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(data)
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return int(line.split()[1])


async def request(node: Node, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> int:
    lines = [f"{name}: {value}\r\n" for name, value in {"Host": "localhost", **headers}.items()]
    if body:
        lines.append(f"Content-Length: {len(body)}\r\n")
    return await ask(node, f"{method} {target} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("latin-1") + body)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


TYPE = {"Content-Type": "application/json"}
BODY = b'{"pattern": {"a": 1}, "payload": 1}'
POLL = "/ws?EIO=4&transport=polling"


@pytest.mark.parametrize(
    ("options", "asked", "said"),
    [
        ({}, ("GET", "/ws", {**UPGRADE, **NGINX}), ("origin", "--allow-origin https://rt.example.org", "$http_host")),
        ({}, ("GET", POLL, NGINX), ("origin", "--allow-origin https://rt.example.org")),
        ({}, ("GET", POLL + "&sid=x", NGINX), ("origin", "--allow-origin https://rt.example.org")),
        ({}, ("GET", "/sse?pat=a=1", NGINX), ("origin", "Host '127.0.0.1:8080'")),
        ({}, ("POST", "/", {**TYPE, **NGINX}, BODY), ("origin", "Origin 'https://rt.example.org'")),
        ({}, ("POST", "/batch", {**TYPE, **NGINX}, BODY), ("origin", "peer 127.0.0.1")),
        ({}, ("GET", "/sse?pat=a=1", {"Sec-Fetch-Site": "cross-site"}), ("origin", "--allow-origin '*'")),
        ({}, ("GET", "/ws", {**UPGRADE, "Host": "rt.example.org"}), ("host", "--endpoint wss://rt.example.org")),
        ({}, ("POST", "/", {**TYPE, "X-Forwarded-For": "192.0.2.9"}, BODY), ("protected", "--keys")),
        ({}, ("POST", "/", TYPE, b"{"), ("invalid", "bad-json")),
        ({}, ("POST", "/batch", {"Content-Type": "text/plain"}, b"x"), ("invalid", "unsupported-media-type")),
        ({"keys": "{keys}"}, ("POST", "/", TYPE, BODY), ("bad_key", "--keys")),
        (
            {"keys": "{keys}"},
            ("POST", "/", {**TYPE, "Authorization": "Bearer {key}"}, BODY),
            ("key_not_granted", "newsdesk", "a:1"),
        ),
        (TOKENS, ("GET", "/ws?token=hunter2", UPGRADE), ("bad_token", "--jwt-algorithm")),
        (TOKENS, ("GET", "/sse?pat=a=1&token=hunter2", {}), ("bad_token", "the token is malformed")),
        ({}, ("GET", "/ws", {"Sec-WebSocket-Key": "x"}), ("bad_handshake", "without an upgrade", "$http_upgrade")),
        ({}, ("GET", "/app/ws", UPGRADE), ("bad_handshake", "'/app/ws'", "clients connect to /ws")),
        ({}, ("GET", "/ws", {**UPGRADE, "Sec-WebSocket-Version": "8"}), ("bad_handshake", "RFC 6455")),
        ({"max_head_bytes": 1024}, ("GET", "/ws", {**UPGRADE, "X": "x" * 2000}), ("head_too_large", "peer 127.0.0.1")),
        ({"max_payload_bytes": 1}, ("POST", "/", TYPE, BODY[:-2] + b"1" * 9 + b"}"), ("payload_too_large", "peer")),
    ],
)
async def test_a_refusal_is_one_line_with_cause_and_advice(
    shared_valkey: Valkey,
    options: dict[str, Any],
    asked: tuple[Any, ...],
    said: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    key, table = generate("newsdesk")
    tmp_path.joinpath("keys").write_text(table + 'grants = [{ kind = "news" }]\n')
    options = {
        name: value.format(keys=tmp_path / "keys") if isinstance(value, str) else value
        for name, value in options.items()
    }
    method, target, headers, *body = asked
    headers = {name: value.format(key=key) for name, value in headers.items()}
    async with serving(shared_valkey, **options) as node:
        for _ in range(20):
            assert await request(node, method, target, headers, *body) >= 400
        (line,) = lines(caplog)
    assert line.startswith(f"refused: {said[0]}; ")
    for part in said[1:]:
        assert part in line
    assert "hunter2" not in caplog.text
    assert key not in caplog.text


@pytest.mark.parametrize(
    "data",
    [b"x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET / HTTP/1.1\r\nBad Name: x\r\nUpgrade: websocket\r\n\r\n"],
)
async def test_malformed_http_is_one_line_with_the_address(
    shared_valkey: Valkey, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(shared_valkey) as node:
        for _ in range(50):
            assert await ask(node, data) == 400
        (line,) = lines(caplog)
        assert line.startswith("refused: malformed; peer 127.0.0.1; ")
        assert node.guard.gate.refusals.counts["malformed"] == 50
    assert "Invalid HTTP request" not in caplog.text
