"""Plain subs that the engine reads and carries out, beside the same subs in Python."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from realizehit import _fanout
from realizehit.access.connected_clients import Opening
from realizehit.access.gate import Gate
from realizehit.access.identity import Identity
from realizehit.node.hub import Hub
from realizehit.settings import Settings
from realizehit.transports.guard import Guard
from realizehit.transports.intake import Intake
from realizehit.transports.session import ActionSession
from tests.fuzz.plain_subs import one
from tests.support.engines import TEXT, bench
from tests.support.scripted_bus import ScriptedBus

CLIENTS, MOST, BURST = 3, 3, 12
GUARDED = Settings(identify=("user=X-User",), trusted_proxies=("127.0.0.1",))
CHANNELS = [b"a:1", b"a:2", b"a:%C3%A9|b:x", b"user:25442", b"user:28322"]  # the last two have the same id

texts = st.text(max_size=6) | st.sampled_from(["*", "", "a b", "\\", '"', "\x7f", "x" * 200, "realizehit"])
numbers = st.integers(-3, 10**17) | st.floats(allow_nan=False) | st.booleans() | st.none()
actions = st.fixed_dictionaries(
    {},
    optional={
        "id": texts | numbers,
        "act": st.just("sub") | st.sampled_from(["unsub", "ping", "", 1]),
        "pat": st.dictionaries(texts, texts | numbers, max_size=3) | texts,
        "since": st.none() | st.just("k3f09a2c.17"),
    },
)


@given(actions, st.sampled_from([b"", b" "]), st.integers(0, 60), st.binary(max_size=1))
def test_a_plain_sub_is_the_same_by_both_readings(action: Any, space: bytes, place: int, other: bytes) -> None:
    text = orjson.dumps(action).replace(b":", b":" + space).replace(b",", b"," + space)
    one(text)
    one(text[:place] + other + text[place + 1 :])


@given(
    st.integers(0, 10**15 - 1) | st.text("ab c:|é", max_size=30),
    st.dictionaries(
        st.text("kéy", min_size=1), st.text("v |", min_size=1) | st.integers(0, 10**9), min_size=1, max_size=16
    ),
)
def test_usual_subs_are_plain(request_id: Any, pattern: dict[str, Any]) -> None:
    text = orjson.dumps({"id": request_id, "act": "sub", "pat": pattern})
    if all(len(_encoded(each)) <= 64 for pair in pattern.items() for each in pair):
        assert _fanout.plain_sub(text) is not None


def _encoded(text: object) -> bytes:
    return str(text).encode() * 3


steps = st.lists(
    st.tuples(
        st.integers(0, CLIENTS - 1),
        st.sampled_from(
            ["sub", "sub", "sub", "sub", "unsub", "ping", "leave", "lose", "restore", "confirm", "publish"]
        ),
        st.integers(0, len(CHANNELS) - 1),
        st.booleans(),
    ),
    max_size=40,
)


@given(steps, st.booleans())
def test_subs_are_answered_the_same(steps: Sequence[tuple[int, str, int, bool]], guarded: bool) -> None:
    assert _told(steps, guarded=guarded, by_engine=True) == _told(steps, guarded=guarded, by_engine=False)


def _told(steps: Sequence[tuple[int, str, int, bool]], *, guarded: bool, by_engine: bool) -> list[Any]:
    """Carry out the steps; return what each client was told, and what it is subscribed to after each."""
    patterns: list[dict[str, Any]] = [{"a": 1}, {"a": "2"}, {"b": "x", "a": "é"}, {"user": 25442}, {"user": "28322"}]
    told: list[Any] = []
    with bench(input_rate=0.001, input_burst=BURST) as b:
        bus = ScriptedBus()
        hub = Hub(b.engine, bus, clock=lambda: 0.0, call_soon=b.loop.soon.append, max_subscriptions=MOST)
        bus.listen(hub)
        guard = Guard(b.engine, hub, Gate(GUARDED, clock=lambda: 0.0)) if guarded else None
        intake = Intake(b.engine, ActionSession(b.engine, hub, guard), max_message=16384)
        b.handler = intake  # type: ignore[assignment]
        if by_engine:
            b.engine.take_subs((intake,), MOST, None if guard is None else guard.gate.connected.may_subscribe)
        clients = [b.connect() for _ in range(CLIENTS)]
        if guard is not None:
            guard.on_connected(clients[0][0], Opening(Identity({"user": "25442"})))
        up = True
        for number, (client, what, place, at_once) in enumerate(steps):
            conn, peer = clients[client]
            channel = CHANNELS[place]
            if what in ("sub", "unsub", "ping"):
                if b.engine.is_open(conn):
                    peer.send(TEXT, orjson.dumps({"id": number, "act": what, "pat": patterns[place]}))
            elif what == "leave":
                b.engine.disconnect(conn, 1000)
            elif what == "lose" and up:
                up = False
                bus.go_away()
            elif what == "restore" and not up:
                up = True
                bus.restore(1.0)
            elif what == "confirm" and up and channel in bus.wanted:
                bus.confirm(channel)
            elif what == "publish":
                b.publish((channel, b"%d" % number))
            if not at_once:
                b.poll()
                told.append(
                    [(_timeless(peer.frames()), sorted(b.engine.subscriptions(conn))) for conn, peer in clients]
                )
        b.poll()
        told.append([(_timeless(peer.frames()), sorted(b.engine.subscriptions(conn))) for conn, peer in clients])
        told.append((bus.wanted, bus.in_force))
    return told


def _timeless(frames: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    return [(opcode, re.sub(rb'"seconds":[0-9.e-]+', b"", payload)) for opcode, payload in frames]
