"""A client's messages through the session: the text of an action, and what is answered; with and without a guard.

Invariant: each message is answered at once by one reply with its id, which says what came of it or gives one of the
wire's error codes; a `sub` that was answered is in the engine's registry; nothing raises. Under a guard a client never
has a subscription to what belongs to somebody else, whoever it says it is, and nothing else is forbidden. Frames that
come byte by byte are answered as those that come whole, and plain subs the same whoever reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jwt
import orjson

from realizehit.access.gate import Gate
from realizehit.access.grants import filters_of
from realizehit.broker.base import Interest
from realizehit.errors import ErrorCode, PatternError
from realizehit.node.hub import Hub
from realizehit.node.messages import ActionError, parse_action
from realizehit.pattern import channel_of, is_reserved
from realizehit.settings import Settings
from realizehit.transports.guard import Guard
from realizehit.transports.intake import Intake
from realizehit.transports.session import ActionSession
from tests.fuzz.command import main
from tests.support.engines import BINARY, CLOSE, TEXT, Bench, bench, client_frame
from tests.support.scripted_bus import ScriptedBus

CODES = {str(code) for code in ErrorCode}
CLOSES = {"binary": 1003, "text": 1007, "rate": 4502}
MOST = 8  # subscriptions of a connection; twice as many actions may come at once
SECRET = "s" * 32
# What stands for tokens in a case, since no change of bytes makes a signature.
TOKENS = {
    b"TOKEN1": jwt.encode({"sub": "25442", "exp": 99999999999}, SECRET),
    b"TOKEN2": jwt.encode({"sub": "28322", "exp": 99999999999}, SECRET),
    b"TOKEN0": jwt.encode({"exp": 99999999999}, SECRET),
    b"TOKEN9": jwt.encode({"sub": "25442", "exp": 1}, SECRET),
}
GUARDED = Settings(
    jwt_secret=SECRET,
    jwt_algorithms=("HS256",),
    jwt_claims=("user=sub",),
    max_subscriptions=MOST,
    max_actions=1,
)
Frames = list[tuple[int, bytes]]


class Everywhere(ScriptedBus):
    """A broker that has every channel in force."""

    def subscribe(self, channel: bytes) -> bool:
        self.in_force.add(channel)
        return super().subscribe(Interest(channel))


def one(data: bytes) -> None:
    """Send the lines of a case as one client's messages."""
    short = len(data) <= 320
    for placeholder, token in TOKENS.items():
        data = data.replace(placeholder, token.encode())
    lines = data.split(b"\n")
    for guarded in (False, True):
        whole = said(lines, guarded=guarded, by_bytes=False)
        if short:
            parts = said(lines, guarded=guarded, by_bytes=True)
            assert parts == whole, f"{parts} byte by byte, and {whole} at once"
        quick = said(lines, guarded=guarded, by_bytes=False, by_engine=True)
        assert quick == whole, f"{quick} if the engine reads plain subs, and {whole} otherwise"


def said(lines: list[bytes], *, guarded: bool, by_bytes: bool, by_engine: bool = False) -> list[Any]:
    """Send messages, hold each answer to the invariant, and return all that was answered."""
    with bench() as b:
        bus = Everywhere()
        hub = Hub(b.engine, bus, clock=lambda: 0.0, call_soon=b.loop.soon.append, max_subscriptions=MOST)
        bus.listen(hub)
        guard = Guard(b.engine, hub, Gate(GUARDED, clock=lambda: 0.0)) if guarded else None
        session = ActionSession(b.engine, hub, guard)
        gone = None if guard is None else guard.on_disconnected
        intake = Intake(b.engine, session, max_message=16384, on_disconnected=gone)
        b.handler = intake  # type: ignore[assignment]
        if by_engine:
            b.engine.take_subs((intake,), MOST, None if guard is None else guard.gate.connected.may_subscribe)
            b.engine.take_firsts(session.subscribe_firsts)
        answers = list(conversation(b, lines, guard, by_bytes=by_bytes))
    assert bus.wanted == set()
    return answers


def conversation(b: Bench, lines: list[bytes], guard: Guard | None, *, by_bytes: bool) -> Iterator[Any]:
    conn, peer = b.connect()

    def send(opcode: int, payload: bytes) -> Frames:
        frame = client_frame(opcode, payload)
        frames = []
        for part in [frame[i : i + 1] for i in range(len(frame))] if by_bytes else [frame]:
            peer.sock.sendall(part)
            b.poll()
            frames += peer.frames()
            if frames and frames[-1][0] == CLOSE:
                break  # wrong text is refused where it stands
        return frames

    for line in lines:
        frames = send(TEXT, line)
        try:
            line.decode()
        except UnicodeDecodeError:
            assert len(frames) == 1
            yield closed(frames[0], "text")
            return
        if not frames or frames[0][0] != TEXT:
            raise AssertionError(f"{line!r} was answered by {frames}") from next(iter(b.loop.errors), None)
        reply, *events = [orjson.loads(payload) for opcode, payload in frames if opcode == TEXT]
        made_up = check(line, reply)
        yield {**reply, "id": None} if made_up else reply
        yield from events
        check_state(b, conn, line, reply, events, guard)
        if len(frames) > 1 + len(events):
            assert reply["code"] == ErrorCode.RATE_LIMITED
            yield closed(frames[-1], "rate")
            return
    yield closed(send(BINARY, b"x")[-1], "binary")


def closed(frame: tuple[int, bytes], why: str) -> str:
    assert frame[0] == CLOSE
    assert frame[1][:2] == CLOSES[why].to_bytes(2)
    return why


def check(line: bytes, reply: dict[str, Any]) -> bool:
    """Hold a reply against its action, and return whether its id was made up."""
    assert set(reply) in ({"id", "ret"}, {"id", "err", "code"}), reply
    try:
        asked = parse_action(line).id
    except ActionError as error:
        asked = error.request_id
        assert reply["code"] in (error.code, ErrorCode.RATE_LIMITED)
    assert reply["id"] == asked if asked is not None else isinstance(reply["id"], str)
    if "code" in reply:
        assert reply["code"] in CODES
        assert isinstance(reply["err"], str)
        assert reply["err"]
    return asked is None


def check_state(
    b: Bench, conn: int, line: bytes, reply: dict[str, Any], events: list[dict[str, Any]], guard: Guard | None
) -> None:
    """Hold what a client has after an action against the reply, and against who it is."""
    held = b.engine.subscriptions(conn)
    assert len(held) == b.engine.stats()["subscriptions"] <= MOST
    try:
        action = parse_action(line)
    except ActionError:
        assert events == []
        return
    channel = b""
    if action.act in ("sub", "unsub"):
        try:
            channel = channel_of(action.pattern)
        except PatternError:
            assert "code" in reply
    if "ret" in reply and channel:
        assert (channel in held) == (action.act == "sub")
    if guard is None:
        assert events == []
        assert not (channel and reply.get("code") == ErrorCode.FORBIDDEN) or is_reserved(channel)
        return
    if action.act == "auth" and reply.get("ret") == "ok":
        token = orjson.loads(line)["token"]
        if token in TOKENS.values():
            said = jwt.decode(token, options={"verify_signature": False})
            assert said["exp"] > 1
            assert guard.gate.connected.identity(conn).get("user") == said.get("sub")
        assert [event["evt"] for event in events] in ([], ["unsubscribed"])
    else:
        assert events == []
    user = guard.gate.connected.identity(conn).get("user")
    assert user in (None, "25442", "28322")
    assert all(filters_of(other).get("user", user) == user for other in held), (held, user)
    if channel and reply.get("code") == ErrorCode.FORBIDDEN:
        assert is_reserved(channel) or filters_of(channel).get("user", user) != user


if __name__ == "__main__":
    main(__spec__.name)
