"""What all requests have in common by which publishers ask about a pattern: who may ask, and how they are answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from realizehit.access.gate import Gate
from realizehit.access.peers import peer_of
from realizehit.http.problems import BrokerErrorReporter, refusal_of

Query = TypeVar("Query")


def admitted(
    gate: Gate | None, request: Request, read: Callable[[bytes], Query], channel_of: Callable[[Query], bytes]
) -> Query:
    """Return what a request asks for, if its publisher may publish to the pattern.

    Args:
        gate: decides who may ask; ``None`` where access is controlled elsewhere.
        request: the request.
        read: reads its query.
        channel_of: returns the channel that the query is about.

    Raises:
        AccessDenied: the publisher is not known, or may not publish to the pattern.
        RequestError, PatternError: the query is wrong, as `read` says.
    """
    key = None
    if gate is not None:
        key = gate.publishers.authenticate(peer_of(request.scope.get("client")), dict(request.scope["headers"]))
    query = read(request.scope["query_string"])
    if key is not None and gate is not None:
        (denied,) = gate.publishers.check_channels(key, [channel_of(query)])
        if denied is not None:
            raise denied
    return query


def answer_of(body: bytes) -> Response:
    """Return the answer with a JSON document that no cache may keep."""
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})


def refusal_response(error: Exception, broker_errors: BrokerErrorReporter) -> Response | None:
    """Return the answer that tells a client of an error; ``None`` if the error is a defect of the server."""
    refusal = refusal_of(error, broker_errors)
    if refusal is None:
        return None
    headers = {name.decode(): value.decode() for name, value in refusal.headers}
    return Response(refusal.body, refusal.status, headers, refusal.media_type.decode())
