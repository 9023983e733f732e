"""The actions of clients and the replies to them, the same for every transport.

One session object serves all connections of a node. What belongs to one connection, its subscriptions, is in the engine
under the connection's handle.
"""

from __future__ import annotations

import secrets
from functools import partial
from typing import Final, Protocol

import orjson

from realizehit import _fanout
from realizehit.errors import AccessDenied, CloseCode, ErrorCode, PatternError, RequestError
from realizehit.node.history_request import HistoryRequest, Started, position_of
from realizehit.node.hub import Hub
from realizehit.node.messages import ActionError, error_reply, parse_action, reply, token_of
from realizehit.pattern import Channel, subscription_channel
from realizehit.transports.guard import Guard


class Session(Protocol):
    """Handles the whole messages that a transport receives.

    Attributes:
        accepts_binary: whether binary messages are accepted; if not, a transport need not collect them.
    """

    accepts_binary: bool

    def receive(self, conn: int, data: bytes) -> None:
        """Handle a text message, valid UTF-8."""

    def receive_binary(self, conn: int, data: bytes) -> None:
        """Handle a binary message."""

    def subscribe(self, conn: int, request_id: bytes, channel: bytes, since: bytes | None) -> None:
        """Carry out a plain ``sub``; called only if the engine was asked to read these (`take_subs`).

        Args:
            conn: the engine's handle.
            request_id: the id as JSON text.
            channel: the canonical channel.
            since: the position after which messages are replayed.
        """
        raise TypeError("this session takes no subs")


class ActionSession(Session):
    """Carries out ``sub``, ``unsub``, ``ping`` and ``auth``.

    Args:
        engine: sends the replies.
        hub: keeps the subscriptions.
        guard: decides who may do what; ``None`` where everybody may do everything.
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

    def receive(self, conn: int, data: bytes) -> None:
        """Carry out one action and reply to it; a wrong action is answered with an error and changes nothing."""
        try:
            request_id, act, pattern, history, every, trace = parse_action(data)
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
                channel = subscription_channel(pattern, wildcards=self._wildcards)
            except PatternError as error:
                self._refuse(conn, request_id, error.code, str(error))
                return
            if act == "sub":
                self._subscribe(conn, request_id, channel, history, every, trace=trace)
            elif self._hub.unsubscribe(conn, channel):
                self._reply(conn, request_id, _fanout.channel_id(channel))
            else:
                self._refuse(conn, request_id, ErrorCode.NOT_SUBSCRIBED, "this pattern is not subscribed to")
        elif act == "auth":
            self._authenticate(conn, request_id, data)
        else:
            self._refuse(
                conn,
                request_id,
                ErrorCode.UNKNOWN_ACTION,
                f"{act[:32]!r} is not an action; use sub, unsub, ping or auth",
            )

    def subscribe(self, conn: int, request_id: bytes, channel: bytes, since: bytes | None) -> None:
        """Carry out a plain ``sub`` and reply to it."""
        label: str | int = orjson.loads(request_id)
        if not self._is_too_fast(conn, label):
            history = None if since is None else HistoryRequest(position_of(since.decode()))
            self._subscribe(conn, label, Channel(channel), history)

    def subscribe_firsts(self, firsts: list[_fanout.FirstSub]) -> None:
        """Carry out plain subs that the engine has counted, and reply to them; see `Engine.take_firsts`."""
        self._hub.subscribe_firsts(firsts, self._first_subscribed)

    def _first_subscribed(self, first: _fanout.FirstSub, code: ErrorCode | None, text: str, started: Started) -> None:
        conn, request_id, channel = first
        self._subscribed((conn, orjson.loads(request_id)), channel, code, text, started)

    def _subscribe(
        self,
        conn: int,
        request_id: str | int | None,
        channel: Channel,
        history: HistoryRequest | None,
        every: int = 0,
        *,
        trace: bool = False,
    ) -> None:
        if self._gate is None or self._gate.connected.may_subscribe(conn, channel):
            answer = partial(self._subscribed, (conn, request_id), channel)
            self._hub.subscribe(conn, channel, answer, history, every, trace=trace)
        else:
            self._gate.connected.not_granted(channel)
            self._refuse(conn, request_id, ErrorCode.FORBIDDEN, "this pattern is not granted to this client")

    def receive_binary(self, conn: int, data: bytes) -> None:
        """Close the connection: the protocol has no binary messages."""
        self._engine.disconnect(conn, CloseCode.UNSUPPORTED_DATA, "binary messages are not used here")

    def _authenticate(self, conn: int, request_id: str | int | None, data: bytes) -> None:
        if self._guard is None:
            self._refuse(conn, request_id, ErrorCode.NOT_AUTHENTICATED, "this server takes no tokens")
            return
        try:
            changed = self._guard.gate.connected.authenticate(conn, token_of(data))
        except (RequestError, AccessDenied) as error:
            self._refuse(conn, request_id, error.code, str(error))
            return
        self._reply(conn, request_id, "ok")
        if changed:
            self._guard.recheck(conn)  # the new identity may not have all subscriptions of the old one
            self._hub.reidentified(conn)

    def _is_too_fast(self, conn: int, request_id: str | int | None) -> bool:
        """Count an action against the rate of its connection, and refuse an action that exceeds it."""
        paid = self._engine.charge(conn)
        if paid == _fanout.PAID:
            return False
        if self._gate is not None:
            self._gate.refusals.count("too_many_actions")
        self._refuse(conn, request_id, ErrorCode.RATE_LIMITED, "this connection asks too often")
        if paid == _fanout.HOPELESS:
            self._engine.disconnect(conn, CloseCode.FORBIDDEN, ErrorCode.RATE_LIMITED.value)
        return True

    def _subscribed(
        self,
        request: tuple[int, str | int | None],
        channel: bytes,
        code: ErrorCode | None,
        text: str,
        started: Started,
    ) -> None:
        conn, request_id = request
        if code is None:
            self._reply(conn, request_id, _fanout.channel_id(channel), **started.fields())
        else:
            self._refuse(conn, request_id, code, text)

    def _reply(self, conn: int, request_id: str | int | None, ret: str, **more: object) -> None:
        self._engine.send(conn, reply(_id_of(request_id), ret, **more))

    def _refuse(self, conn: int, request_id: str | int | None, code: str, text: str) -> None:
        self._engine.send(conn, error_reply(_id_of(request_id), text, code))


def _id_of(request_id: str | int | None) -> str | int:
    """Return the id of a reply: the action's, or a new one where the action has none."""
    return secrets.token_hex(4) if request_id is None else request_id


DRAIN_REASON: Final = "delay={milliseconds}"
"""The reason of close code 4001: after how many milliseconds the client should reconnect."""
