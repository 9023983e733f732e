"""``GET {prefix}presence``: who is subscribed to a pattern, for backends.

Source: ``docs/presence.md``.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Final, NamedTuple

import orjson
from starlette.requests import Request
from starlette.responses import Response

from realizehit import _fanout
from realizehit.access.gate import Gate
from realizehit.broker.base import Bus
from realizehit.broker.presence.store import MOST_MEMBERS
from realizehit.errors import ErrorCode, RequestError
from realizehit.http.pattern_query import fields_of, pattern_asked_for
from realizehit.http.problems import BrokerErrorReporter
from realizehit.http.publisher_queries import admitted, answer_of, refusal_response
from realizehit.node.presence import Presence
from realizehit.pattern import RESERVED_KEY, channel_of

DEFAULT_LIMIT: Final = 100  # members of one answer
MAX_AFTER: Final = 8192  # bytes

_KNOWN: Final = ("pat", "after", "limit", "count")


class Query(NamedTuple):
    """What a request asks for.

    Attributes:
        channel: the pattern's.
        after: the member that the page before ended with; empty for the first page.
        limit: how many members at most; 0 for the counts alone.
    """

    channel: bytes
    after: bytes
    limit: int


class PresenceReader:
    """Answers requests for the members of a pattern.

    Args:
        bus: the broker.
        gate: decides who may ask, which are those who may publish to the pattern. ``None`` where access is controlled
            elsewhere.
        broker_errors: reports that the broker cannot be reached.
        presence: knows the rules; ``None`` where there are none.
    """

    def __init__(
        self, bus: Bus, gate: Gate | None, broker_errors: BrokerErrorReporter, presence: Presence | None
    ) -> None:
        self._bus = bus
        self._gate = gate
        self._broker_errors = broker_errors
        self._presence = presence

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
        try:
            body = await self._document(admitted(self._gate, request, read_query, attrgetter("channel")))
        except Exception as error:
            refusal = refusal_response(error, self._broker_errors)
            if refusal is None:
                raise
            return refusal
        return answer_of(body)

    async def _document(self, query: Query) -> bytes:
        if self._presence is None or not self._presence.counts_in(query.channel):
            raise RequestError("no rule of presence of this server contains this pattern", ErrorCode.NO_PRESENCE)
        page = await self._bus.presence.read(query.channel, query.after, query.limit)
        document: dict[str, Any] = {
            "id": _fanout.channel_id(query.channel),
            "count": page.total,
            "anonymous": page.anonymous,
        }
        if query.limit:
            document["members"] = [orjson.Fragment(member) for member in page.members]
            document["after"] = page.members[-1].decode() if page.more else None
        return orjson.dumps(document)


def read_query(text: bytes) -> Query:
    """Read the query of a request.

    Raises:
        RequestError: a field is missing or wrong; the text names it.
        PatternError: the pattern breaks a rule, or has a wildcard.
    """
    fields = fields_of(text)
    filters = pattern_asked_for(fields)
    channel = channel_of(filters, wildcards=True)
    if RESERVED_KEY in filters:
        raise RequestError(f"the key {RESERVED_KEY} is reserved and has no presence", ErrorCode.FORBIDDEN)
    given: dict[str, str] = {}
    for name, value in fields:
        if name not in _KNOWN:
            raise RequestError(f"the query has an unknown field {name[:64]!r}; known are {', '.join(_KNOWN)}")
        if name in given:
            raise RequestError(f"the query has {name} more than once")
        given[name] = value
    if "count" in given:
        if given["count"] != "1":
            raise RequestError("count takes only the value 1")
        if len(given) > 2:
            raise RequestError("count does not go with after and limit: it asks for no members")
        return Query(channel, b"", 0)
    after = given.get("after", "").encode()
    if len(after) > MAX_AFTER:
        raise RequestError(f"after is over {MAX_AFTER} bytes; send what the page before had as after")
    return Query(channel, after, _limit(given.get("limit")))


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MOST_MEMBERS):
        raise RequestError(f"limit must be a number from 1 to {MOST_MEMBERS}")
    return int(text)
