"""Queries of Engine.IO's requests and of Server-Sent Events.

Invariant: an Engine.IO query is read, or refused with one of that protocol's codes; each `pat` of an event stream is a
channel or a refusal with one of the wire's codes, and both can be told in JSON.
"""

from __future__ import annotations

import orjson

from realizehit.errors import ErrorCode
from realizehit.transports.engineio.errors import Refused
from realizehit.transports.engineio.query import Query
from realizehit.transports.sse import _patterns
from realizehit.transports.sse_responses import Refusal, errors_of, greeting
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
    check_patterns(data, wildcards=False)
    check_patterns(data, wildcards=True)


def check_patterns(data: bytes, *, wildcards: bool) -> None:
    outcomes = _patterns(data, wildcards=wildcards)
    for outcome in outcomes:
        if isinstance(outcome, Refusal):
            assert str(outcome.code) in CODES
            assert outcome.detail
        else:
            assert outcome.isascii()
            assert 0 < len(outcome) <= 1024
            assert wildcards or b"*" not in outcome
    told = orjson.loads(greeting(outcomes).split(b"data: ", 1)[1])
    assert len(told["ids"]) == len(outcomes)
    assert len(errors_of(outcomes)) == len(outcomes)


if __name__ == "__main__":
    main(__spec__.name)
