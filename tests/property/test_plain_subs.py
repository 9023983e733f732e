"""Plain subs that the engine reads and carries out, beside the same subs in Python."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realizehit import _fanout
from realizehit.access.connected_clients import Opening
from realizehit.access.gate import Gate
from realizehit.access.identity import Identity
from realizehit.broker.base import BusState
from realizehit.broker.history.rules import Rule, Rules
from realizehit.common.position import Position
from realizehit.errors import BrokerUnavailable
from realizehit.node.hub import Hub
from realizehit.settings import Settings
from realizehit.transports.guard import Guard
from realizehit.transports.intake import Intake
from realizehit.transports.session import ActionSession
from tests.fuzz.plain_subs import one
from tests.support.engines import TEXT, Bench, Peer
from tests.support.scripted_logs import LoggingBus, ScriptedLog

CLIENTS, MOST, BURST = 4, 3, 12
GUARDED = Settings(identify=("user=X-User",), trusted_proxies=("127.0.0.1",))
UNKNOWN = 5  # picks a position of an epoch that never was
# The second and the third have the same id; there is a rule of history for the last two.
CHANNELS = [b"a:%C3%A9|b:x", b"user:25442", b"user:28322", b"c:1", b"c:2"]
PATTERNS: list[dict[str, Any]] = [{"b": "x", "a": "é"}, {"user": 25442}, {"user": "28322"}, {"c": 1}, {"c": "2"}]
RULES = Rules((Rule({"c": None}, 3, 60.0),), "1")

texts = st.text(max_size=6) | st.sampled_from(["*", "", "a b", "\\", '"', "\x7f", "x" * 200, "realizehit"])
numbers = st.integers(-3, 10**17) | st.floats(allow_nan=False) | st.booleans() | st.none()
positions = st.from_regex(r"[a-z0-9]{7,9}\.0?[0-9]{1,17}", fullmatch=True) | st.sampled_from(
    ["k3f09a2c.17", "k3f09a2c.0", "k3f09a2c.00", "k3f09a2c.9007199254740991", "k3f09a2c.9007199254740992", "k3f09a2c."]
)
actions = st.fixed_dictionaries(
    {},
    optional={
        "id": texts | numbers,
        "act": st.just("sub") | st.sampled_from(["unsub", "ping", "", 1]),
        "pat": st.dictionaries(texts, texts | numbers, max_size=3) | texts,
        "since": st.none() | positions,
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
    st.integers(0, 2**53 - 1) | st.none(),
)
def test_usual_subs_are_plain(request_id: Any, pattern: dict[str, Any], offset: int | None) -> None:
    since = {} if offset is None else {"since": f"k3f09a2c.{offset}"}
    text = orjson.dumps({"id": request_id, "act": "sub", "pat": pattern, **since})
    if all(len(_encoded(each)) <= 64 for pair in pattern.items() for each in pair):
        assert _fanout.plain_sub(text) is not None


def _encoded(text: object) -> bytes:
    return str(text).encode() * 3


class Step(NamedTuple):
    """One thing that happens: to a client, to a channel or at the broker."""

    what: str
    place: int = 3
    client: int = 0
    pick: int = 0
    at_once: bool = False  # whether the node does not run before the next step


LIVE = [Step("sub"), Step("confirm"), Step("read")]  # the log of a channel is followed
WHAT = [
    *["sub", "since"] * 4,
    "offsets",
    "unsub",
    "ping",
    "leave",
    "lose",
    "restore",
    "confirm",
    "confirm all",
    "refuse",
    "publish",
]
WHAT += [*["log", "read"] * 3, "skip", "fail read", "fail over", "expire", "rules", "time", "turn"]
steps = st.lists(
    st.builds(
        Step,
        st.sampled_from(WHAT),
        st.integers(0, len(CHANNELS) - 1) | st.just(3),
        st.integers(0, CLIENTS - 1),
        st.integers(0, 5),
        st.booleans(),
    ),
    max_size=40,
)


@given(st.sampled_from([[], LIVE, [Step("expire"), *LIVE]]), steps, st.booleans())
def test_subs_are_answered_the_same(before: list[Step], steps: list[Step], guarded: bool) -> None:
    by_engine, in_python = (Told(by_engine=by_engine, guarded=guarded) for by_engine in (True, False))
    assert by_engine.after(before + steps) == in_python.after(before + steps)


TRIMMED = [*LIVE, *[Step("log")] * 5, Step("since", client=1, pick=UNKNOWN), Step("read"), Step("read")]
EXPIRED = [Step("expire"), *LIVE, Step("log"), *[Step("time")] * 4]
BEHIND = [*LIVE, Step("log"), Step("skip"), Step("log")]
LOST = [*LIVE, Step("log"), Step("lose"), Step("restore"), Step("sub", client=1)]
# That messages are lost is told in the next turn of the loop.
TOLD = [*BEHIND, Step("fail read"), Step("rules", at_once=True), Step("turn", at_once=True)]
NEXT = [Step("log"), Step("read")]
CASES = {"trimmed": TRIMMED, "expired": EXPIRED, "behind": BEHIND, "lost": LOST, "told": TOLD}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("pick", range(5))
def test_unusual_subs_are_answered_the_same(case: str, pick: int) -> None:
    steps = [*CASES[case], Step("sub", client=3, at_once=True), Step("since", client=2, pick=pick, at_once=True)]
    steps += [Step("turn", at_once=True), Step("turn"), *NEXT]
    assert Told(by_engine=True).after(steps) == Told(by_engine=False).after(steps)


KNOWN = [Step("sub", place=1), Step("confirm", place=1)]  # a client that is told of gaps
FIRST = Step("sub", place=0, client=1)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([*KNOWN, Step("lose"), FIRST, Step("restore")], id="away"),
        pytest.param([*KNOWN, FIRST, Step("lose"), Step("restore", at_once=True)], id="back"),
    ],
)
def test_first_subs_are_answered_the_same_around_a_gap(steps: list[Step]) -> None:
    steps = [*steps, Step("sub", place=0, client=2, at_once=True), *[Step("turn", at_once=True)] * 4]
    assert Told(by_engine=True).after(steps) == Told(by_engine=False).after(steps)


def test_the_engine_resumes_usual_subs_by_itself() -> None:
    told = Told(by_engine=True)
    told.after([*LIVE, Step("log"), Step("log"), *[Step("since", client=client, pick=client) for client in (1, 2, 3)]])
    assert told.bench.engine.stats()["resumed"] == 3


class Told:
    """A node of which clients ask something, with a broker that the test plays.

    Args:
        by_engine: whether the engine carries out what it can.
        guarded: whether clients may subscribe to what their identity allows; the first one has an identity.
    """

    def __init__(self, *, by_engine: bool, guarded: bool = False) -> None:
        self._by_engine = by_engine
        self._guarded = guarded
        self.bench = Bench(input_rate=0.001, input_burst=BURST)
        self._now = 100.0
        self._bus = LoggingBus(RULES)
        self._hub = Hub(
            self.bench.engine,
            self._bus,
            clock=lambda: self._now,
            call_soon=self.bench.loop.soon.append,
            max_subscriptions=MOST,
            run=self._bus.run,
        )
        self._bus.listen(self._hub)

    def after(self, steps: list[Step]) -> list[Any]:
        """Carry out the steps; return what each client was told, and what it is subscribed to after each."""
        b = self.bench
        told: list[Any] = []
        try:
            guard = Guard(b.engine, self._hub, Gate(GUARDED, clock=lambda: 0.0)) if self._guarded else None
            session = ActionSession(b.engine, self._hub, guard)
            intake = Intake(b.engine, session, max_message=16384)
            b.handler = intake  # type: ignore[assignment]
            if self._by_engine:
                b.engine.take_subs((intake,), MOST, None if guard is None else guard.gate.connected.may_subscribe)
                b.engine.take_firsts(session.subscribe_firsts)
            b.engine.tick(self._now)
            clients = [b.connect() for _ in range(CLIENTS)]
            if guard is not None:
                guard.on_connected(clients[0][0], Opening(Identity({"user": "25442"})))
            for number, step in enumerate(steps):
                self._do(number, *clients[step.client], step)
                if not step.at_once:
                    b.poll()
                    told.append(self._state(clients))
            b.poll()
            told.append(self._state(clients))
            told.append((set(self._bus.wanted), set(self._bus.in_force), self._hub.logs.recovered_from_ring))
            assert b.loop.errors == []
        finally:
            b.engine.close()
            for peer in b.peers:
                peer.sock.close()
        return told

    def _state(self, clients: list[tuple[int, Peer]]) -> list[Any]:
        return [
            (_timeless(peer.frames()), sorted(self.bench.engine.subscriptions(conn)), self.bench.engine.is_open(conn))
            for conn, peer in clients
        ]

    def _do(self, number: int, conn: int, peer: Peer, step: Step) -> None:
        b = self.bench
        if step.what in ("sub", "since", "offsets", "unsub", "ping"):
            if b.engine.is_open(conn):
                peer.send(TEXT, orjson.dumps(self._action(number, step)))
        elif step.what == "leave":
            b.engine.disconnect(conn, 1000)
        elif step.what == "turn":
            b.engine.poll()
            for handle, transport in list(b.transports.items()):
                b.read(handle, transport.sock)
            if b.loop.soon:
                b.loop.soon.pop(0)()
        elif step.what == "time":
            self._now += 20.0
            b.engine.tick(self._now)
            self._hub.tick(self._now)
        else:
            self._at_broker(number, step.what, CHANNELS[step.place])

    def _action(self, number: int, step: Step) -> dict[str, Any]:
        act = step.what if step.what in ("unsub", "ping") else "sub"
        action: dict[str, Any] = {"id": number, "act": act, "pat": PATTERNS[step.place]}
        if step.what == "offsets":
            action["offsets"] = True
        elif step.what == "since":
            log = self._bus.log(CHANNELS[step.place])
            if log is None or step.pick == UNKNOWN:
                action["since"] = "k3f09a2c.17"
            else:
                known = [Position(log.epoch, 0), *log.positions]
                action["since"] = str(known[-1 - step.pick % len(known)])
        return action

    def _at_broker(self, number: int, what: str, channel: bytes) -> None:
        bus, is_up = self._bus, self._bus.state is BusState.UP
        if what == "lose" and is_up:
            bus.go_away()
        elif what == "restore" and not is_up:
            bus.restore(1.0)
        elif what == "confirm" and is_up and channel in bus.wanted:
            bus.confirm(channel)
        elif what == "confirm all" and is_up:
            bus.confirm_all()
        elif what == "refuse" and is_up and channel in bus.wanted:
            bus.refuse(channel)
        elif what == "publish":
            self.bench.publish((channel, b"%d" % number))
        elif what == "rules":
            bus.change_rules(Rules((), "2") if bus.rules is RULES else RULES)
        elif what in ("read", "fail read") and bus.reads:
            bus.answer(0, BrokerUnavailable("made to fail") if what == "fail read" else None)
        elif (log := bus.log(channel)) is not None:
            self._in_log(number, what, channel, log)

    def _in_log(self, number: int, what: str, channel: bytes, log: ScriptedLog) -> None:
        if what in ("log", "skip"):
            position = str(log.append(number)).encode()
            if what == "log" and channel in self._bus.in_force:
                self.bench.publish((channel, b"@o=%b?%d" % (position, number)))
        elif what == "fail over":
            log.fail_over(1)
        elif what == "expire":
            log.expires_in = 30.0


def _timeless(frames: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    return [(opcode, re.sub(rb'"seconds":[0-9.e-]+', b"", payload)) for opcode, payload in frames]
