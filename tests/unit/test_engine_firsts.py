"""Plain subs of channels without subscribers: the engine makes them, and tells them together."""

from __future__ import annotations

from typing import Any

import orjson

from realizehit import _fanout
from realizehit.broker.base import BROKER, Interest
from realizehit.node.hub import Hub
from tests.support.engines import TEXT, Bench, Peer, Recorder, bench
from tests.support.scripted_bus import ScriptedBus

NEWS, SPORT = b"kind:news", b"kind:sport"
NEWS_ID = _fanout.channel_id(NEWS).encode()


class Asked(Recorder):
    """A handler that takes subs; it notes all that it is told, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, Any]] = []

    def on_sub(self, handle: int, sub: _fanout.PlainSub) -> None:
        self.told.append(("sub", (handle, *sub)))

    def on_first(self, firsts: list[_fanout.FirstSub]) -> None:
        self.told.append(("firsts", firsts))

    def on_text(self, handle: int, data: bytes) -> None:
        self.told.append(("text", (handle, data)))


def asked(b: Bench, *, limit: int = 9, free: bool = True, most: int = 0) -> Asked:
    handler = b.handler = Asked()
    b.engine.take_subs((handler,), limit, None if free else lambda handle, channel: False)
    b.engine.take_firsts(handler.on_first, most)
    return handler


def sub(peer: Peer, kind: str, **more: object) -> None:
    peer.send(TEXT, orjson.dumps({"id": 1, "act": "sub", "pat": {"kind": kind}, **more}))


def test_first_subs_are_told_together_and_before_what_came_after_them() -> None:
    with bench() as b:
        handler = asked(b)
        one, first = b.connect()
        sub(first, "news")
        sub(first, "sport")
        first.send(TEXT, b"unsub")
        sub(first, "chat")
        sub(first, "chat")
        b.poll()
        chat = (one, b"1", b"kind:chat")
        assert handler.told == [
            ("firsts", [(one, b"1", NEWS), (one, b"1", SPORT)]),
            ("text", (one, b"unsub")),
            ("firsts", [chat]),
            ("sub", (*chat, None)),
        ]
        assert sorted(b.engine.subscriptions(one)) == [b"kind:chat", NEWS, SPORT]


def test_a_channel_is_held_until_its_first_sub_is_answered_and_then_open() -> None:
    with bench() as b:
        handler = asked(b)
        (one, first), (two, second) = b.connect(), b.connect()
        sub(first, "news")
        b.poll()
        b.publish((NEWS, b"early"))
        assert first.texts() == []
        sub(second, "news")
        b.poll()
        assert handler.told == [("firsts", [(one, b"1", NEWS)]), ("sub", (two, b"1", NEWS, None))]
        b.engine.answer_firsts([(one, b"1", NEWS)], True)
        b.publish((NEWS, b"late"))
        sub(second, "news")
        b.poll()
        reply = b'{"id":1,"ret":"%b"}' % NEWS_ID
        assert first.texts() == [reply, NEWS_ID + b"?late"]
        assert second.texts() == [reply]
        assert len(handler.told) == 2


def test_a_client_that_left_is_not_answered_and_its_channel_is_free_again() -> None:
    with bench() as b:
        handler = asked(b)
        one, first = b.connect()
        sub(first, "news")
        b.poll()
        b.engine.disconnect(one, 1000)
        b.engine.answer_firsts([(one, b"1", NEWS)], True)
        b.poll()
        assert first.texts() == []
        assert b.engine.channel_names() == []
        assert b.vacant == [NEWS]
        two, second = b.connect()
        sub(second, "news")
        b.poll()
        assert handler.told[-1] == ("firsts", [(two, b"1", NEWS)])


def test_what_the_engine_must_not_decide_comes_as_a_sub() -> None:
    news = (b"1", NEWS, None)
    with bench() as b:
        handler = asked(b, most=1)
        one, first = b.connect()
        first.send(TEXT, b'{"id":1,"act":"sub","pat":{"realizehit":"x"}}')
        sub(first, "news", since="k3f09a2c.17")
        sub(first, "sport")
        sub(first, "news")
        b.poll()
        assert handler.told == [
            ("sub", (one, b"1", b"realizehit:x", None)),
            ("sub", (one, b"1", NEWS, b"k3f09a2c.17")),
            ("firsts", [(one, b"1", SPORT)]),
            ("sub", (one, *news)),
        ]
        assert b.engine.subscriptions(one) == [SPORT]
    for options in ({"limit": 0}, {"free": False}):
        with bench() as b:
            handler = asked(b, **options)
            one, first = b.connect()
            sub(first, "news")
            b.poll()
            assert handler.told == [("sub", (one, *news))]
            assert b.engine.channel_names() == []


def test_a_failure_of_the_owner_holds_up_nothing() -> None:
    with bench() as b:
        handler = asked(b)
        error = RuntimeError("made to fail")

        def fail(firsts: list[_fanout.FirstSub]) -> None:
            raise error

        b.engine.take_firsts(fail)
        one, first = b.connect()
        sub(first, "news")
        first.send(TEXT, b"next")
        b.poll()
        assert handler.told == [("text", (one, b"next"))]
        assert b.loop.errors == [error]
        b.loop.errors.clear()


def test_a_lapse_keeps_clients_from_joining_in_the_engine() -> None:
    with bench() as b:
        bus = ScriptedBus()
        hub = Hub(b.engine, bus, clock=lambda: 0.0, call_soon=b.loop.soon.append)
        bus.listen(hub)
        handler = b.handler = Asked()
        b.engine.take_subs((handler,), 9)
        hub.subscribe(b.connect()[0], NEWS, lambda code, text, started: None)  # type: ignore[arg-type]
        bus.confirm(NEWS)
        (_, first), (two, second) = b.connect(), b.connect()
        sub(first, "news")
        b.poll()
        assert handler.told == []
        hub.lapsed(BROKER, [Interest(NEWS)])
        sub(second, "news")
        b.poll()
        assert handler.told == [("sub", (two, b"1", NEWS, None))]
