"""One client's actions over a real engine and hub: each reply and each error code of the wire."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest

from realizehit.access.connected_clients import Opening
from realizehit.access.gate import Gate
from realizehit.access.identity import identity_of
from realizehit.node.hub import Hub
from realizehit.pattern import Pattern
from realizehit.settings import Settings
from realizehit.transports.engineio.packet_session import PacketSession
from realizehit.transports.guard import Guard
from realizehit.transports.intake import Intake
from realizehit.transports.session import ActionSession, Session
from tests.support.engines import BINARY, CLOSE, TEXT, Bench, Peer, bench
from tests.support.scripted_bus import ScriptedBus

NEWS = {"kind": "news", "channel": "CNN"}
CHANNEL = b"channel:CNN|kind:news"
ID = "3bf1d979"


class Client:
    """A connection to the session, and what it is told."""

    def __init__(self, b: Bench, bus: ScriptedBus, hub: Hub, guard: Guard | None, transport: Intake) -> None:
        self.bench, self.bus, self.hub, self.guard = b, bus, hub, guard
        self.transport = transport
        self.conn, self.peer = self.connect()

    def connect(self) -> tuple[int, Peer]:
        self.bench.handler = self.transport  # type: ignore[assignment]
        return self.bench.connect()

    def say(self, text: str | bytes) -> list[Any]:
        self.peer.send(TEXT, text.encode() if isinstance(text, str) else text)
        self.bench.poll()
        return self.told()

    def act(self, **action: Any) -> list[Any]:
        return self.say(orjson.dumps(action))

    def told(self) -> list[Any]:
        return [orjson.loads(text) for text in self.peer.texts()]


@contextmanager
def client(
    *,
    confirmed: bytes | None = CHANNEL,
    settings: Settings | None = None,
    wildcards: bool = False,
    engineio: int | None = None,
    **options: Any,
) -> Iterator[Client]:
    """A client of a node whose broker has `confirmed` in force for another client already.

    Args:
        confirmed: a channel.
        settings: what the gate knows; ``None`` for no gate.
        wildcards: whether subscriptions may have them.
        engineio: the revision of Engine.IO that the session's packets are wrapped in.
        options: of the hub.
    """
    with bench() as b:
        bus = ScriptedBus()
        hub = Hub(b.engine, bus, clock=lambda: 0.0, call_soon=b.loop.soon.append, **options)
        bus.listen(hub)
        if confirmed is not None:
            bus.wanted.add(confirmed)
            bus.in_force.add(confirmed)
        guard = None if settings is None else Guard(b.engine, hub, Gate(settings, clock=lambda: 0.0))
        session: Session = ActionSession(b.engine, hub, guard, wildcards=wildcards)
        if engineio is not None:
            session = PacketSession(b.engine, session, engineio, lambda _upgrade, _conn: None)
        yield Client(b, bus, hub, guard, Intake(b.engine, session, max_message=16384))


def test_sub_unsub_ping() -> None:
    with client() as c:
        assert c.act(id="a1", act="sub", pat=NEWS) == [{"id": "a1", "ret": ID}]
        assert c.act(id="a2", act="sub", pat=dict(reversed(NEWS.items()))) == [{"id": "a2", "ret": ID}]
        c.bench.publish((CHANNEL, b'{"title":"hello"}'))
        assert c.peer.texts() == [ID.encode() + b'?{"title":"hello"}']
        assert c.act(id=3, act="unsub", pat=NEWS) == [{"id": 3, "ret": ID}]
        c.bench.publish((CHANNEL, b"1"))
        assert c.act(id="a3", act="ping") == [{"id": "a3", "ret": "pong"}]
        assert c.act(id="a3", act="ping", pat="whatever") == [{"id": "a3", "ret": "pong"}]


def test_only_the_reply_to_sub_waits_for_the_broker() -> None:
    with client(confirmed=None) as c:
        assert c.act(id="s", act="sub", pat=NEWS) == []
        assert c.act(id="p", act="ping") == [{"id": "p", "ret": "pong"}]
        c.bus.confirm(CHANNEL)
        c.bench.loop.run()
        assert c.told() == [{"id": "s", "ret": ID}]


def test_unsub_while_sub_waits_answers_both_in_order() -> None:
    with client(confirmed=None) as c:
        c.act(id="s", act="sub", pat=NEWS)
        assert c.act(id="u", act="unsub", pat=NEWS) == [{"id": "s", "ret": ID}, {"id": "u", "ret": ID}]
        assert c.bus.wanted == set()


@pytest.mark.parametrize("act", ["sub", "unsub"])
@pytest.mark.parametrize(
    ("pattern", "code", "said"),
    [
        (None, "bad-pattern", "not null"),
        ({}, "bad-pattern", "at least one filter"),
        ([], "bad-pattern", "not a list"),
        ({"a": None}, "bad-pattern", "the value of 'a' is null"),
        ({"a": "v" * 257}, "bad-pattern", "256 bytes"),
        ({"a": "*"}, "wildcard-unsupported", "'*'; wildcards are off on this server"),
        ({"*": "*"}, "wildcard-unsupported", "'*'; wildcards are off on this server"),
    ],
)
def test_invalid_patterns(act: str, pattern: Any, code: str, said: str) -> None:
    with client() as c:
        [answer] = c.act(id="a1", act=act, pat=pattern)
        assert (answer["id"], answer["code"]) == ("a1", code)
        assert said in answer["err"]
        assert c.bench.engine.stats()["subscriptions"] == 0
        assert c.bus.calls == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("nonsense", "bad-json"),
        ("", "bad-json"),
        ("[]", "bad-request"),
        ('{"id":"a1"}', "bad-request"),
        ('{"id":"a1","act":"publish"}', "unknown-action"),
        ('{"id":"a1","act":"SUB","pat":{"a":1}}', "unknown-action"),
        ('{"id":"a1","act":""}', "unknown-action"),
        ('{"id":"a1","act":"unsub","pat":{"a":1}}', "not-subscribed"),
    ],
)
def test_refused_actions_change_nothing(text: str, code: str) -> None:
    with client() as c:
        [answer] = c.say(text)
        assert set(answer) == {"id", "err", "code"}
        assert answer["code"] == code
        assert answer["id"] == "a1" if '"id":"a1"' in text else re.fullmatch("[0-9a-f]{8}", answer["id"])
        assert c.bus.calls == []
        assert c.act(id="a1", act="ping") == [{"id": "a1", "ret": "pong"}]


def test_an_unknown_action_is_shown_cut_short() -> None:
    with client() as c:
        [answer] = c.act(id=1, act="x" * 10_000)
        assert "'" + "x" * 32 + "'" in answer["err"]
        assert len(answer["err"]) < 100


def test_actions_without_an_id_get_one() -> None:
    with client() as c:
        answers = c.act(act="ping") + c.act(act="sub", pat=NEWS) + c.act(id=None, act="unsub", pat=NEWS) + c.say("{")
        assert [answer.get("ret") or answer["code"] for answer in answers] == ["pong", ID, ID, "bad-json"]
        assert all(re.fullmatch("[0-9a-f]{8}", answer["id"]) for answer in answers)
        assert len({answer["id"] for answer in answers}) == 4


@pytest.mark.parametrize("request_id", [0, "", -5, "é", "x" * 128, 2**64 - 1])
def test_ids_are_returned_unchanged(request_id: Any) -> None:
    with client() as c:
        assert c.act(id=request_id, act="ping") == [{"id": request_id, "ret": "pong"}]


def test_two_patterns_with_one_id() -> None:
    one, two = Pattern(user=25442), Pattern(user=28322)
    with client(confirmed=one.channel.encode()) as c:
        assert c.act(id=1, act="sub", pat=dict(one)) == [{"id": 1, "ret": one.id}]
        [answer] = c.act(id=2, act="sub", pat=dict(two))
        assert answer["code"] == "id-collision"
        assert c.bench.engine.subscriptions(c.conn) == [one.channel.encode()]
        [answer] = c.act(id=3, act="unsub", pat=dict(two))
        assert answer["code"] == "not-subscribed"


def test_too_many_subscriptions() -> None:
    with client(max_subscriptions=1) as c:
        c.act(id=1, act="sub", pat=NEWS)
        [answer] = c.act(id=2, act="sub", pat={"a": 1})
        assert answer["code"] == "too-many-subscriptions"
        assert c.act(id=3, act="sub", pat=NEWS) == [{"id": 3, "ret": ID}]


def test_forbidden_and_unavailable() -> None:
    with client(confirmed=None, subscribe_timeout=5.0) as c:
        c.act(id=1, act="sub", pat=NEWS)
        c.act(id=2, act="sub", pat={"a": 1})
        c.bus.refuse(CHANNEL)
        c.hub.tick(5.0)
        c.bench.loop.run()
        assert [(answer["id"], answer["code"]) for answer in c.told()] == [(1, "forbidden"), (2, "unavailable")]
        assert c.bench.engine.stats()["subscriptions"] == 0


def test_a_binary_message_closes_with_1003() -> None:
    with client() as c:
        c.act(id=1, act="sub", pat=NEWS)
        c.peer.send(BINARY, b"\x00")
        c.bench.poll()
        [(opcode, payload)] = c.peer.frames()
        assert (opcode, payload[:2]) == (CLOSE, struct.pack(">H", 1003))
        assert len(payload) > 10
        assert c.bench.engine.stats()["subscriptions"] == 0


WILDCARDS = [
    ({"kind": "news", "channel": "*"}, b"channel:*|kind:news"),
    ({"user": 42, "*": "*"}, b"*:*|user:42"),
    ({"*": "*"}, b"*:*"),
]


@pytest.mark.parametrize(("pattern", "channel"), WILDCARDS)
@pytest.mark.parametrize("engineio", [None, 3, 4])
def test_a_wildcard_is_subscribed_like_any_other_channel(
    pattern: dict[str, Any], channel: bytes, engineio: int | None
) -> None:
    prefix = b"" if engineio is None else b"4"
    with client(confirmed=None, wildcards=True, engineio=engineio) as c:
        ret = Pattern(pattern).id
        assert c.say(prefix + orjson.dumps({"id": 1, "act": "sub", "pat": pattern})) == []
        assert c.bus.wanted == {channel}
        assert c.bench.engine.subscriptions(c.conn) == [channel]
        c.bus.confirm(channel)
        c.bench.loop.run()
        assert c.told() == [{"id": 1, "ret": ret}]
        assert c.say(prefix + orjson.dumps({"id": 2, "act": "unsub", "pat": pattern})) == [{"id": 2, "ret": ret}]
        assert c.bus.wanted == set()


def test_the_gate_decides_about_wildcards_and_checks_them_again() -> None:
    settings = Settings(identify=("user=X-User",), trusted_proxies=("10.0.0.0/8",))
    with client(confirmed=b"*:*|user:42", wildcards=True, settings=settings) as c:
        guard = c.guard
        assert guard is not None
        guard.on_connected(c.conn, Opening(identity_of({"user": 42}, "the test")))
        assert c.act(id=1, act="sub", pat={"user": 42, "*": "*"}) == [
            {"id": 1, "ret": Pattern({"user": 42, "*": "*"}).id}
        ]
        for pattern in ({"*": "*"}, {"user": "*"}, {"user": 43, "*": "*"}, {"kind": "news", "*": "*"}):
            [answer] = c.act(id=2, act="sub", pat=pattern)
            assert answer["code"] == "forbidden", pattern
        assert guard.gate.refusals.counts["not_granted"] == 4
        guard.gate.connected.on_disconnected(c.conn)
        assert guard.recheck(c.conn) == 1
        c.bench.loop.run()
        [event] = c.told()
        assert (event["evt"], event["ids"]) == ("unsubscribed", [Pattern({"user": 42, "*": "*"}).id])
        assert c.bench.engine.subscriptions(c.conn) == []


def test_a_wildcard_with_the_reserved_key_is_refused() -> None:
    with client(confirmed=None, wildcards=True) as c:
        for pattern in ({"realizehit": "*"}, {"realizehit": "stats", "*": "*"}):
            [answer] = c.act(id=1, act="sub", pat=pattern)
            assert answer["code"] == "forbidden"
        assert c.bus.calls == []


def test_a_closed_connection_has_no_subscriptions() -> None:
    with client() as c:
        c.act(id=1, act="sub", pat=NEWS)
        c.act(id=2, act="sub", pat={"a": 1})  # not confirmed
        c.peer.send(CLOSE, struct.pack(">H", 1000))
        c.bench.poll()
        assert c.bus.wanted == set()
        assert c.bench.engine.stats()["subscriptions"] == 0
