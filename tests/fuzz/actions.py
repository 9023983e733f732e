"""A client's messages through the session: the text of an action, and what is answered.

Invariant: each message is answered at once by one reply with its id, which says what came of it or gives one of the
wire's error codes; a `sub` that was answered is in the engine's registry; nothing raises.
"""

from __future__ import annotations

from typing import Any

import orjson

from realizehit.errors import ErrorCode
from realizehit.hub import Hub
from realizehit.messages import ActionError, parse_action
from realizehit.transports.intake import Intake
from realizehit.transports.session import ActionSession
from tests.engines import BINARY, CLOSE, TEXT, bench
from tests.fuzz.command import main
from tests.scripted_bus import ScriptedBus

CODES = {str(code) for code in ErrorCode}


class Everywhere(ScriptedBus):
    """A broker that has every channel in force."""

    def subscribe(self, channel: bytes) -> bool:
        self.in_force.add(channel)
        return super().subscribe(channel)


def one(data: bytes) -> None:
    """Send the lines of a case as one client's messages."""
    with bench() as b:
        bus = Everywhere()
        hub = Hub(b.engine, bus, clock=lambda: 0.0, call_soon=b.loop.soon.append)
        bus.listen(hub)
        session = ActionSession(b.engine, hub)
        b.handler = Intake(b.engine, session, max_message=16384)  # type: ignore[assignment]
        conn, peer = b.connect()
        for line in data.split(b"\n"):
            peer.send(TEXT, line)
            b.poll()
            frames = peer.frames()
            try:
                line.decode()
            except UnicodeDecodeError:
                assert frames[-1][0] == CLOSE
                assert frames[-1][1][:2] == (1007).to_bytes(2)
                return
            if not frames or frames[0][0] != TEXT:
                raise AssertionError(f"{line!r} was answered by {frames}") from next(iter(b.loop.errors), None)
            assert len(frames) == 1
            check(line, orjson.loads(frames[0][1]))
            assert len(b.engine.subscriptions(conn)) == b.engine.stats()["subscriptions"]
        peer.send(BINARY, data)
        b.poll()
        assert peer.frames()[-1] == (CLOSE, (1003).to_bytes(2) + b"binary messages are not used here")
    assert bus.wanted == set()


def check(line: bytes, reply: dict[str, Any]) -> None:
    assert set(reply) in ({"id", "ret"}, {"id", "err", "code"}), reply
    try:
        action = parse_action(line)
    except ActionError as error:
        asked = error.request_id
        assert reply["code"] == error.code
    else:
        asked = action.id
    assert reply["id"] == asked if asked is not None else isinstance(reply["id"], str)
    if "code" in reply:
        assert reply["code"] in CODES
        assert isinstance(reply["err"], str)
        assert reply["err"]


if __name__ == "__main__":
    main(__spec__.name)
