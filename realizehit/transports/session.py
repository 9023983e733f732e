"""One client's actions: what a message asks for, and the reply to it.

The same for every transport. A session object serves all connections of a node: what differs from one connection to
the next (its subscriptions) stands in the engine, under the connection's handle.
"""

from __future__ import annotations

import secrets
from functools import partial
from typing import Final, Protocol

from realizehit import _fanout
from realizehit.errors import CloseCode, ErrorCode, PatternError
from realizehit.hub import Hub
from realizehit.messages import ActionError, error_reply, parse_action, reply
from realizehit.pattern import channel_of


class Session(Protocol):
    """What a transport hands whole messages to.

    Attributes:
        accepts_binary: whether binary messages are wanted; a transport need not collect one that is not.
    """

    accepts_binary: bool

    def receive(self, conn: int, data: bytes) -> None:
        """Take a text message, valid UTF-8."""

    def receive_binary(self, conn: int, data: bytes) -> None:
        """Take a binary message."""


class ActionSession(Session):
    """Serves ``sub``, ``unsub`` and ``ping``.

    Args:
        engine: sends the replies.
        hub: keeps the subscriptions.

    Source: section 1 of the wire protocol, ``docs/protocol.md``.
    """

    accepts_binary = False

    def __init__(self, engine: _fanout.Engine, hub: Hub) -> None:
        self._engine = engine
        self._hub = hub

    def receive(self, conn: int, data: bytes) -> None:
        """Carry out one action and reply to it; a bad one is answered with an error and changes nothing."""
        try:
            request_id, act, pattern = parse_action(data)
        except ActionError as error:
            self._refuse(conn, error.request_id, error.code, str(error))
            return
        if act == "ping":
            self._reply(conn, request_id, "pong")
        elif act in ("sub", "unsub"):
            try:
                channel = channel_of(pattern)
            except PatternError as error:
                self._refuse(conn, request_id, error.code, str(error))
                return
            if act == "sub":
                self._hub.subscribe(conn, channel, partial(self._subscribed, conn, request_id, channel))
            elif self._hub.unsubscribe(conn, channel):
                self._reply(conn, request_id, _fanout.channel_id(channel))
            else:
                self._refuse(conn, request_id, ErrorCode.NOT_SUBSCRIBED, "this pattern is not subscribed to")
        else:
            self._refuse(
                conn, request_id, ErrorCode.UNKNOWN_ACTION, f"{act[:32]!r} is no action; use sub, unsub or ping"
            )

    def receive_binary(self, conn: int, data: bytes) -> None:
        """Close the connection: all of the wire is text."""
        self._engine.disconnect(conn, CloseCode.UNSUPPORTED_DATA, "binary messages are not used here")

    def _subscribed(
        self, conn: int, request_id: str | int | None, channel: bytes, code: ErrorCode | None, text: str
    ) -> None:
        if code is None:
            self._reply(conn, request_id, _fanout.channel_id(channel))
        else:
            self._refuse(conn, request_id, code, text)

    def _reply(self, conn: int, request_id: str | int | None, ret: str) -> None:
        self._engine.send(conn, reply(_made_up(request_id), ret))

    def _refuse(self, conn: int, request_id: str | int | None, code: str, text: str) -> None:
        self._engine.send(conn, error_reply(_made_up(request_id), text, code))


def _made_up(request_id: str | int | None) -> str | int:
    return secrets.token_hex(4) if request_id is None else request_id


DRAIN_REASON: Final = "delay={milliseconds}"
"""Reason of close code 4001: after how many milliseconds the client should come back."""
