"""One client's actions: what a message asks for, and the reply to it.

The same for every transport. A session object serves all connections of a node: what differs from one connection to
the next (its subscriptions) stands in the engine, under the connection's handle.
"""

from __future__ import annotations

import secrets
from functools import partial
from typing import Final, Protocol

from realizehit import _fanout
from realizehit.errors import AccessDenied, CloseCode, ErrorCode, PatternError, RequestError
from realizehit.node.hub import Hub
from realizehit.node.messages import ActionError, error_reply, parse_action, reply, token_of
from realizehit.pattern import channel_of
from realizehit.transports.guard import Guard


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
    """Serves ``sub``, ``unsub``, ``ping`` and ``auth``.

    Args:
        engine: sends the replies.
        hub: keeps the subscriptions.
        guard: says who may do what; ``None`` where everybody may do everything.
        wildcards: whether subscriptions may have wildcards.

    Source: section 1 of the wire protocol, ``docs/protocol.md``.
    """

    accepts_binary = False

    def __init__(
        self, engine: _fanout.Engine, hub: Hub, guard: Guard | None = None, *, wildcards: bool = False
    ) -> None:
        self._engine = engine
        self._hub = hub
        self._guard = guard
        self._gate = None if guard is None else guard.gate
        self._wildcards = wildcards

    def receive(self, conn: int, data: bytes) -> None:  # noqa: PLR0912 - one branch for each action
        """Carry out one action and reply to it; a bad one is answered with an error and changes nothing."""
        try:
            request_id, act, pattern = parse_action(data)
        except ActionError as error:
            if not self._is_too_fast(conn, error.request_id):
                self._refuse(conn, error.request_id, error.code, str(error))
            return
        if self._is_too_fast(conn, request_id):
            return
        if act == "ping":
            self._reply(conn, request_id, "pong")
        elif act in ("sub", "unsub"):
            try:
                channel = channel_of(pattern, wildcards=self._wildcards)
            except PatternError as error:
                self._refuse(conn, request_id, error.code, str(error))
                return
            if act == "sub":
                if self._gate is None or self._gate.may_subscribe(conn, channel):
                    self._hub.subscribe(conn, channel, partial(self._subscribed, conn, request_id, channel))
                else:
                    self._gate.not_granted(channel)
                    self._refuse(conn, request_id, ErrorCode.FORBIDDEN, "this pattern is not granted to this client")
            elif self._hub.unsubscribe(conn, channel):
                self._reply(conn, request_id, _fanout.channel_id(channel))
            else:
                self._refuse(conn, request_id, ErrorCode.NOT_SUBSCRIBED, "this pattern is not subscribed to")
        elif act == "auth":
            self._authenticate(conn, request_id, data)
        else:
            self._refuse(
                conn, request_id, ErrorCode.UNKNOWN_ACTION, f"{act[:32]!r} is no action; use sub, unsub, ping or auth"
            )

    def receive_binary(self, conn: int, data: bytes) -> None:
        """Close the connection: all of the wire is text."""
        self._engine.disconnect(conn, CloseCode.UNSUPPORTED_DATA, "binary messages are not used here")

    def _authenticate(self, conn: int, request_id: str | int | None, data: bytes) -> None:
        if self._guard is None:
            self._refuse(conn, request_id, ErrorCode.NOT_AUTHENTICATED, "this server takes no tokens")
            return
        try:
            changed = self._guard.gate.authenticate(conn, token_of(data))
        except (RequestError, AccessDenied) as error:
            self._refuse(conn, request_id, error.code, str(error))
            return
        self._reply(conn, request_id, "ok")
        if changed:
            self._guard.recheck(conn)  # somebody else may not have what the one before had

    def _is_too_fast(self, conn: int, request_id: str | int | None) -> bool:
        """Count an action, and refuse it where it is one too many."""
        paid = self._engine.charge(conn)
        if paid == _fanout.PAID:
            return False
        if self._gate is not None:
            self._gate.count("too_many_actions")
        self._refuse(conn, request_id, ErrorCode.RATE_LIMITED, "this connection asks too often")
        if paid == _fanout.HOPELESS:
            self._engine.disconnect(conn, CloseCode.FORBIDDEN, ErrorCode.RATE_LIMITED.value)
        return True

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
