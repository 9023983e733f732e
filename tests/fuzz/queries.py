"""Queries of Engine.IO's requests, of Server-Sent Events and of requests for history and presence.

Invariant: an Engine.IO query is read, or refused with one of that protocol's codes; each `pat` of an event stream is a
channel, perhaps with a place in its history, or a refusal with one of the wire's codes, and both can be told in JSON.
The header `Last-Event-ID` may hold anything. A query for history asks for a channel and at least one message, or is
refused with a code; one for presence asks for a channel and a bounded number of members, or is refused with a code.
"""

from __future__ import annotations

import orjson

from realizehit.broker.history.rules import MAX_SIZE
from realizehit.broker.presence.store import MOST_MEMBERS
from realizehit.errors import ErrorCode, PatternError, RequestError
from realizehit.http.history import read_query
from realizehit.http.presence import MAX_AFTER
from realizehit.http.presence import read_query as read_presence_query
from realizehit.transports.engineio.errors import Refused
from realizehit.transports.engineio.query import Query
from realizehit.transports.sse_query import wanted_of
from realizehit.transports.sse_responses import Begun, Refusal, errors_of, greeting
from tests.fuzz.command import main

CODES = {str(code) for code in ErrorCode}


def one(data: bytes) -> None:
    """Take a case as each kind of query."""
    try:
        query = Query.parse(data)
    except Refused as error:
        assert orjson.loads(error.body)["message"]
    else:
        assert query.revision in (3, 4)
        assert query.transport in ("polling", "websocket")
    try:
        asked = read_query(data)
    except (RequestError, PatternError) as refusal:
        assert str(refusal.code) in CODES
        orjson.dumps(str(refusal).encode("utf-8", "replace").decode())
    else:
        assert 0 < len(asked.channel) <= 1024
        assert 1 <= asked.limit <= MAX_SIZE
        assert 0 <= asked.last <= MAX_SIZE
    try:
        members = read_presence_query(data)
    except (RequestError, PatternError) as refusal:
        assert str(refusal.code) in CODES
        orjson.dumps(str(refusal).encode("utf-8", "replace").decode())
    else:
        assert 0 < len(members.channel) <= 1024
        assert 0 <= members.limit <= MOST_MEMBERS
        assert len(members.after) <= MAX_AFTER
    check_patterns(data, wildcards=False)
    check_patterns(data, wildcards=True)


def check_patterns(data: bytes, *, wildcards: bool) -> None:
    header = data.rpartition(b"Last-Event-ID: ")[2]
    wanted = wanted_of(data, header, wildcards=wildcards)
    for channel, history, resumes, every, _ in wanted:
        if isinstance(channel, Refusal):
            assert str(channel.code) in CODES
            assert channel.detail
            assert history is None
        else:
            assert channel.isascii()
            assert 0 < len(channel) <= 1024
            assert wildcards or channel.find(b"*") < 0
            assert history is None or not (history.since and history.last)
            assert 0 <= every <= 60_000
            assert history is None or not every
            assert history is None or not (resumes and (history.since or history.last))
    outcomes = [each.channel if isinstance(each.channel, Refusal) else Begun(each.channel) for each in wanted]
    told = orjson.loads(greeting(outcomes).split(b"data: ", 1)[1])
    assert len(told["ids"]) == len(outcomes)
    assert len(errors_of(outcomes)) == len(outcomes)


if __name__ == "__main__":
    main(__spec__.name)
