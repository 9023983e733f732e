"""A polling session belongs to the origin, identity and token that opened it, and its id stays out of the logs."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import httpx2
import jwt
import orjson
import pytest
from websockets.exceptions import InvalidStatus

from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.support.valkey import Valkey
from tests.support.wire import client, publisher, unique

SECRET = "s" * 32
EVIL, GOOD = {"Origin": "http://evil.example"}, {"Origin": "https://app.example"}
NULL = {"Origin": "null"}
NO_CORS = {"Sec-Fetch-Site": "cross-site"}
BY_HEADER = {"identify": ("user=X-User",), "trusted_proxies": ("127.0.0.1",)}
BY_TOKEN = {"jwt_secret": SECRET, "jwt_algorithms": ("HS256",), "jwt_claims": ("user=sub",)}
ANY, NAMED = {"allow_origin": ("*",)}, {"allow_origin": ("https://app.example",)}


def token(user: str) -> str:
    return jwt.encode({"sub": user, "exp": int(time.time() + 3600)}, SECRET)


def bearer(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS[user]}"}


TOKENS = {user: token(user) for user in ("alice", "bob")}
ALICE = {"X-User": "alice"}


class Page:
    """Sends the requests of a polling client, with headers and a query that may change between them."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self.http = http
        self.sid = ""

    def url(self, query: str = "", sid: str = "") -> str:
        return f"/ws?EIO=4&transport=polling{query}" + (f"&sid={sid or self.sid}" if sid or self.sid else "")

    async def open(self, headers: dict[str, str], query: str = "") -> None:
        answer = await self.http.get(self.url(query), headers=headers)
        assert answer.status_code == 200, answer.text
        self.sid = orjson.loads(answer.text[1:])["sid"]

    async def get(self, headers: dict[str, str], query: str = "") -> httpx2.Response:
        return await self.http.get(self.url(query), headers=headers)

    async def post(self, packet: str, headers: dict[str, str], query: str = "") -> httpx2.Response:
        return await self.http.post(
            self.url(query), content=packet, headers={"Content-Type": "text/plain;charset=UTF-8", **headers}
        )


@asynccontextmanager
async def page(valkey: Valkey, **options: Any) -> AsyncIterator[tuple[Node, Page]]:
    async with serve(Settings(port=0, redis=valkey.url, **options)) as node:
        base = node.ws_url.replace("ws", "http", 1).removesuffix("/ws")
        async with httpx2.AsyncClient(base_url=base, timeout=15) as http:
            yield node, Page(http)


class Case(NamedTuple):
    options: dict[str, Any]
    opened: dict[str, str]
    asked: dict[str, str]
    opened_query: str = ""
    asked_query: str = ""
    reason: str = "session"


STRANGERS = [
    Case(ANY, {}, EVIL),
    Case(ANY, GOOD, EVIL),
    Case(ANY, GOOD, {}),
    Case(ANY, GOOD, {"Origin": "http://app.example"}),
    Case(ANY, GOOD, {"Origin": "https://app.example:8443"}),
    Case(ANY, GOOD, NULL),
    Case(ANY, NULL, EVIL),
    Case(ANY, {}, NO_CORS),
    Case(ANY, GOOD, NO_CORS),
    Case(NAMED, {}, GOOD),
    Case(NAMED, GOOD, {}),
    Case({}, {}, EVIL, reason="origin"),
    Case({}, {}, NO_CORS, reason="origin"),
    Case({}, {}, {"Host": "evil.example"}, reason="host"),
    Case(BY_HEADER, ALICE, {}),
    Case(BY_HEADER, ALICE, {"X-User": "bob"}),
    Case(BY_HEADER, {}, ALICE),
    Case(BY_HEADER, ALICE, {"X-User": "*"}, reason="bad_identity"),
    Case(BY_TOKEN, bearer("alice"), {}),
    Case(BY_TOKEN, bearer("alice"), bearer("bob")),
    Case(BY_TOKEN, {}, bearer("alice")),
    Case(BY_TOKEN, bearer("alice"), {"Authorization": "Bearer x"}),
    Case(BY_TOKEN, {}, {}, f"&token={TOKENS['alice']}", ""),
    Case(BY_TOKEN, {}, {}, f"&token={TOKENS['alice']}", f"&token={TOKENS['bob']}"),
]


@pytest.mark.parametrize("case", STRANGERS)
async def test_a_session_id_alone_gives_no_access(shared_valkey: Valkey, case: Case) -> None:
    pattern = unique("session")
    async with page(shared_valkey, **case.options) as (node, asked), publisher(shared_valkey) as broker:
        await asked.open(case.opened, case.opened_query)
        sub = "4" + orjson.dumps({"id": 1, "act": "sub", "pat": pattern}).decode()
        assert (await asked.post(sub, case.opened, case.opened_query)).status_code == 200
        subscribed = (await asked.get(case.opened, case.opened_query)).text
        channel = "|".join(f"{key}:{value}" for key, value in sorted(pattern.items()))
        await broker.publish(channel, b'"for its owner"')

        status = 400 if case.reason == "bad_identity" else 403
        before = node.guard.gate.refusals.counts[case.reason]
        answers = [
            await asked.get(case.asked, case.asked_query),
            await asked.post("1", case.asked, case.asked_query),
            await asked.http.get(asked.url(case.asked_query).replace("EIO=4", "EIO=3"), headers=case.asked),
        ]
        for answer in answers:
            assert answer.status_code == status
            assert answer.json()["code"] == 4
            assert "owner" not in answer.text
            assert asked.sid not in answer.text
        url = f"{node.ws_url}?EIO=4&transport=websocket&sid={asked.sid}{case.asked_query}"
        with pytest.raises(InvalidStatus) as refused:
            # A Host goes into the address, since it must not stand in a request twice.
            asked_as = {name: value for name, value in case.asked.items() if name != "Host"}
            address = urlsplit(url)._replace(netloc=case.asked.get("Host", urlsplit(url).netloc)).geturl()
            place = {"host": urlsplit(url).hostname, "port": urlsplit(url).port}
            async with client(address, additional_headers=asked_as, **place):
                pass
        assert refused.value.response.status_code == status
        assert orjson.loads(refused.value.response.body)["code"] == 4
        assert node.guard.gate.refusals.counts[case.reason] == before + 4

        # The session goes on, with all that was sent to it.
        received = (await asked.get(case.opened, case.opened_query)).text
        assert subscribed.startswith("4")
        assert "for its owner" in received
        assert node.engineio is not None
        assert node.engineio.sessions == 1


OWNERS = [
    Case({}, {}, {}),
    Case(ANY, {}, {"Origin": "http://{own}"}),
    Case({}, {"Origin": "http://{own}"}, {}),
    Case({}, {}, {"Origin": "http://{own}", "Sec-Fetch-Site": "same-origin"}),
    Case(ANY, EVIL, EVIL),
    Case(ANY, NULL, NULL),
    Case(NAMED, GOOD, {"Origin": "HTTPS://App.example:443"}),
    Case(BY_HEADER, ALICE, ALICE),
    Case(BY_TOKEN, bearer("alice"), bearer("alice")),
    Case(BY_TOKEN, bearer("alice"), {}, "", f"&token={TOKENS['alice']}"),
    Case({}, bearer("alice"), bearer("bob")),  # where no tokens are taken they say nothing
]


@pytest.mark.parametrize("case", OWNERS)
async def test_the_owner_continues_by_get_post_and_upgrade(shared_valkey: Valkey, case: Case) -> None:
    async with page(shared_valkey, **case.options) as (node, asked):
        own = str(asked.http.base_url).removeprefix("http://").rstrip("/")
        opened, later = (
            {name: value.format(own=own) for name, value in headers.items()} for headers in (case.opened, case.asked)
        )
        await asked.open(opened, case.opened_query)
        assert (await asked.post('4{"id":1,"act":"ping"}', later, case.asked_query)).text == "ok"
        assert "pong" in (await asked.get(later, case.asked_query)).text
        url = f"{node.ws_url}?EIO=4&transport=websocket&sid={asked.sid}{case.asked_query}"
        async with client(url, additional_headers=later) as ws:
            await ws.send("2probe")
            assert await ws.recv() == "3probe"
        assert node.guard.gate.refusals.counts["session"] == 0


async def test_a_renewed_token_does_not_change_the_owner(shared_valkey: Valkey) -> None:
    async with page(shared_valkey, **BY_TOKEN) as (_, asked):
        await asked.open(bearer("alice"))
        auth = '4{"id":1,"act":"auth","token":"' + TOKENS["bob"] + '"}'
        assert (await asked.post(auth, bearer("alice"))).status_code == 200
        assert '"ret":"ok"' in (await asked.get(bearer("alice"))).text
        assert (await asked.get(bearer("bob"))).status_code == 403


async def test_an_unknown_id_is_an_error_of_the_protocol(shared_valkey: Valkey) -> None:
    async with page(shared_valkey) as (_, asked):
        assert (await asked.http.get(asked.url(sid="guessed"))).json() == {"code": 1, "message": "Session ID unknown"}
        assert (await asked.http.get(asked.url(sid="guessed"), headers=EVIL)).status_code == 403


@pytest.mark.parametrize("name", ["sid", "s%69d", "S%49D"])
async def test_session_ids_are_masked_in_the_access_log(
    shared_valkey: Valkey, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("uvicorn.access").disabled = False
    async with page(shared_valkey, access_log=True) as (node, asked):
        await asked.open({})
        await asked.post('4{"id":1,"act":"ping"}', {})
        answer = await asked.http.get(f"/ws?EIO=4&transport=polling&{name}={quote(asked.sid)}&x=1")
        assert answer.status_code in (200, 400)
        with pytest.raises(InvalidStatus):
            async with client(f"{node.ws_url}?EIO=3&transport=websocket&sid={asked.sid}", additional_headers=EVIL):
                pass
    clients = ("httpx", "httpcore", "websockets.client")  # they log on the test's own behalf
    lines = [record.getMessage() for record in caplog.records if not record.name.startswith(clients)]
    assert any("***" in line for line in lines)
    assert not [line for line in lines if asked.sid in line]
