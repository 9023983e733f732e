"""The publish API on a real node: bodies, answers, errors, health and metrics, and what happens without a broker."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import httpx2
import orjson
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount

from realizehit.broker.base import BusState
from realizehit.broker.open import open_bus
from realizehit.errors import ErrorCode
from realizehit.http.api import Application, create_app
from realizehit.http.publish_endpoint import PATTERN_ROOM
from realizehit.logs.lines import ACCESS_LOGGER
from realizehit.pattern import Pattern
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.support.valkey import Valkey
from tests.support.wire import RawClient, client, publisher, unique

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
HELLO = b'{"pattern": {"kind": "news"}, "payload": "hello"}'


@pytest.fixture(params=["directly", "through ASGI", "logged"])
async def node(
    shared_valkey: Valkey, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Node]:
    """A server on a free port. All requests are to be served alike, whichever way they take."""
    if request.param == "through ASGI":
        monkeypatch.setattr(Application, "direct", {})
    async with serve(Settings(port=0, redis=shared_valkey.url, access_log=request.param == "logged")) as node:
        yield node


@asynccontextmanager
async def http(node: Node) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=node.api_url, timeout=20) as client:
        yield client


@pytest.fixture
async def api(node: Node) -> AsyncIterator[httpx2.AsyncClient]:
    async with http(node) as client:
        yield client


@asynccontextmanager
async def subscribed(node: Node, *patterns: dict[str, Any]) -> AsyncIterator[RawClient]:
    """A client with nothing but what is published from now on in its ``texts``."""
    ws = await RawClient.connect(node.ws_url)
    try:
        for pattern in patterns:
            ws.act(id="s", act="sub", pat=pattern)
        await ws.wait_for(len(patterns))
        ws.texts.clear()
        yield ws
    finally:
        ws.transport.abort()
        await ws.closed.wait()


def body_of(pattern: Any, payload: Any) -> bytes:
    return orjson.dumps({"pattern": pattern, "payload": payload})


def problem(response: httpx2.Response, status: int, code: str | None = None) -> str:
    """Check an answer that says no, and return its explanation."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["type"] == "about:blank"
    assert body["status"] == status
    assert body["title"]
    assert body.get("code") == code
    if status == 503:
        assert int(response.headers["retry-after"]) > 0
    else:
        assert "retry-after" not in response.headers
    detail = body["detail"]
    assert isinstance(detail, str)
    return detail


# ---- one message


async def test_what_is_published_reaches_the_subscriber(node: Node, api: httpx2.AsyncClient) -> None:
    pattern = unique("api")
    async with subscribed(node, pattern) as ws:
        payloads: list[Any] = [None, False, 0, "", [], {}, True, "text", {"title": "hello"}]
        for payload in payloads:
            response = await api.post("", content=body_of(pattern, payload), headers=JSON)
            assert response.status_code == 200
            assert response.headers["content-type"] == "application/json"
            assert response.json() == {"status": "queued", "id": Pattern(pattern).id, "nodes": 1}
        await ws.wait_for(9)
        prefix = Pattern(pattern).id + "?"
        assert [text.decode() for text in ws.texts] == [
            prefix + text for text in ("null", "false", "0", '""', "[]", "{}", "true", '"text"', '{"title":"hello"}')
        ]


async def test_answers_of_pipelined_requests_come_in_order_and_whole(node: Node) -> None:
    pattern = unique("pipelined")
    body = body_of(pattern, "x" * 100)
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    one, last = post + b"\r\n" + body, post + b"Connection: close\r\n\r\n" + body
    wrong = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\nx"
    health = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", int(node.api_url.rsplit(":", 1)[1].rstrip("/")))
    async with subscribed(node, pattern) as ws:
        writer.write((one * 5 + health + wrong) * 10 + last + one)  # what follows the last one is not answered
        async with asyncio.timeout(20):
            answers = (await reader.read()).split(b"HTTP/1.1 ")[1:]
        assert [answer[:3] for answer in answers] == ([b"200"] * 6 + [b"415"]) * 10 + [b"200"]
        for answer in answers:
            head, _, content = answer.partition(b"\r\n\r\n")
            assert b"content-length: %d" % len(content) in head.lower()
            assert (b"connection: close" in head.lower()) == (answer is answers[-1])
        await ws.wait_for(51)
        assert len(ws.texts) == 51
    writer.close()


ODD = '{"n": 12345678901234567890123,   "f": 1.10,\t"z": "é?\\u003f" ,\n"n": -0.0, "e": 1E400}'


@pytest.mark.parametrize("path", ["", "batch", "lines"])
async def test_a_payload_arrives_byte_for_byte(node: Node, api: httpx2.AsyncClient, path: str) -> None:
    pattern = unique("bytes")
    odd = ODD.replace("\n", " ") if path == "lines" else ODD
    async with subscribed(node, pattern) as ws:
        message = f'{{ "payload" : {odd}  , "pattern":{orjson.dumps(pattern).decode()}}}'
        if path == "":
            response = await api.post("", content=message.encode(), headers=JSON)
        elif path == "batch":
            response = await api.post("batch", content=f'{{"messages": [ {message} ]}}'.encode(), headers=JSON)
        else:
            response = await api.post("batch", content=f"\n{message}\r\n\n".encode(), headers=NDJSON)
        assert response.status_code == 200, response.text
        await ws.wait_for(1)
        assert ws.texts[0] == f"{Pattern(pattern).id}?{odd}".encode()


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (b"", "bad-json", "not JSON"),
        (b"{", "bad-json", "not JSON"),
        (b'{"pattern": {"a": "b"}, "payload": 01}', "bad-json", "not JSON"),
        (b'{"pattern": {"a": "b"}, "payload": "\x01"}', "bad-json", "not JSON"),
        (b'{"pattern": {"a": "b"}, "payload": NaN}', "bad-json", "not JSON"),
        (b'{"pattern": {"a": "b"}, "payload": 1} x', "bad-json", "not JSON"),
        (b'{"pattern": {"a": "b"}, "payload": ' + b"[" * 9_999 + b"]" * 9_999 + b"}", "bad-json", "nested too deeply"),
        (b'{"pattern": {"a": ' + b"[" * 9_999 + b"]" * 9_999 + b'}, "payload": 1}', "bad-json", "nested too deeply"),
        (b'{"pattern": {"a": "b"}, "payload": "\xff"}', "bad-json", "not UTF-8: invalid start byte at byte 36"),
        (b'{"pattern": {"a": "b"}, "payload": "\xed\xa0\x80"}', "bad-json", "not UTF-8"),
        ('{"pattern": {"a": "b"}, "payload": 1}'.encode("utf-16"), "bad-json", "not UTF-8"),
        (b"[]", "bad-request", "a publication is an object"),
        (b'"text"', "bad-request", "a publication is an object"),
        (b"null", "bad-request", "a publication is an object"),
        (b"{}", "bad-request", "pattern is missing"),
        (b'{"payload": 1}', "bad-request", "pattern is missing"),
        (b'{"pattern": {"a": "b"}}', "bad-request", "payload is missing"),
        (b'{"pattern": {}, "payload": 1}', "bad-pattern", "filter"),
        (b'{"pattern": null, "payload": 1}', "bad-pattern", "not null"),
        (b'{"pattern": "a=b", "payload": 1}', "bad-pattern", "not a string"),
        (b'{"pattern": ["a"], "payload": 1}', "bad-pattern", "not a list"),
        (b'{"pattern": {"a": null}, "payload": 1}', "bad-pattern", "'a'"),
        (b'{"pattern": {"a": {"b": 1}}, "payload": 1}', "bad-pattern", "'a'"),
        (b'{"pattern": {"": "b"}, "payload": 1}', "bad-pattern", "empty"),
        (b'{"pattern": {"a": "*"}, "payload": 1}', "bad-pattern", "*"),
    ],
)
async def test_a_bad_body_is_named(api: httpx2.AsyncClient, body: bytes, code: str, text: str) -> None:
    response = await api.post("", content=body, headers=JSON)
    assert text in problem(response, 400, code)


@pytest.mark.parametrize(
    "header", ["application/json", "Application/JSON; charset=utf-8", 'application/json;charset="UTF-8"']
)
async def test_the_content_type_is_json(api: httpx2.AsyncClient, header: str) -> None:
    assert (await api.post("", content=HELLO, headers={"Content-Type": header})).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=latin-1",
        "json",
        "a/b\xff",
    ],
)
async def test_another_content_type_is_refused(api: httpx2.AsyncClient, header: str | None) -> None:
    headers = {} if header is None else {b"Content-Type": header.encode("latin-1")}
    for path, wanted in (("", "application/json"), ("batch", "application/json or Content-Type: application/x-ndjson")):
        detail = problem(await api.post(path, content=HELLO, headers=headers), 415, "unsupported-media-type")
        assert detail.endswith(f"; send the header Content-Type: {wanted}")
    problem(await api.post("", content=HELLO, headers=NDJSON), 415, "unsupported-media-type")


async def test_the_bounds_of_a_payload(node: Node, api: httpx2.AsyncClient) -> None:
    most = node.settings.max_payload_bytes
    assert most == 1 << 20
    pattern = unique("large")
    async with subscribed(node, pattern) as ws:
        largest = "x" * (most - 2)
        assert (await api.post("", content=body_of(pattern, largest), headers=JSON)).status_code == 200
        await ws.wait_for(1)
        assert ws.texts[0] == f'{Pattern(pattern).id}?"{largest}"'.encode()
        detail = problem(await api.post("", content=body_of(pattern, largest + "x"), headers=JSON), 413, "too-large")
        assert detail == f"the payload has {most + 1} bytes; at most {most} are taken"
        # A body that says how long it is is refused unread, one that does not when it has grown too long.
        much = body_of(pattern, "x" * (most + PATTERN_ROOM))
        problem(await api.post("", content=much, headers=JSON), 413, "too-large")

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(much), 65_536):
                yield much[start : start + 65_536]

        problem(await api.post("", content=chunks(), headers=JSON), 413, "too-large")


async def test_a_body_in_many_chunks(api: httpx2.AsyncClient) -> None:
    async def bytewise() -> AsyncIterator[bytes]:
        for byte in HELLO:
            yield bytes([byte])

    assert (await api.post("", content=bytewise(), headers=JSON)).status_code == 200


@pytest.mark.parametrize("prefix", ["/", "/publish", "/a/b/"])
async def test_the_prefix(shared_valkey: Valkey, prefix: str) -> None:
    async with serve(Settings(port=0, redis=shared_valkey.url, prefix=prefix)) as node:
        base = node.api_url.removesuffix(node.settings.prefix)
        async with httpx2.AsyncClient(base_url=base) as api:
            for path in {prefix, prefix.rstrip("/") or "/", prefix.rstrip("/") + "/"}:
                assert (await api.post(path, content=HELLO, headers=JSON)).status_code == 200
            batch = prefix.rstrip("/") + "/batch"
            assert (await api.post(batch, content=b'{"messages": []}', headers=JSON)).status_code == 200
            if prefix != "/":
                problem(await api.post("/", content=HELLO, headers=JSON), 404)
                problem(await api.post("/batch", content=HELLO, headers=JSON), 404)
            assert (await api.get("/healthz")).status_code == 200
            described = (await api.get("/openapi.json")).json()["paths"]
            assert node.settings.prefix in described
            assert batch in described


async def test_unknown_paths_and_methods(api: httpx2.AsyncClient) -> None:
    assert "openapi.json" in problem(await api.get("nothing"), 404)
    problem(await api.post("nothing", content=HELLO, headers=JSON), 404)
    problem(await api.post("batch/", content=HELLO, headers=JSON), 404)
    for method, path, allowed in (
        ("GET", "", "POST"),
        ("PUT", "", "POST"),
        ("DELETE", "batch", "POST"),
        ("POST", "healthz", "GET, HEAD"),
        ("PUT", "metrics", "GET, HEAD"),
        ("OPTIONS", "openapi.json", "GET, HEAD"),
    ):
        response = await api.request(method, path)
        problem(response, 405)
        assert sorted(re.split(r",\s*", response.headers["allow"])) == allowed.split(", ")


async def test_a_server_for_websockets_alone_publishes_nothing(shared_valkey: Valkey) -> None:
    async with serve(Settings(port=0, redis=shared_valkey.url, role="ws")) as node, http(node) as api:
        problem(await api.post("", content=HELLO, headers=JSON), 404)
        assert (await api.get("readyz")).text == "ready\n"
        assert set((await api.get("openapi.json")).json()["paths"]) == {"/healthz", "/readyz", "/metrics"}


# ---- batches


async def test_a_bad_message_does_not_spoil_the_others(node: Node, api: httpx2.AsyncClient) -> None:
    pattern = unique("batch")
    good = orjson.dumps({"pattern": pattern, "payload": 1})
    items = [
        good,
        b'{"pattern": {}, "payload": 1}',
        b"7",
        good.replace(b'"payload":1', b'"payload": 2'),
        b'{"pattern": {"a": "*"}, "payload": 1}',
        b'{"pattern": {"a": "b"}}',
        good.replace(b'"payload":1', b'"payload":null'),
    ]
    async with subscribed(node, pattern) as ws:
        expected = [None, "bad-pattern", "bad-request", None, "bad-pattern", "bad-request", None]
        as_json = await api.post("batch", content=b'{"messages": [' + b",".join(items) + b"]}", headers=JSON)
        items[2:2] = [b"{not json", b'{"pattern": {"a": "\xff"}, "payload": 1}', b'{"pattern": ' + b"[" * 9_999]
        lines = await api.post("batch", content=b"\n".join(items), headers=NDJSON)
        for response, codes in (
            (as_json, expected),
            (lines, [*expected[:2], "bad-json", "bad-json", "bad-json", *expected[2:]]),
        ):
            assert response.status_code == 200, response.text
            answer = response.json()
            assert [result.get("code") for result in answer["results"]] == codes
            assert answer["queued"] == 3
            assert answer["failed"] == len(codes) - 3
            for index, result in enumerate(answer["results"]):
                if result["status"] == "queued":
                    assert result == {"status": "queued", "id": Pattern(pattern).id, "nodes": 1}
                else:
                    assert result["index"] == index
                    assert result["detail"]
        await ws.wait_for(6)
        assert [text.partition(b"?")[2] for text in ws.texts] == [b"1", b"2", b"null"] * 2


async def test_a_large_batch_is_published_in_order(node: Node, api: httpx2.AsyncClient, shared_valkey: Valkey) -> None:
    patterns = [unique("many") for _ in range(3)]
    messages = [{"pattern": patterns[n % 3], "payload": n} for n in range(node.settings.max_batch_messages)]
    async with subscribed(node, *patterns) as ws:
        clients = len(shared_valkey.clients())
        response = await api.post("batch", content=orjson.dumps({"messages": messages}), headers=JSON)
        assert response.status_code == 200
        # All of it over the one connection that publishes.
        assert len(shared_valkey.clients()) <= clients + 1
        answer = response.json()
        assert (answer["queued"], answer["failed"]) == (10_000, 0)
        assert {result["nodes"] for result in answer["results"]} == {1}
        assert [result["id"] for result in answer["results"][:3]] == [Pattern(pattern).id for pattern in patterns]
        # The client reads while it is sent, so nothing is dropped; the order holds even across the channels.
        await ws.wait_for(10_000)
        assert [int(text.partition(b"?")[2]) for text in ws.texts] == list(range(10_000))


async def test_a_batch_of_too_many(api: httpx2.AsyncClient) -> None:
    messages = [{"pattern": {"kind": "news"}, "payload": 1}] * 10_001
    for content, headers in (
        (orjson.dumps({"messages": messages}), JSON),
        (b"\n".join(map(orjson.dumps, messages)), NDJSON),
    ):
        detail = problem(await api.post("batch", content=content, headers=headers), 413, "too-large")
        assert detail == "the batch has 10001 messages; at most 10000 are taken"


async def test_the_bounds_of_a_batch(node: Node, api: httpx2.AsyncClient) -> None:
    most = node.settings.max_batch_bytes
    assert most == 4 << 20
    pattern = unique("bound")
    megabyte = body_of(pattern, "x" * 1_048_000)
    filled = b"\n".join([megabyte] * 4)
    filled += b"\n" * (most - len(filled))
    response = await api.post("batch", content=filled, headers=NDJSON)
    assert response.json()["queued"] == 4
    problem(await api.post("batch", content=filled + b"\n", headers=NDJSON), 413, "too-large")
    over = [body_of(pattern, "x" * node.settings.max_payload_bytes), body_of(pattern, 1)]
    for content, headers in ((b'{"messages":[' + b",".join(over) + b"]}", JSON), (b"\n".join(over), NDJSON)):
        first, second = (await api.post("batch", content=content, headers=headers)).json()["results"]
        assert (first["code"], first["index"], second["status"]) == ("too-large", 0, "queued")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad-json"),
        (b'{"messages": [1,]}', "bad-json"),
        (b'{"messages": ["\xff"]}', "bad-json"),
        (b'{"messages": ' + b"[" * 9_999 + b"]" * 9_999 + b"}", "bad-json"),
        (b"[]", "bad-request"),
        (b"{}", "bad-request"),
        (b'{"messages": null}', "bad-request"),
        (b'{"messages": {}}', "bad-request"),
    ],
)
async def test_bodies_that_are_not_batches(api: httpx2.AsyncClient, body: bytes, code: str) -> None:
    assert problem(await api.post("batch", content=body, headers=JSON), 400, code)


async def test_an_empty_batch_is_answered(api: httpx2.AsyncClient) -> None:
    empty = {"results": [], "queued": 0, "failed": 0}
    assert (await api.post("batch", content=b'{"messages": []}', headers=JSON)).json() == empty
    assert (await api.post("batch", content=b"\n \n", headers=NDJSON)).json() == empty
    assert (await api.post("batch", content=b"", headers=NDJSON)).json() == empty


# ---- without a broker, and on the way out


async def test_without_a_broker_publishing_answers_503_until_it_is_back(
    valkey: Valkey, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realizehit.http.problems.LOG_INTERVAL", 3600.0)
    async with serve(Settings(port=0, redis=valkey.url, role="api", publish_timeout=2)) as node, http(node) as api:
        assert (await api.post("", content=HELLO, headers=JSON)).status_code == 200
        assert (await api.get("readyz")).status_code == 200
        valkey.kill()
        async with asyncio.timeout(20):
            while node.bus.state is not BusState.DOWN:
                await asyncio.sleep(0.01)
        batch = b'{"messages": [' + HELLO + b', {"pattern": {}}]}'
        for _ in range(2):
            for answer in (
                await api.post("", content=HELLO, headers=JSON),
                await api.post("batch", content=batch, headers=JSON),
                await api.get("readyz"),
            ):
                assert problem(answer, 503, "unavailable") == "the broker cannot be reached; try again later"
            assert (await api.get("healthz")).text == "ok\n"
        said = [record.getMessage() for record in caplog.records if record.name == "realizehit.http.problems"]
        assert len(said) == 1  # not for each request
        assert valkey.url in said[0]
        assert figures(await api.get("metrics"))["realizehit_broker_up"] == 0
        # What the publisher did wrong is still told, since waiting does not mend it.
        problem(await api.post("", content=b"{}", headers=JSON), 400, "bad-request")
        valkey.start()
        assert (await api.post("", content=HELLO, headers=JSON)).status_code == 200
        assert (await api.get("readyz")).text == "ready\n"
        after = figures(await api.get("metrics"))
        assert after["realizehit_broker_up"] == 1
        assert after["realizehit_broker_reconnects_total"] == 1
        assert after['realizehit_publications_total{outcome="unavailable"}'] == 4
        assert after['realizehit_publications_total{outcome="invalid"}'] == 3
        assert after['realizehit_publications_total{outcome="queued"}'] == 2
        assert after["realizehit_publish_seconds_count"] == 6  # all but the one that was wrong


async def test_a_publication_with_an_unclear_outcome_has_no_retry_after(valkey: Valkey) -> None:
    async with serve(Settings(port=0, redis=valkey.url, role="api", publish_timeout=0.3)) as node, http(node) as api:
        assert (await api.post("", content=HELLO, headers=JSON)).status_code == 200
        valkey.pause()
        try:
            response = await api.post("", content=HELLO, headers=JSON)
        finally:
            valkey.resume()
        assert response.status_code == 503
        assert response.json()["code"] == "unavailable"
        assert response.json()["detail"].endswith("it may have taken the message")
        assert "retry-after" not in response.headers


async def test_a_broker_that_says_no_is_a_bad_gateway(valkey: Valkey) -> None:
    valkey.command("ACL", "SETUSER", "ann", "on", ">s3cret", "resetchannels", "&open:*", "+@all")
    url = valkey.url.replace("unix://", "unix://ann:s3cret@")
    async with serve(Settings(port=0, redis=url, role="api", wildcards=False)) as node, http(node) as api:
        detail = problem(await api.post("", content=body_of({"closed": 1}, 1), headers=JSON), 502, "broker-refused")
        assert "NOPERM" in detail
        assert "s3cret" not in detail
        assert (await api.post("", content=body_of({"open": 1}, 1), headers=JSON)).status_code == 200
        messages = [{"pattern": {"open": 1}, "payload": 1}, {"pattern": {"closed": 1}, "payload": 1}]
        answer = (await api.post("batch", content=orjson.dumps({"messages": messages}), headers=JSON)).json()
        assert [result.get("code") for result in answer["results"]] == [None, "broker-refused"]
        shown = figures(await api.get("metrics"))
        assert shown['realizehit_publications_total{outcome="refused"}'] == 2
        assert shown["realizehit_publish_seconds_count"] == 3


async def test_a_draining_server_is_not_ready_and_still_publishes(node: Node, api: httpx2.AsyncClient) -> None:
    assert (await api.get("readyz")).status_code == 200
    node.draining = True
    assert problem(await api.get("readyz"), 503, "unavailable") == "the server is going away"
    assert (await api.get("healthz")).status_code == 200
    # What is on its way shall not be lost; whoever balances the load has been told to send no more.
    assert (await api.post("", content=HELLO, headers=JSON)).status_code == 200


# ---- metrics


def figures(response: httpx2.Response) -> dict[str, float]:
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return dict(samples(response.text))


def samples(text: str) -> Iterator[tuple[str, float]]:
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            yield name, float(value)


async def test_metrics_count_the_events(shared_valkey: Valkey) -> None:
    async with (
        serve(Settings(port=0, redis=shared_valkey.url)) as node,
        http(node) as api,
        publisher(shared_valkey) as redis,
    ):
        at_rest = figures(await api.get("metrics"))
        assert at_rest["realizehit_connections"] == 0
        assert at_rest["realizehit_broker_up"] == 1
        shared, own = unique("metrics"), unique("metrics")
        clients = [await RawClient.connect(node.ws_url) for _ in range(3)]
        for ws in clients:
            ws.act(id="s", act="sub", pat=shared)
        clients[0].act(id="s", act="sub", pat=own)
        for ws, replies in zip(clients, (2, 1, 1), strict=True):
            await ws.wait_for(replies)
        payload = "x" * 50
        for pattern in (shared, own, {"nobody": "here"}):
            assert (await api.post("", content=body_of(pattern, payload), headers=JSON)).status_code == 200
        messages = [{"pattern": shared, "payload": payload}] * 5 + [{"pattern": {}, "payload": 1}]
        assert (await api.post("batch", content=orjson.dumps({"messages": messages}), headers=JSON)).status_code == 200
        assert (await api.post("", content=b"{", headers=JSON)).status_code == 400
        await redis.publish(Pattern(shared).channel, b'"\xff"')
        await redis.publish(Pattern(shared).channel, b'"last"')
        for ws, texts in zip(clients, (2 + 1 + 7, 1 + 7, 1 + 7), strict=True):
            await ws.wait_for(texts)
        shown = figures(await api.get("metrics"))
        assert shown["realizehit_connections"] == 3
        assert shown["realizehit_connects_total"] == 3
        assert shown["realizehit_subscriptions"] == 4
        assert shown["realizehit_channels"] == 2
        assert shown["realizehit_messages_total"] == 1 + 1 + 5 + 2
        assert shown["realizehit_deliveries_total"] == 3 * (1 + 5 + 1) + 1
        assert shown['realizehit_dropped_total{reason="invalid_utf8"}'] == 1
        assert shown['realizehit_dropped_total{reason="no_subscriber"}'] == 0
        assert shown['realizehit_disconnects_total{reason="slow_consumer"}'] == 0
        # Frames of a two-byte head, what the replies took, and the handshakes.
        texts = sum(2 + len(text) for ws in clients for text in ws.texts)
        assert texts < shown["realizehit_sent_bytes_total"] < texts + 3 * 200
        assert shown["realizehit_broker_received_bytes_total"] > 8 * 50
        assert shown["realizehit_broker_reconnects_total"] == 0
        assert shown['realizehit_publications_total{outcome="queued"}'] == 8
        assert shown['realizehit_publications_total{outcome="invalid"}'] == 2
        assert shown['realizehit_publications_total{outcome="refused"}'] == 0
        assert shown["realizehit_publish_seconds_count"] == 4
        assert 0 < shown["realizehit_publish_seconds_sum"] < 60
        assert shown['realizehit_publish_seconds_bucket{le="+Inf"}'] == 4
        for ws in clients:
            ws.transport.close()
        async with asyncio.timeout(20):
            while (shown := figures(await api.get("metrics")))["realizehit_connections"]:
                await asyncio.sleep(0.01)
        assert shown["realizehit_subscriptions"] == shown["realizehit_channels"] == 0
        assert shown["realizehit_connects_total"] == 3


async def test_metrics_tell_of_a_slow_client(shared_valkey: Valkey) -> None:
    settings = Settings(port=0, redis=shared_valkey.url, max_queue_bytes=100_000)
    async with serve(settings) as node, http(node) as api:
        pattern = unique("slow")
        async with subscribed(node, pattern) as ws:
            ws.transport.pause_reading()
            shown: dict[str, float] = {}
            async with asyncio.timeout(20):
                while not shown.get('realizehit_disconnects_total{reason="slow_consumer"}'):
                    await api.post("", content=body_of(pattern, "x" * 40_000), headers=JSON)
                    shown = figures(await api.get("metrics"))
            assert shown['realizehit_disconnects_total{reason="slow_consumer"}'] == 1
            assert shown["realizehit_blocked_total"] > 0


async def test_a_publisher_has_no_figures_of_clients(shared_valkey: Valkey) -> None:
    async with serve(Settings(port=0, redis=shared_valkey.url, role="api")) as node, http(node) as api:
        shown = figures(await api.get("metrics"))
        assert "realizehit_connections" not in shown
        assert shown["realizehit_broker_up"] == 1


# ---- in other applications


@asynccontextmanager
async def under_uvicorn(app: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """Serve an application with uvicorn as it comes."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off", ws="none"))
    server.capture_signals = nullcontext  # type: ignore[method-assign,assignment]  # signals are pytest's affair
    task = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(20):
            while not server.started:
                await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        await task


async def test_under_plain_uvicorn_and_mounted_in_another_application(node: Node, shared_valkey: Valkey) -> None:
    bus = open_bus(shared_valkey.url)
    await bus.start(None)
    try:
        alone = create_app(bus)
        mounted = Starlette(routes=[Mount("/realtime", create_app(bus))])
        async with client(node.ws_url) as ws:
            for app, base in ((alone, ""), (mounted, "/realtime")):
                pattern = unique("mounted")
                await ws.send(orjson.dumps({"id": "s", "act": "sub", "pat": pattern}).decode())
                await ws.recv()
                async with under_uvicorn(app) as api:
                    response = await api.post(f"{base}/", content=body_of(pattern, base), headers=JSON)
                    assert response.status_code == 200, response.text
                    assert await ws.recv() == f'{Pattern(pattern).id}?"{base}"'
                    messages = {"messages": [{"pattern": pattern, "payload": "batch"}]}
                    response = await api.post(f"{base}/batch", content=orjson.dumps(messages), headers=JSON)
                    assert response.json()["queued"] == 1
                    assert await ws.recv() == f'{Pattern(pattern).id}?"batch"'
                    assert (await api.get(f"{base}/readyz")).text == "ready\n"
                    assert "realizehit_publish_seconds_count 2.0" in (await api.get(f"{base}/metrics")).text
                    problem(await api.post(f"{base}/nothing", content=HELLO, headers=JSON), 404)
                    problem(await api.get(f"{base}/"), 405)
                    problem(await api.post(f"{base}/", content=b"{", headers=JSON), 400, "bad-json")
    finally:
        await bus.close()


async def test_middleware_that_is_added_sees_publications(shared_valkey: Valkey) -> None:
    bus = open_bus(shared_valkey.url)
    await bus.start(None)
    try:
        app = create_app(bus)
        app.user_middleware.append(Middleware(GZipMiddleware, minimum_size=1))
        async with under_uvicorn(app) as api:
            response = await api.post("/", content=HELLO, headers={**JSON, "Accept-Encoding": "gzip"})
            assert response.headers["content-encoding"] == "gzip"
    finally:
        await bus.close()


async def test_a_publisher_that_disconnects_early_gets_no_answer(node: Node, api: httpx2.AsyncClient) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(node.api_url.rsplit(":", 1)[1].rstrip("/")))
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
    await writer.drain()
    writer.close()
    assert await reader.read() == b""
    assert (await api.post("", content=HELLO, headers=JSON)).status_code == 200
    shown = figures(await api.get("metrics"))
    assert shown['realizehit_publications_total{outcome="invalid"}'] == 0


def test_every_code_that_http_can_carry_has_a_status() -> None:
    from realizehit.http.problems import _STATUS

    assert set(_STATUS) == {
        ErrorCode.NOT_AUTHENTICATED,
        ErrorCode.FORBIDDEN,
        ErrorCode.RATE_LIMITED,
        ErrorCode.TOO_LARGE,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        ErrorCode.BROKER_REFUSED,
        ErrorCode.NO_HISTORY,
        ErrorCode.NO_PRESENCE,
        ErrorCode.UNAVAILABLE,
    }


async def test_a_publication_is_logged_the_same_on_both_ways(
    shared_valkey: Valkey, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="uvicorn.access")
    settings = Settings(port=0, redis=shared_valkey.url, access_log=True, prefix="/a/")
    lines = []
    for directly in (True, False):
        if not directly:
            monkeypatch.setattr(Application, "direct", {})
        caplog.clear()
        async with serve(settings) as node, httpx2.AsyncClient(base_url=node.api_url, timeout=20) as client:
            assert (await client.post("", content=HELLO, headers=JSON)).status_code == 200
            assert (await client.post("", content=b"{", headers=JSON)).status_code == 400
        lines.append(
            [record.getMessage().partition(" - ")[2] for record in caplog.records if record.name == ACCESS_LOGGER.name]
        )
    assert lines[0] == lines[1] == [f'"POST /a/ HTTP/1.1" {status}' for status in (200, 400)]
