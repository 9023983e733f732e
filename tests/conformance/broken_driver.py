"""The Python driver with a client that is broken on purpose: ``python -m tests.conformance.broken_driver MUTATION``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import orjson

import realizehit.client.http as http
import realizehit.client.received_message as received_message
import realizehit.client.reconnecting as reconnecting
import realizehit.client.token_renewal as token_renewal
import realizehit.client.ws as ws
from clients.conformance.drivers import python_driver
from realizehit.client.connection import Connection
from realizehit.client.log_cursor import LogCursor
from realizehit.client.messages import RawJSON, encode_payload
from realizehit.client.payload_queue import Overflow, PayloadQueue
from realizehit.client.protocol import Notice, Reply
from realizehit.client.session import Session
from realizehit.client.subscription import Subscription
from realizehit.client.token import current as real_current
from realizehit.client.topics import Topic, Topics
from realizehit.errors import Rejected


def spells_patterns_raw() -> None:
    class Spelled:
        def __init__(self, filters: Mapping[str, Any]) -> None:
            pairs = sorted(filters.items())
            self.channel = "|".join(f"{key}:{value}" for key, value in pairs)
            self.id = "00000000"

    patch(python_driver, "Pattern", Spelled)


def rewrites_payloads() -> None:

    def rewritten(payload: Any) -> bytes:
        return orjson.dumps(orjson.loads(payload.text)) if isinstance(payload, RawJSON) else encode_payload(payload)

    patch(http, "encode_payload", rewritten)


def never_repeats() -> None:
    patch(http.Attempts, "next_delay", lambda self, outcome: None)


def sends_no_unsub() -> None:
    original = Connection.act

    def act(self: Connection, act: str, filters: Any, answered: Any, **more: Any) -> str:
        if act == "unsub":
            answered(Reply("", None, "", ""))
            return ""
        return original(self, act, filters, answered, **more)

    patch(Connection, "act", act)


def leaves_patterns_encoded() -> None:
    def filters_in(channel: bytes) -> dict[str, str]:
        pairs = (part.partition(":") for part in channel.decode().split("|"))
        return {key: value for key, _, value in pairs}

    patch(received_message, "filters_in", filters_in)


def asks_for_nothing_on_return() -> None:
    original = Topics.attach
    attached: list[Topics] = []

    def attach(self: Topics, connection: Connection) -> None:
        if attached:
            self._connection = connection
        else:
            attached.append(self)
            original(self, connection)

    patch(Topics, "attach", attach)


def returns_after_every_code() -> None:
    patch(reconnecting, "may_return", lambda code, token=None: True)


def heeds_no_delay() -> None:
    patch(reconnecting, "asked_delay", lambda code, reason: None)


def keeps_the_first_token() -> None:
    kept: list[str] = []

    async def current(token: Any) -> str:
        if not kept:
            kept.append(await real_current(token))
        return kept[0]

    patch(reconnecting, "current", current)
    patch(token_renewal, "current", current)


def tells_no_gaps() -> None:
    patch(Subscription, "gap", lambda self, seconds: None)


def drops_the_newest() -> None:
    original = PayloadQueue.__init__

    def made(self: Any, maxsize: int, overflow: Any) -> None:
        original(self, maxsize, Overflow.DROP_NEWEST)

    patch(PayloadQueue, "__init__", made)


def loses_codes() -> None:
    def failure(self: Reply) -> Rejected | None:
        return Rejected(self.error) if self.error else None

    patch(Reply, "failure", failure)


def accepts_every_size() -> None:
    original = ws.WSClient.__init__

    def made(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **{**options, "max_message": 1 << 30})

    patch(ws.WSClient, "__init__", made)


def resumes_in_the_first_epoch() -> None:
    original = LogCursor.advance

    def advance(self: LogCursor, label: bytes) -> str | None:
        epoch = self._epoch
        position = original(self, label)
        self._epoch = epoch or self._epoch
        return position

    patch(LogCursor, "advance", advance)


def fails_on_what_it_does_not_know() -> None:
    def notice(self: Topics, event: Notice) -> None:
        raise ValueError(f"what is {event.name}?")

    patch(Topics, "notice", notice)


def gives_up_when_the_protocol_breaks() -> None:
    patch(reconnecting, "may_return", lambda code, token=None: code is not None)


def forgets_the_time() -> None:
    patch(Topic, "sub_keys", lambda self: {})


def tells_no_notes() -> None:
    patch(Session, "_on_event", lambda self, event: None)


MUTATIONS: dict[str, Callable[[], None]] = {
    made.__name__: made
    for made in (
        spells_patterns_raw,
        rewrites_payloads,
        never_repeats,
        sends_no_unsub,
        leaves_patterns_encoded,
        asks_for_nothing_on_return,
        returns_after_every_code,
        heeds_no_delay,
        keeps_the_first_token,
        tells_no_gaps,
        drops_the_newest,
        loses_codes,
        accepts_every_size,
        resumes_in_the_first_epoch,
        fails_on_what_it_does_not_know,
        gives_up_when_the_protocol_breaks,
        forgets_the_time,
        tells_no_notes,
    )
}


def patch(target: Any, name: str, value: Any) -> None:
    """Replace an attribute for as long as this process lives."""
    mock.patch.object(target, name, value).start()


if __name__ == "__main__":
    MUTATIONS[sys.argv[1]]()
    asyncio.run(python_driver.main())
