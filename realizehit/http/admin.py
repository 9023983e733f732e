"""The admin API: all processes of a deployment, who is connected by identity, and what is done to them.

``GET {prefix}nodes``, ``GET {prefix}clients``, ``POST {prefix}clients/disconnect``, ``…/unsubscribe``, ``…/note`` and
``POST {prefix}reload``. A request needs a key with ``admin = true``; where there are no keys, it has to come from a
program on the server's own machine.

Source: ``docs/admin.md``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from realizehit.access.gate import Gate
from realizehit.access.peers import peer_of
from realizehit.errors import CloseCode, ErrorCode, PatternError, RequestError
from realizehit.http.pattern_query import fields_of, parsed_pattern
from realizehit.http.problems import BrokerErrorReporter, refusal_of
from realizehit.node.fleet import Fleet
from realizehit.node.overview import Overview
from realizehit.pattern import Pattern
from realizehit.transports.fleet_actions import MOST_LISTED, channel_text

MAX_BODY: Final = 64 * 1024  # bytes
MAX_REASON: Final = 100  # characters
LOWEST_CODE, HIGHEST_CODE = 4000, 4999  # close codes for applications

_Answer = Callable[[Request], Awaitable[dict[str, Any]]]


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    """What a request that acts on clients has; each action takes a part of it."""

    identity: dict[str, Any]
    pattern: dict[str, Any] | None = None
    note: Any = None
    code: int | float | None = None  # a number without fraction, such as 4502.0, is an integer in JSON
    reason: str | None = None


_ALLOWED: Final = {"disconnect": {"code", "reason"}, "unsubscribe": {"pattern", "reason"}, "note": {"note"}}


class Admin:
    """Answers operators.

    Args:
        fleet: all processes of the deployment.
        overview: has their figures.
        gate: decides who may ask.
        broker_errors: reports that the broker cannot be reached.
    """

    def __init__(self, fleet: Fleet, overview: Overview, gate: Gate, broker_errors: BrokerErrorReporter) -> None:
        self._fleet = fleet
        self._overview = overview
        self._gate = gate
        self._broker_errors = broker_errors

    def routes(self, prefix: str) -> list[Route]:
        """Return the routes below a prefix."""
        routes = [
            Route(prefix + "nodes", self._answering(self._nodes)),
            Route(prefix + "clients", self._answering(self._clients)),
            Route(prefix + "reload", self._answering(self._reload), methods=["POST"]),
        ]
        for action in _ALLOWED:
            answer = self._answering(self._acting(action))
            routes.append(Route(f"{prefix}clients/{action}", answer, methods=["POST"]))
        return routes

    def _answering(self, answer: _Answer) -> Callable[[Request], Awaitable[Response]]:
        async def answered(request: Request) -> Response:
            try:
                self._gate.publishers.authenticate_admin(
                    peer_of(request.scope.get("client")), dict(request.scope["headers"])
                )
                document = await answer(request)
            except Exception as error:
                refusal = refusal_of(error, self._broker_errors)
                if refusal is None:
                    raise
                headers = {name.decode(): value.decode() for name, value in refusal.headers}
                return Response(refusal.body, refusal.status, headers, refusal.media_type.decode())
            no_store = {"Cache-Control": "no-store"}
            return Response(orjson.dumps(document), media_type="application/json", headers=no_store)

        return answered

    async def _nodes(self, _: Request) -> dict[str, Any]:
        return {"nodes": await self._overview.rows()}

    async def _clients(self, request: Request) -> dict[str, Any]:
        fields = dict(fields_of(request.scope["query_string"]))
        unknown = sorted(set(fields) - {"identity", "after"})
        if unknown:
            raise RequestError(f"the query has an unknown field {unknown[0]!r}; known are identity, after")
        if "identity" not in fields:
            raise RequestError("the query names no identity; write identity=user=42, or identity=** for all")
        identity = dict(_pattern(parsed_pattern(fields["identity"])))
        question = {"identity": identity, "after": fields.get("after", "")}
        answers = await self._fleet.ask("clients", question)
        return merged(list(answers.values()))

    def _acting(self, action: str) -> _Answer:
        async def act(request: Request) -> dict[str, Any]:
            question = question_of(action, await _body(request))
            answers = await self._fleet.ask(action, question)
            counts = {node: answer["connections"] for node, answer in answers.items()}
            return {"connections": sum(counts.values()), "nodes": len(counts)}

        return act

    async def _reload(self, _: Request) -> dict[str, Any]:
        return {"nodes": len(await self._fleet.ask("reload"))}


def merged(pages: list[dict[str, Any]]) -> dict[str, Any]:
    """Join the first pages of all processes; the connections of an identity add up.

    Returns:
        ``connections`` of all that match; ``clients``, at most `MOST_LISTED` in the order of their texts; ``after``,
        for the next page, ``None`` if there is none.
    """
    counts: dict[str, list[Any]] = {}
    for page in pages:
        for identity, count in page["clients"]:
            entry = counts.setdefault(channel_text(identity), [identity, 0])
            entry[1] += count
    texts = sorted(counts)
    # What comes after the end of a full page is not known of that process.
    ends = [channel_text(page["clients"][-1][0]) for page in pages if len(page["clients"]) >= MOST_LISTED]
    listed = [text for text in texts if not ends or text <= min(ends)][:MOST_LISTED]
    return {
        "connections": sum(page["connections"] for page in pages),
        "clients": [{"identity": counts[text][0], "connections": counts[text][1]} for text in listed],
        "after": listed[-1] if len(listed) < len(texts) or ends else None,
    }


def question_of(action: str, body: bytes) -> dict[str, Any]:
    """Return what the other processes are asked, from a request's body.

    Raises:
        RequestError, PatternError: the body cannot be used; the text says why.
    """
    try:
        given = msgspec.json.decode(body, type=_Body)
    except msgspec.ValidationError as error:
        raise RequestError(f"the body cannot be used: {error}") from None
    except msgspec.DecodeError as error:
        raise RequestError(f"the body is not JSON: {error}", ErrorCode.BAD_JSON) from None
    members = {name: getattr(given, name) for name in ("pattern", "note", "code", "reason")}
    surplus = [name for name, value in members.items() if value is not None and name not in _ALLOWED[action]]
    if surplus:
        raise RequestError(f"{surplus[0]} means nothing to {action}")
    question: dict[str, Any] = {"identity": dict(_pattern(given.identity))}
    if action == "unsubscribe":
        if given.pattern is None:
            raise RequestError('pattern is missing; write {"identity": {…}, "pattern": {…}}')
        question["channel"] = _pattern(given.pattern).channel
    elif action == "note":
        if given.note is None:
            raise RequestError('note is missing; write {"identity": {…}, "note": …}')
        question["note"] = given.note
        return question
    else:
        code = given.code if given.code is not None else CloseCode.FORBIDDEN.value
        if not LOWEST_CODE <= code <= HIGHEST_CODE or code != int(code):
            raise RequestError(f"code is not an integer from {LOWEST_CODE} to {HIGHEST_CODE}")
        question["code"] = int(code)
    question["reason"] = given.reason if given.reason is not None else "by an operator"
    if len(question["reason"]) > MAX_REASON:
        raise RequestError(f"reason is over {MAX_REASON} characters")
    return question


def _pattern(filters: Any) -> Pattern:
    if not isinstance(filters, dict):
        raise PatternError("a pattern is an object of filters")
    return Pattern(filters)


async def _body(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise RequestError(f"the body is over {MAX_BODY} bytes", ErrorCode.TOO_LARGE)
        parts.append(part)
    return b"".join(parts)
