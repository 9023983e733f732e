"""``GET {prefix}history``: the messages of a pattern's log, with their positions, for backends.

Source: ``docs/http-api.md``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import orjson
from starlette.requests import Request
from starlette.responses import Response

from realizehit import _fanout
from realizehit.access.gate import Gate
from realizehit.broker.base import Bus
from realizehit.broker.history.log import LogPart
from realizehit.broker.history.rules import MAX_SIZE
from realizehit.common.position import Position
from realizehit.errors import AccessDenied, BrokerError, BrokerUnavailable, ErrorCode, RequestError
from realizehit.http.pattern_query import fields_of, pattern_asked_for
from realizehit.http.problems import BrokerErrorReporter
from realizehit.http.publisher_queries import admitted, answer_of, refusal_response
from realizehit.node.history_metrics import HistoryMetrics
from realizehit.node.history_request import BOTH_GIVEN, position_of
from realizehit.pattern import RESERVED_KEY, channel_of, is_wildcard

DEFAULT_LIMIT: Final = 100  # messages of one answer to `since`
PAGE: Final = 256  # messages of one read at the broker

_KNOWN: Final = ("pat", "last", "since", "limit")


class Query(NamedTuple):
    """What a request asks for.

    Attributes:
        channel: the log's, with or without a star.
        last: how many of the newest messages; 0 for none.
        since: the position after which messages are asked for; ``None`` if ``last`` counts.
        limit: how many messages at most.
    """

    channel: bytes
    last: int
    since: Position | None
    limit: int


class History:
    """Answers requests for what is kept of a pattern.

    Args:
        bus: the broker.
        gate: decides who may ask, which are those who may publish to the pattern. ``None`` where access is controlled
            elsewhere.
        broker_errors: reports that the broker cannot be reached.
        metrics: counts requests.
        max_bytes: payloads of one answer; it ends with the message that brings it over this size.
    """

    def __init__(
        self,
        bus: Bus,
        gate: Gate | None,
        broker_errors: BrokerErrorReporter,
        metrics: HistoryMetrics,
        *,
        max_bytes: int,
    ) -> None:
        self._bus = bus
        self._gate = gate
        self._broker_errors = broker_errors
        self._metrics = metrics
        self._max_bytes = max_bytes

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
        try:
            body = await self._document(admitted(self._gate, request, read_query, attrgetter("channel")))
        except Exception as error:
            refusal = refusal_response(error, self._broker_errors)
            if refusal is None:
                raise
            self._metrics.requests[_outcome(error)] += 1
            return refusal
        self._metrics.requests["answered"] += 1
        return answer_of(body)

    async def _document(self, query: Query) -> bytes:
        await self._bus.ping()  # the rules are known once there is a connection
        channel = query.channel
        if self._bus.rules.rule_of(channel) is None:
            raise RequestError("no rule of history contains this pattern", ErrorCode.NO_HISTORY)
        began = time.perf_counter()
        try:
            start, recovered, part = await self._start(query)
            messages, more = await self._messages(channel, start, part, query.limit)
        finally:
            self._metrics.reads.add(time.perf_counter() - began)
        document: dict[str, Any] = {
            "id": _fanout.channel_id(channel),
            "pattern": _filters(channel),
            "at": str(Position(part.epoch, part.last)),
            "first": part.first,
        }
        if recovered is not None:
            document["recovered"] = recovered
        document["more"] = more
        head = orjson.dumps(document)[:-1]
        wild = is_wildcard(channel)
        texts = [_message(part.epoch, offset, payload, wild=wild) for offset, payload in messages]
        return b'%b,"messages":[%b]}' % (head, b",".join(texts))

    async def _start(self, query: Query) -> tuple[int, bool | None, LogPart]:
        """Return the offset after which the answer begins, whether ``since`` is covered, and the log as it is now."""
        most = min(query.limit, PAGE)
        if query.since is None:
            if query.last <= PAGE:
                part = await self._bus.read_log(query.channel, last=query.last or None, most=query.last or 1)
            else:
                part = await self._bus.read_log(query.channel)
            return max(part.first - 1, part.last - query.last), None, part
        part = await self._bus.read_log(query.channel, after=query.since.offset, most=most)
        if part.covers(query.since):
            return query.since.offset, True, part
        part = await self._bus.read_log(query.channel, after=0, most=most)
        return part.first - 1, False, part

    async def _messages(
        self, channel: bytes, start: int, log: LogPart, limit: int
    ) -> tuple[list[tuple[int, bytes]], bool]:
        """Read messages up to the end of the log as it was, and tell whether there are more.

        Args:
            channel: the log's.
            start: offset after which the answer begins.
            log: as it was first read, perhaps with messages.
            limit: how many messages at most.
        """
        found: list[tuple[int, bytes]] = []
        size = 0
        page = log
        while start < log.last:
            if not page.messages or page.messages[0][0] != start + 1:
                page = await self._bus.read_log(channel, after=start, most=min(limit - len(found), PAGE))
                if page.last < log.last or not page.messages or page.messages[0][0] != start + 1:
                    return found, True  # it was trimmed or began anew meanwhile; what is here has no hole
            for offset, payload in page.messages:
                if offset > log.last:
                    break
                found.append((offset, payload))
                start, size = offset, size + len(payload)
                if size >= self._max_bytes or len(found) >= limit:
                    return found, start < log.last
        return found, False


def read_query(text: bytes) -> Query:
    """Read the query of a request.

    Raises:
        RequestError: a field is missing or wrong; the text names it.
        PatternError: the pattern breaks a rule.
    """
    fields = fields_of(text)
    filters = pattern_asked_for(fields)
    channel = channel_of(filters, wildcards=True)
    if RESERVED_KEY in filters:
        raise RequestError(f"the key {RESERVED_KEY} is reserved and has no history", ErrorCode.FORBIDDEN)
    given: dict[str, str] = {}
    for name, value in fields:
        if name not in _KNOWN:
            raise RequestError(f"the query has an unknown field {name[:64]!r}; known are {', '.join(_KNOWN)}")
        if name in given:
            raise RequestError(f"the query has {name} more than once")
        given[name] = value
    if "since" not in given:
        if "limit" in given:
            raise RequestError("limit goes with since; last says how many messages by itself")
        last = _number(given, "last", 0)
        return Query(channel, last, None, last or 1)
    if "last" in given:
        raise RequestError(BOTH_GIVEN)
    return Query(channel, 0, position_of(given["since"]), _number(given, "limit", DEFAULT_LIMIT))


def _number(given: Mapping[str, str], name: str, default: int) -> int:
    text = given.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_SIZE)) and 1 <= int(text) <= MAX_SIZE):
        raise RequestError(f"{name} must be a number from 1 to {MAX_SIZE}")
    return int(text)


def _message(epoch: str, offset: int, payload: bytes, *, wild: bool) -> bytes:
    """Return one message as JSON; its payload is the text that was published."""
    at = str(Position(epoch, offset)).encode("ascii")
    if not wild:
        return b'{"at":"%b","payload":%b}' % (at, payload)
    label, _, text = payload.partition(b"?")
    pattern = orjson.dumps(_filters(label.removeprefix(b"@c=")))
    return b'{"at":"%b","pattern":%b,"payload":%b}' % (at, pattern, text)


def _filters(channel: bytes) -> dict[str, str]:
    pairs = (text.partition(":") for text in channel.decode("ascii").split("|"))
    return {unquote(key): unquote(value) for key, _, value in pairs}


def _outcome(error: BaseException) -> str:
    if isinstance(error, AccessDenied):
        return "denied"
    if isinstance(error, BrokerUnavailable):
        return "unavailable"
    if isinstance(error, BrokerError):
        return "refused"
    return "no_history" if getattr(error, "code", "") == ErrorCode.NO_HISTORY else "invalid"
