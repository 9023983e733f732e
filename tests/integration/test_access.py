"""Who may do what, on a real server: identities, tokens, grants, keys, origins and limits."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import jwt
import orjson
import pytest
import trustme
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from realizehit.access.keys import generate
from realizehit.client.api import APIClient
from realizehit.client.ws import WSClient
from realizehit.errors import Rejected, SettingsError
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.support.valkey import Valkey
from tests.support.wire import act, client, unique

SECRET = "s" * 32
SECONDS = 15
OWN = {"identify": ("user=X-User",), "trusted_proxies": ("127.0.0.1",)}
TOKENS: dict[str, Any] = {
    "jwt_secret": SECRET, "jwt_algorithms": ("HS256",), "jwt_claims": ("user=sub",), "jwt_leeway": 0.0,
}  # fmt: skip


@asynccontextmanager
async def serving(valkey: Valkey, **options: Any) -> AsyncIterator[Node]:
    async with serve(Settings(port=0, redis=valkey.url, **options)) as node:
        yield node


def token(user: str, seconds: float = 600) -> str:
    return jwt.encode({"sub": user, "exp": int(time.time() + seconds)}, SECRET)


async def code(ws: ClientConnection, pattern: Any, what: str = "sub") -> str:
    """What a subscription is answered: its error's code, or ``ok``."""
    answer = await act(ws, what, pattern)
    return answer.get("code", "ok") if "err" in answer else "ok"


async def status(url: str, **options: Any) -> tuple[int, str]:
    """How a handshake is answered that is refused."""
    with pytest.raises(InvalidStatus) as refused:
        async with client(url, **options):
            pass
    response = refused.value.response
    return response.status_code, (response.body or b"").decode()


async def event(ws: ClientConnection) -> Any:
    async with asyncio.timeout(SECONDS):
        return orjson.loads(await ws.recv())


def metric(node: Node, reason: str) -> int:
    return node.guard.gate.refusals.counts[reason]


async def test_identity_from_a_trusted_proxy(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, **OWN) as node:
        headers = {"X-User": "42"}
        async with client(node.ws_url, additional_headers=headers) as ws, client(node.ws_url) as other:
            assert await code(ws, {"user": 42, **unique("own")}) == "ok"
            assert await code(ws, {"user": "43"}) == "forbidden"
            assert await code(ws, unique("anything")) == "ok"
            assert await code(other, {"user": "42"}) == "forbidden"
            assert await code(other, unique("anything")) == "ok"
        assert metric(node, "not_granted") == 2
        for wrong in ([("X-User", "1"), ("X-User", "2")], [("X-User", "")], [("X-User", "v" * 300)]):
            answered, text = await status(node.ws_url, additional_headers=wrong)
            assert answered == 400, wrong
            assert "bad-request" in text
        assert metric(node, "bad_identity") == 3


async def test_identity_headers_of_other_peers_are_ignored_and_counted(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, identify=("user=X-User",), trusted_proxies=("10.0.0.0/8", "unix")) as node:
        async with client(node.ws_url, additional_headers=[("X-User", "42"), ("X-User", "43")]) as ws:
            assert await code(ws, {"user": "42"}) == "forbidden"
            assert await code(ws, {"user": "43"}) == "forbidden"
        assert node.guard.gate.clients.ignored_headers == 1
        async with httpx2.AsyncClient() as http:
            shown = (await http.get(node.api_url + "metrics")).text
        assert "realizehit_ignored_identity_headers_total 1.0" in shown
        assert 'realizehit_refusals_total{reason="not_granted"} 2.0' in shown


async def test_a_reset_connection_is_not_local(shared_valkey: Valkey) -> None:
    """A connection that was reset has no peer name any more, but what it had sent can still be read."""
    pattern = unique("forged")
    async with serving(shared_valkey) as node, client(node.ws_url) as ws:
        await act(ws, "sub", pattern)
        address = urlsplit(node.api_url)
        body = orjson.dumps({"pattern": pattern, "payload": "forged"})
        head = f"POST / HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        for _ in range(10):
            # In one turn of the loop that the server, too, runs in: it finds the connection sent, and reset.
            with socket.create_connection((address.hostname, address.port)) as sock:
                sock.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        async with asyncio.timeout(SECONDS):
            while metric(node, "protected") < 10:
                await asyncio.sleep(0.005)
        async with APIClient(node.api_url) as api:
            await api.publish(pattern, "mine")
        async with asyncio.timeout(SECONDS):
            assert str(await ws.recv()).endswith('?"mine"')


async def test_connections_share_an_identity_and_leave_nothing_behind(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, **OWN) as node:
        gate = node.guard.gate
        async with (
            client(node.ws_url, additional_headers={"X-User": "42"}) as one,
            client(node.ws_url, additional_headers={"X-User": "42"}) as two,
            client(node.ws_url) as nobody,
        ):
            for ws in (one, two, nobody):
                await act(ws, "ping")
            identities = list(gate.connected._identities.values())
            assert len(identities) == 2
            assert identities[0] is identities[1]
        async with asyncio.timeout(SECONDS):
            while node.engine.stats()["connections"]:
                await asyncio.sleep(0.01)
        assert not gate.connected._identities


@pytest.mark.parametrize("way", ["header", "query", "action"])
async def test_identity_from_a_token(shared_valkey: Valkey, way: str) -> None:
    async with serving(shared_valkey, **TOKENS) as node:
        mine = {"user": "42", **unique("token")}
        url = node.ws_url + (f"?x=1&token={token('42')}" if way == "query" else "")
        headers = {"Authorization": f"Bearer {token('42')}"} if way == "header" else {}
        async with client(url, additional_headers=headers) as ws:
            if way == "action":
                assert await code(ws, mine) == "forbidden"
                await ws.send(orjson.dumps({"id": "t", "act": "auth", "token": token("42")}).decode())
                assert await event(ws) == {"id": "t", "ret": "ok"}
            assert await code(ws, mine) == "ok"
            assert await code(ws, {"user": "43"}) == "forbidden"


async def test_invalid_tokens(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, **TOKENS) as node:
        expired = token("42", -10)
        answered, text = await status(node.ws_url + "?token=" + expired)
        problem = orjson.loads(text)
        assert (answered, problem["detail"]) == (401, "the token has expired")
        assert problem["code"] == "not-authenticated"
        assert (await status(node.ws_url, additional_headers={"Authorization": "Bearer x.y.z"}))[0] == 401
        async with client(node.ws_url + "?token=" + token("42")) as ws:
            await ws.send(orjson.dumps({"id": 1, "act": "auth", "token": expired}).decode())
            answer = await event(ws)
            assert (answer["id"], answer["code"]) == (1, "not-authenticated")
            assert expired not in answer["err"]
            await ws.send('{"id": 2, "act": "auth"}')
            assert (await event(ws))["code"] == "bad-request"
            assert await code(ws, {"user": "42", **unique("still")}) == "ok"
        assert metric(node, "bad_token") == 3


async def test_a_token_is_warned_of_renewed_and_expires(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, **TOKENS, expiry_warning=600) as node:
        async with client(node.ws_url + "?token=" + token("42", 2)) as ws:
            told = await event(ws)
            assert told["evt"] == "expiring"
            assert 1 <= told["seconds"] <= 2
            await ws.send(orjson.dumps({"id": 1, "act": "auth", "token": token("42", 3)}).decode())
            assert await event(ws) == {"id": 1, "ret": "ok"}
            began = time.monotonic()
            assert (await event(ws))["evt"] == "expiring"
            with pytest.raises(ConnectionClosed):
                await event(ws)
            assert ws.close_code == 4501
            assert time.monotonic() - began > 1  # the first token's end has passed by
        assert metric(node, "expired") == 1


async def test_another_identity_ends_subscriptions_of_the_first(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, **TOKENS) as node, client(node.ws_url + "?token=" + token("42")) as ws:
        mine, everybodys = {"user": "42", **unique("mine")}, unique("everybodys")
        label = (await act(ws, "sub", mine))["ret"]
        await act(ws, "sub", everybodys)
        await ws.send(orjson.dumps({"id": "t", "act": "auth", "token": token("43")}).decode())
        assert await event(ws) == {"id": "t", "ret": "ok"}
        ended = await event(ws)
        assert (ended["evt"], ended["ids"], ended["code"]) == ("unsubscribed", [label], "forbidden")
        assert await code(ws, mine, "unsub") == "not-subscribed"
        assert await code(ws, everybodys, "unsub") == "ok"


async def test_a_replaced_key_ends_its_clients(shared_valkey: Valkey, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    newer = jwt.encode({"sub": "42", "exp": int(time.time() + 600)}, "n" * 32)
    async with serving(shared_valkey, **{**TOKENS, "jwt_secret": None, "jwt_key_file": str(file)}) as node:
        old = node.ws_url + "?token=" + token("42")
        events = node.ws_url.replace("ws:", "http:").removesuffix("/ws") + f"/sse?pat=a=1&token={token('42')}"
        async with client(old) as ws, client(node.ws_url) as later, client(node.ws_url) as nobody:
            await later.send(orjson.dumps({"id": 1, "act": "auth", "token": token("42")}).decode())
            assert await event(later) == {"id": 1, "ret": "ok"}
            async with httpx2.AsyncClient(timeout=SECONDS) as http, http.stream("GET", events) as stream:
                node.reload()  # with the same key
                await act(ws, "ping")
                file.write_text("n" * 32)
                node.reload()
                for ended in (ws, later):
                    with pytest.raises(ConnectionClosed):
                        await event(ended)
                    assert ended.close_code == 4501
                assert b"subscribed" in b"".join([part async for part in stream.aiter_bytes()])  # and it ends
            await nobody.send(orjson.dumps({"id": 2, "act": "auth", "token": newer}).decode())
            assert await event(nobody) == {"id": 2, "ret": "ok"}
            node.reload()
            await act(nobody, "ping")
            assert await code(nobody, {"user": "42"}) == "ok"
        assert (await status(old))[0] == 401
        assert metric(node, "key_replaced") == 3


async def test_headers_and_tokens_together(shared_valkey: Valkey) -> None:
    options = {**TOKENS, "identify": ("device=X-Device",), "trusted_proxies": ("127.0.0.0/8",)}
    async with (
        serving(shared_valkey, **options) as node,
        client(node.ws_url, additional_headers={"X-Device": "d"}) as ws,
    ):
        await ws.send(orjson.dumps({"id": 1, "act": "auth", "token": token("42")}).decode())
        await event(ws)
        assert await code(ws, {"user": "42", "device": "d"}) == "ok"
        assert await code(ws, {"user": "42", "device": "e"}) == "forbidden"


async def test_grants_and_their_reload(shared_valkey: Valkey, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "grants.toml"
    file.write_text(
        '[[grant]]\npattern = {user = "$user", kind = ["news", "chat"]}\n[[grant]]\npattern = {open = true}\n'
    )
    async with (
        serving(shared_valkey, **OWN, grants=str(file)) as node,
        client(node.ws_url, additional_headers={"X-User": "42"}) as ws,
        client(node.ws_url) as other,
    ):
        label = (await act(ws, "sub", {"user": 42, "kind": "news"}))["ret"]
        assert await code(ws, {"user": 42, "kind": "chat", "room": 1}) == "ok"
        assert await code(ws, {"user": 42}) == "forbidden"
        assert await code(other, {"open": "true"}) == "ok"
        assert await code(other, {"kind": "news"}) == "forbidden"

        file.write_text("[[grant]]\npattern = 1\n")
        node.reload()
        assert "grant 1: pattern is not a table" in caplog.text
        assert await code(ws, {"user": 42, "kind": "news"}) == "ok"

        file.write_text('[[grant]]\npattern = {user = "$user", kind = "chat"}\n')
        node.reload()
        ended = await event(ws)
        assert (ended["evt"], ended["ids"]) == ("unsubscribed", [label])
        assert (await event(other))["evt"] == "unsubscribed"
        assert await code(ws, {"user": 42, "kind": "chat", "room": 1}, "unsub") == "ok"
        assert await code(ws, {"user": 42, "kind": "news"}) == "forbidden"
        assert metric(node, "no_longer_granted") == 2


async def test_keys(shared_valkey: Valkey, tmp_path: Path) -> None:
    (full, full_lines), (desk, desk_lines), (slow, slow_lines) = map(generate, ("full", "desk", "slow"))
    file = tmp_path / "keys.toml"
    file.write_text(full_lines + desk_lines + 'grants = [{kind = ["news", "weather"]}]\n' + slow_lines + "rate = 0.5\n")
    async with serving(shared_valkey, keys=str(file)) as node:
        for wrong in (None, "rh_wrong", full + "x"):
            async with APIClient(node.api_url, key=wrong) as api:
                with pytest.raises(Rejected) as refused:
                    await api.publish({"kind": "news"}, 1)
                assert (refused.value.status, refused.value.code) == (401, "not-authenticated")
        async with APIClient(node.api_url, key=full) as api:
            assert (await api.publish({"kind": "sport"}, 1)).nodes == 0
        async with APIClient(node.api_url, key=desk) as api:
            await api.publish({"kind": "news", "n": 1}, 1)
            with pytest.raises(Rejected) as refused:
                await api.publish({"kind": "sport"}, 1)
            assert (refused.value.status, refused.value.code) == (403, "forbidden")
            outcomes = await api.publish_many([({"kind": "weather"}, 1), ({"kind": "sport"}, 2), ({"kind": "news"}, 3)])
            assert [getattr(outcome, "code", "ok") for outcome in outcomes] == ["ok", "forbidden", "ok"]
        async with APIClient(node.api_url, key=slow, retries=0) as api:
            await api.publish({"kind": "news"}, 1)
            with pytest.raises(Rejected) as refused:
                await api.publish({"kind": "news"}, 1)
            assert (refused.value.status, refused.value.code) == (429, "rate-limited")
        async with httpx2.AsyncClient() as http:
            answer = await http.post(node.api_url, json={}, headers={"Authorization": f"Bearer {slow}"})
            assert answer.status_code == 429
            assert 1 <= int(answer.headers["retry-after"]) <= 2
        assert {name: metric(node, name) for name in ("bad_key", "key_not_granted", "key_rate")} == {
            "bad_key": 3, "key_not_granted": 2, "key_rate": 2,
        }  # fmt: skip
        file.write_text(desk_lines)
        node.reload()
        async with APIClient(node.api_url, key=full) as api:
            with pytest.raises(Rejected, match="not known"):
                await api.publish({"kind": "sport"}, 1)


async def test_messages_that_a_key_may_not_publish_are_counted_as_denied(shared_valkey: Valkey, tmp_path: Path) -> None:
    (desk, desk_lines), (slow, slow_lines) = map(generate, ("desk", "slow"))
    file = tmp_path / "keys.toml"
    file.write_text(desk_lines + 'grants = [{kind = "news"}]\n' + slow_lines + "rate = 0.001\n")
    news, sport = '{"pattern": {"kind": "news"}, "payload": 1}', '{"pattern": {"kind": "sport"}, "payload": 1}'

    async with serving(shared_valkey, keys=str(file)) as node, httpx2.AsyncClient(base_url=node.api_url) as http:

        async def outcomes(key: str, route: str, text: str) -> dict[str, int]:
            """How many of each outcome a request adds, those with none left out."""
            counted = []
            for publishes in (False, True):
                if publishes:
                    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
                    await http.post(route, content=text, headers=headers)
                lines = (await http.get("metrics")).text.splitlines()
                found = [line.split('"') for line in lines if line.startswith("realizehit_publications_total{outcome=")]
                counted.append({outcome: int(float(count.strip("} "))) for _, outcome, count in found})
            before, after = counted
            return {name: after[name] - before[name] for name in after if after[name] != before[name]}

        batch = f'{{"messages": [{news}, {sport}, {sport}, {{"pattern": {{}}}}, {news}]}}'
        assert await outcomes(desk, "batch", batch) == {"queued": 2, "denied": 2, "invalid": 1}
        assert await outcomes(desk, "", sport) == {"denied": 1}
        assert await outcomes(desk, "", news) == {"queued": 1}
        assert await outcomes(desk, "", "{") == {"invalid": 1}
        assert await outcomes(slow, "batch", batch) == {"queued": 4, "invalid": 1}
        assert await outcomes(slow, "batch", batch) == {}  # it is refused before it is read


async def test_a_key_is_charged_when_its_request_arrives(shared_valkey: Valkey, tmp_path: Path) -> None:
    key, lines = generate("slow")
    file = tmp_path / "keys.toml"
    file.write_text(lines + "rate = 0.001\n")
    head = f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    body = b'{"pattern": {"a": 1}, "payload": 1}'
    async with serving(shared_valkey, keys=str(file)) as node:
        first, second = [await asyncio.open_connection("127.0.0.1", urlsplit(node.api_url).port) for _ in range(2)]
        async with asyncio.timeout(SECONDS):
            # While the body of the first one is due.
            for (reader, writer), wanted in ((first, b" 100 "), (second, b" 429 ")):
                writer.write(head.encode() + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
                assert wanted in await reader.readline()
            first[1].write(body)
            assert await first[0].readline() == b"\r\n"
            assert b" 200 " in await first[0].readline()
        for _, writer in (first, second):
            writer.close()
    for route, text, answered in (("", "no JSON", 400), ("batch", '{"messages": [1, 2]}', 200)):
        async with serving(shared_valkey, keys=str(file)) as node, httpx2.AsyncClient() as http:
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            assert (await http.post(node.api_url + route, content=text, headers=headers)).status_code == answered
            answer = await http.post(node.api_url + route, content=text, headers=headers)
            assert answer.status_code == 429
            # What a batch has beyond its first message is paid back too.
            assert int(answer.headers["retry-after"]) > (500 if answered == 400 else 1500)


async def test_concurrent_batches_are_charged_before_publishing(shared_valkey: Valkey, tmp_path: Path) -> None:
    key, lines = generate("slow")
    file = tmp_path / "keys.toml"
    file.write_text(lines + "rate = 5\n")
    body = b'{"pattern":{"k":1},"payload":1}\n' * 1000
    head = (
        f"POST /batch HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/x-ndjson\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    async with serving(shared_valkey, keys=str(file)) as node, asyncio.timeout(SECONDS):
        port = urlsplit(node.api_url).port
        streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        for reader, writer in streams:
            writer.write(head)
            assert b" 100 " in await reader.readline()  # it has paid for one message, and the rest is due
        answers = []
        for reader, writer in streams:
            writer.write(body)
            answers.append(await reader.read())
            writer.close()
            await writer.wait_closed()
        assert [b" 200 " in answer for answer in answers] == [True, False, False, False]
        assert all(b" 429 " in answer and b"retry-after: " in answer.lower() for answer in answers[1:])
        assert metric(node, "key_rate") == 3


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({}, 200),
        ({"X-Forwarded-For": "203.0.113.7"}, 403),
        ({"Forwarded": "for=203.0.113.7"}, 403),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Origin": "http://evil.example:{port}", "Host": "evil.example:{port}"}, 403),  # a name that points here
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
async def test_without_keys_only_this_machine_publishes(
    shared_valkey: Valkey, headers: dict[str, str], wanted: int
) -> None:
    async with serving(shared_valkey) as node, httpx2.AsyncClient() as http:
        port = node.api_url.rstrip("/").rpartition(":")[2]
        sent = {name: value.format(port=port) for name, value in headers.items()}
        answer = await http.post(node.api_url, json={"pattern": {"a": 1}, "payload": 1}, headers=sent)
        assert answer.status_code == wanted, answer.text
        if wanted == 403:
            assert answer.json()["code"] == "forbidden"
            assert "--" in answer.json()["detail"]  # how to configure it


async def test_origins(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, allow_origin=("https://App.example/",)) as node, httpx2.AsyncClient() as http:
        own = node.ws_url.replace("ws:", "http:").removesuffix("/ws")
        for origin in (own, "https://app.example", "https://app.example:443"):
            async with client(node.ws_url, additional_headers={"Origin": origin}) as ws:
                await act(ws, "ping")
        for origin in (
            "http://app.example",
            "https://evil.example",
            "null",
            "https://app.example.evil.example",
            own + "0",
        ):
            answered, text = await status(node.ws_url, additional_headers={"Origin": origin})
            assert (answered, "forbidden" in text) == (403, True), origin
            for path in ("sse?pat=a=1", "ws/?EIO=4&transport=polling"):
                answer = await http.get(f"{own}/{path}", headers={"Origin": origin})
                assert answer.status_code == 403, (path, origin)
        message = {"pattern": {"a": 1}, "payload": 1}
        answer = await http.post(node.api_url, json=message, headers={"Origin": "https://app.example"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://app.example")
        preflight = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
        assert (await http.options(node.api_url, headers=preflight)).status_code == 200
        answer = await http.get(f"{own}/sse?pat=*=a", headers={"Origin": "https://app.example"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (400, "https://app.example")
        answer = await http.get(f"{own}/sse?pat={'x' * 16_384}", headers={"Origin": "https://app.example"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (431, "*")
    async with (
        serving(shared_valkey, allow_origin=("*",)) as node,
        client(node.ws_url, additional_headers={"Origin": "https://whoever.example"}) as ws,
    ):
        await act(ws, "ping")


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_plain_requests_of_foreign_pages_are_refused(shared_valkey: Valkey, site: str) -> None:
    foreign = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
    async with serving(shared_valkey, console=True) as node, httpx2.AsyncClient(timeout=SECONDS) as http:
        base = node.ws_url.replace("ws:", "http:").removesuffix("/ws")
        polling = f"{base}/ws/?EIO=4&transport=polling"
        opened = await http.get(polling, headers={"Sec-Fetch-Site": "same-origin"})
        own = f"{polling}&sid={orjson.loads(opened.content[1:])['sid']}"
        for url in (polling, own, f"{base}/sse?pat=a=1", f"{base}/console", f"{base}/console/console.js"):
            assert (await http.get(url, headers=foreign)).status_code == 403, url
        assert (await http.post(own, content=b"41", headers=foreign)).status_code == 403
        message = {"pattern": {"a": 1}, "payload": 1}
        assert (await http.post(node.api_url, json=message, headers=foreign)).status_code == 403
        assert metric(node, "origin") == 5
        followed = {**foreign, "Sec-Fetch-Mode": "navigate"}
        assert (await http.get(f"{base}/console", headers=followed)).status_code == 200
        assert node.engine.stats()["connections"] == 1


async def test_allowing_every_page_makes_none_local(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, console=True, allow_origin=("*",)) as node, httpx2.AsyncClient() as http:
        message = {"pattern": {"a": 1}, "payload": 1}
        for origin in ("https://evil.example", "null"):
            answer = await http.post(node.api_url, json=message, headers={"Origin": origin})
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
            assert (await http.get(node.api_url + "console", headers={"Origin": origin})).status_code == 403
            async with client(node.ws_url, additional_headers={"Origin": origin}) as ws:
                assert await code(ws, {"realizehit": "stats"}) == "forbidden"


async def test_dns_rebinding_gets_no_subscription(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey) as node, httpx2.AsyncClient() as http:
        base = node.ws_url.replace("ws:", "http:").removesuffix("/ws")
        port = urlsplit(base).port
        host = f"evil.example:{port}"
        for headers in ({"Origin": f"http://{host}"}, {}):
            answered, text = await status(f"ws://{host}/ws", host="127.0.0.1", port=port, additional_headers=headers)
            assert (answered, orjson.loads(text)["code"]) == (403, "forbidden")
            for path in ("sse?pat=a=1", "ws/?EIO=4&transport=polling"):
                answer = await http.get(f"{base}/{path}", headers={"Host": host, **headers})
                assert answer.status_code == 403, (path, headers)
        assert metric(node, "host") == 6


async def test_head_requests_for_events_need_the_same_access(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, **TOKENS) as node, httpx2.AsyncClient() as http:
        url = node.api_url + "sse?pat=a=1"
        assert (await http.head(url)).status_code == 200
        assert (await http.head(url + "&token=x")).status_code == 401
        assert (await http.head(url, headers={"Origin": "https://evil.example"})).status_code == 403


async def test_identities_over_the_other_transports(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, **OWN, **{**TOKENS, "jwt_claims": ("device=sub",)}) as node:
        base = node.ws_url.replace("ws:", "http:").removesuffix("/ws")
        async with httpx2.AsyncClient(timeout=SECONDS) as http:
            for pattern, wanted in (("user=42,device=d", 200), ("user=43", 400), ("device=e", 400)):
                url = f"{base}/sse?pat={pattern}&token={token('d')}"
                async with http.stream("GET", url, headers={"X-User": "42"}) as answer:
                    assert answer.status_code == wanted, pattern
            for url in (f"{base}/sse?pat=a=1&token=x", f"{base}/ws/?EIO=4&transport=polling&token=x"):
                assert (await http.get(url)).status_code in (400, 401), url
            own = {"X-User": "42"}
            opened = await http.get(f"{base}/ws/?EIO=4&transport=polling", headers=own)
            sid = orjson.loads(opened.content[1:])["sid"]
            for n, (user, key) in enumerate((("42", "ret"), ("43", "err"))):
                action = orjson.dumps({"id": n, "act": "sub", "pat": {"user": user, "kind": "polled"}})
                url = f"{base}/ws/?EIO=4&transport=polling&sid={sid}"
                await http.post(url, content=b"4" + action, headers=own)
                polled = await http.get(url, headers=own)
                assert key in orjson.loads(polled.content.split(b"\x1e")[-1][1:]), user


async def test_white_space_around_identity_headers_is_ignored(shared_valkey: Valkey, tmp_path: Path) -> None:
    key, lines = generate("a")
    file = tmp_path / "keys.toml"
    file.write_text(lines)
    blank = "X-User: \t 42 \t \r\n"
    host = "Host: localhost\r\n"
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    upgrade += "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    body = '{"pattern":{"a":1},"payload":1}'
    publication = f"Content-Type: application/json \t\r\nContent-Length: {len(body)}\r\n"
    async with serving(shared_valkey, **OWN, keys=str(file)) as node, asyncio.timeout(SECONDS):
        for head, wanted in (
            (f"GET /sse?pat=user=42 HTTP/1.1\r\n{host}{blank}\r\n", b" 200 "),
            (f"GET /ws/?EIO=4&transport=polling HTTP/1.1\r\n{host}{blank}\r\n", b" 200 "),
            (f"GET /ws HTTP/1.1\r\n{host}{upgrade}{blank}\r\n", b" 101 "),
            (f"POST / HTTP/1.1\r\n{host}Authorization: \t Bearer {key} \t\r\n{publication}\r\n{body}", b" 200 "),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(node.api_url).port)
            writer.write(head.encode())
            assert wanted in await reader.readline(), head
            identities = {identity["user"] for identity in node.guard.gate.connected._identities.values()}
            assert identities == (set() if head.startswith("POST") else {"42"})
            writer.transport.abort()
            for handle in node.engine.handles():
                node.engine.disconnect(handle, 0)
            while node.engine.stats()["connections"]:
                await asyncio.sleep(0.01)


async def test_limit_of_connections(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, max_connections=2) as node:
        async with client(node.ws_url), client(node.ws_url):
            answered, text = await status(node.ws_url)
            assert (answered, "too-many-connections" in text) == (503, True)
            async with httpx2.AsyncClient() as http:
                assert (await http.get(node.api_url + "healthz")).status_code == 200
        async with asyncio.timeout(SECONDS):
            while node.engine.stats()["connections"]:
                await asyncio.sleep(0.01)
        async with client(node.ws_url) as ws:
            await act(ws, "ping")
        assert metric(node, "too_many_connections") == 1


async def test_limit_of_connections_per_address(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, max_per_address=2) as node:
        gate = node.guard.gate
        async with client(node.ws_url), httpx2.AsyncClient() as http:
            assert (await http.get(node.api_url + "healthz")).status_code == 200  # and stays connected
            assert (await status(node.ws_url))[0] == 503
        async with asyncio.timeout(SECONDS):
            while gate.clients.addresses:
                await asyncio.sleep(0.01)
        async with client(node.ws_url), client(node.ws_url):
            pass
        assert metric(node, "too_many_per_address") == 1
    async with (
        serving(shared_valkey, max_per_address=1, trusted_proxies=("127.0.0.1",)) as node,
        client(node.ws_url),
        client(node.ws_url),
    ):
        pass
    async with serving(shared_valkey, max_per_address=1) as node, httpx2.AsyncClient(timeout=SECONDS) as http:
        url = node.ws_url.replace("ws:", "http:").removesuffix("/ws") + "/sse?pat=a=1"
        async with http.stream("GET", url) as answer:
            assert answer.status_code == 200
            assert (await status(node.ws_url))[0] == 503


async def test_limit_per_address_counts_sessions_over_one_connection(shared_valkey: Valkey) -> None:
    limits = httpx2.Limits(max_connections=1)
    async with (
        serving(shared_valkey, max_per_address=2) as node,
        httpx2.AsyncClient(timeout=SECONDS, limits=limits) as http,
    ):
        url = node.ws_url.replace("ws:", "http:") + "/?EIO=4&transport=polling"
        assert [(await http.get(url)).status_code for _ in range(5)] == [200, 200, 503, 503, 503]
        assert node.engineio is not None
        assert node.engineio.sessions == 2
        assert metric(node, "too_many_per_address") == 3


async def test_limit_of_handshakes(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, max_handshakes=2) as node:
        for _ in range(2):
            async with client(node.ws_url):
                pass
        assert (await status(node.ws_url))[0] == 503
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    async with client(node.ws_url):
                        break
                except InvalidStatus:
                    await asyncio.sleep(0.05)


async def test_limit_of_actions(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, max_actions=1, max_subscriptions=2) as node, client(node.ws_url) as ws:
        assert [await code(ws, None, "ping") for _ in range(4)] == ["ok"] * 4
        assert await code(ws, None, "ping") == "rate-limited"
        with pytest.raises(ConnectionClosed):
            for _ in range(150):
                await ws.send("no json is an action too")
            async with asyncio.timeout(SECONDS):
                while True:
                    await ws.recv()
        assert (ws.close_code, ws.close_reason) == (4502, "rate-limited")


async def test_limit_of_channels(shared_valkey: Valkey) -> None:
    async with (
        serving(shared_valkey, max_channels=2) as node,
        client(node.ws_url) as ws,
        client(node.ws_url) as other,
    ):
        one, two, three = (unique("channels") for _ in range(3))
        assert [await code(ws, pattern) for pattern in (one, two, three)] == ["ok", "ok", "too-many-channels"]
        assert await code(other, one) == "ok"
        await act(ws, "unsub", two)
        assert await code(ws, three) == "ok"


async def test_a_request_that_arrives_slowly(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, request_timeout=0.3) as node:
        port = int(node.api_url.rstrip("/").rpartition(":")[2])
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
        for first, second in ((head, b"{"), (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /hea")):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(first)
            if first.startswith(b"GET"):
                assert b"200 OK" in await reader.readuntil(b"ok\n")
            writer.write(second)
            async with asyncio.timeout(SECONDS):
                answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 408 "), answer
            writer.close()
            await writer.wait_closed()


async def exchange(node: Node, *parts: bytes) -> tuple[int, Any]:
    """Send the parts, each once the one before was answered, and return status and document of the last answer."""
    address = urlsplit(node.ws_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        async with asyncio.timeout(SECONDS):
            for part in parts[:-1]:
                writer.write(part)
                await reader.readuntil(b"ok\n")
            writer.write(parts[-1])
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    assert b"content-type: application/problem+json" in head.lower(), head
    problem = orjson.loads(body)
    assert problem["status"] == int(head.split()[1])
    return problem["status"], problem.get("code")


async def test_each_bound_of_a_request_has_a_code_and_is_counted(shared_valkey: Valkey) -> None:
    bounds: dict[str, Any] = {"max_head_bytes": 500, "handshake_timeout": 0.3, "request_timeout": 0.3}
    get, opening = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n"
    async with serving(shared_valkey, **bounds, max_payload_bytes=100) as node:
        large = b"X: " + b"x" * 500
        assert await exchange(node, get[:-2] + large + b"\r\n\r\n") == (431, "too-large")
        assert await exchange(node, get, get[:-2] + large + b"\r\n\r\n") == (431, "too-large")
        assert metric(node, "head_too_large") == 2
        assert await exchange(node, get[:-2]) == (408, "timeout")
        assert metric(node, "late_head") == 1
        assert await exchange(node, get, get[:-2]) == (408, "timeout")
        assert metric(node, "late_request") == 1
        assert await exchange(node, opening + b" : x\r\n\r\n") == (400, "bad-request")
        assert await exchange(node, opening + b"Host: localhost\r\n\r\n") == (426, "bad-request")
        assert await exchange(node, opening + b"\r\n") == (400, "bad-request")
        assert await exchange(node, get, b"no request\r\n\r\n") == (400, "bad-request")
        assert await exchange(node, opening.replace(b"/ws", b"/wrong") + b"Host: localhost\r\n\r\n") == (404, None)
        async with httpx2.AsyncClient() as http:
            large_body = {"pattern": {"a": 1}, "payload": "x" * 100}
            assert (await http.post(node.api_url, json=large_body)).status_code == 413
            batch = await http.post(node.api_url + "batch", json={"messages": [large_body] * 2})
            assert [result["code"] for result in batch.json()["results"]] == ["too-large"] * 2
        assert metric(node, "payload_too_large") == 3
        node.draining = True
        assert await exchange(node, opening + b"Host: localhost\r\n\r\n") == (503, "unavailable")


async def test_each_bound_of_a_client_is_counted(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, max_subscriptions=1, max_channels=1, max_message_bytes=200) as node:
        async with client(node.ws_url) as ws, client(node.ws_url) as other:
            assert await code(ws, {"a": 1}) == "ok"
            assert await code(ws, {"a": 2}) == "too-many-channels"
            assert await code(other, {"a": 1}) == "ok"
            assert metric(node, "too_many_channels") == 1
            await ws.send("x" * 201)
            await ws.wait_closed()
            assert ws.close_code == 1009
        assert metric(node, "message_too_large") == 1
    async with serving(shared_valkey, max_subscriptions=1) as node, client(node.ws_url) as ws:
        assert [await code(ws, {"a": n}) for n in range(2)] == ["ok", "too-many-subscriptions"]
        assert metric(node, "too_many_subscriptions") == 1
    async with serving(shared_valkey, max_message_bytes=200) as node, httpx2.AsyncClient() as http:
        polling = node.ws_url.replace("ws:", "http:") + "/?EIO=4&transport=polling"
        sid = orjson.loads((await http.get(polling)).content[1:])["sid"]
        await http.post(f"{polling}&sid={sid}", content=b"4" + b"x" * 201)
        assert metric(node, "message_too_large") == 1


async def test_tls(shared_valkey: Valkey, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.private_key_pem.write_to_path(key)
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(cert, append=True)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with serving(shared_valkey, tls_cert=str(cert), tls_key=str(key), handshake_timeout=1.0) as node:
        assert (node.ws_url[:6], node.api_url[:8]) == ("wss://", "https://")
        pattern = unique("tls")
        async with WSClient(node.ws_url, ssl=trusting) as ws, APIClient(node.api_url, verify=trusting) as api:
            subscription = await ws.subscribe(pattern)
            for n in range(100):
                await api.publish(pattern, n)
            async with asyncio.timeout(SECONDS):
                assert [await anext(aiter(subscription)) for _ in range(100)] == list(range(100))
        async with asyncio.timeout(SECONDS):  # of which a silent TLS handshake gets but a part
            reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(node.ws_url).port)
            with suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(old)
        old.set_ciphers("DEFAULT@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await asyncio.open_connection("127.0.0.1", int(node.ws_url.split(":")[2].partition("/")[0]), ssl=old)
    for options, said in (
        ({"tls_cert": str(cert)}, "go together"),
        ({"tls_cert": str(key), "tls_key": str(key)}, "cannot be used"),
        ({"tls_cert": str(tmp_path / "none"), "tls_key": str(key)}, "No such file"),
    ):
        with pytest.raises(SettingsError, match=said):
            async with serving(shared_valkey, **options):
                pass


async def test_openapi_says_that_a_key_is_needed(shared_valkey: Valkey, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(generate("a")[1])
    for options, wanted in (({}, None), ({"keys": str(file)}, [{"key": []}])):
        async with serving(shared_valkey, **options) as node, httpx2.AsyncClient() as http:
            described = (await http.get(node.api_url + "openapi.json")).json()
            assert described["paths"]["/"]["post"].get("security") == wanted
            assert {"401", "403", "429"} <= described["paths"]["/batch"]["post"]["responses"].keys()
