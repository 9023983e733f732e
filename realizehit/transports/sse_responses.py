"""The responses to requests for event streams, other than the stream itself.

An ``EventSource`` reconnects when a stream ends, but never after a response other than 200. So where it should
reconnect, the response is a stream that says when, and ends.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import orjson
from starlette.types import Send

from realizehit import _fanout
from realizehit.errors import ErrorCode
from realizehit.node.history_request import PLAIN, Started
from realizehit.node.messages import problem

RETRY: Final = 2000  # milliseconds that an EventSource waits before it reconnects
RETRY_AFTER: Final = 2  # seconds, in every 503

_EVENT_STREAM: Final = b"text/event-stream"
STREAM_HEADERS: Final = (
    (b"content-type", _EVENT_STREAM),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)
_PROBLEM: Final = (b"content-type", b"application/problem+json")


class Refusal(NamedTuple):
    """Why one pattern is not subscribed to."""

    code: ErrorCode | str
    detail: str


class Begun(NamedTuple):
    """A pattern that is subscribed to, and where it begins."""

    channel: bytes
    started: Started = PLAIN


class StreamClient(NamedTuple):
    """The client of a request.

    Attributes:
        send: of ASGI.
        cors: headers that say which pages may read the response.
        reconnects: whether it reconnects when a stream ends, and possibly only then.
    """

    send: Send
    cors: list[tuple[bytes, bytes]]
    reconnects: bool


def greeting(outcomes: Sequence[Begun | Refusal]) -> bytes:
    """Return the first event of a stream: the id of each pattern, or why it is refused, and where it begins."""
    begun = [None if isinstance(outcome, Refusal) else outcome for outcome in outcomes]
    data: dict[str, Any] = {"ids": [None if each is None else _fanout.channel_id(each.channel) for each in begun]}
    if None in begun:
        data["errors"] = errors_of(outcomes)
    started = [PLAIN if each is None else each.started for each in begun]
    if any(each != PLAIN for each in started):
        data["at"] = [None if at is None else str(at) for at, _ in started]
        data["recovered"] = [recovered for _, recovered in started]
    return b"retry: %d\nevent: subscribed\ndata: %b\n\n" % (RETRY, orjson.dumps(data))


def all_refused(outcomes: Sequence[object]) -> list[Refusal]:
    """Return the refusals if there is nothing else, otherwise an empty list."""
    refusals = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
    return refusals if len(refusals) == len(outcomes) else []


def errors_of(outcomes: Sequence[object]) -> list[dict[str, str] | None]:
    """Return the error of each pattern for JSON; ``None`` for a pattern in force."""
    return [
        {"code": str(outcome.code), "detail": outcome.detail} if isinstance(outcome, Refusal) else None
        for outcome in outcomes
    ]


def accepts_events(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a client accepts an event stream by name, as an ``EventSource`` does."""
    ranges = headers.get(b"accept", b"").split(b",")
    return any(each.partition(b";")[0].strip().lower() == _EVENT_STREAM for each in ranges)


async def refuse_all(client: StreamClient, refusals: Sequence[Refusal]) -> None:
    """Answer that no pattern can be subscribed to: only not now, if that is why one of them is refused."""
    unavailable = next((refusal for refusal in refusals if refusal.code == ErrorCode.UNAVAILABLE), None)
    if unavailable is not None:
        await refuse_for_now(client, unavailable.detail, errors=errors_of(refusals))
        return
    await refuse(client, HTTPStatus.BAD_REQUEST, refusals[0].detail, refusals[0].code, errors=errors_of(refusals))


async def refuse_for_now(
    client: StreamClient, detail: str, code: str = ErrorCode.UNAVAILABLE, *, seconds: int = RETRY_AFTER, **fields: Any
) -> None:
    """Answer that there is no stream now, so that the client comes back later."""
    document = problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, code, **fields)
    if client.reconnects:
        delay = seconds * random.randint(1000, 2000)  # noqa: S311 - spreads the load, not a secret
        await send_response(
            client, 200, b"retry: %d\nevent: unavailable\ndata: %b\n\n" % (delay, document), STREAM_HEADERS
        )
    else:
        wait = [(b"retry-after", b"%d" % seconds), (b"access-control-expose-headers", b"Retry-After")]
        await send_response(client, 503, document, [_PROBLEM, *wait])


async def refuse(
    client: StreamClient,
    status: HTTPStatus,
    detail: str,
    code: str | None = None,
    *,
    more: Iterable[tuple[bytes, bytes]] = (),
    **fields: Any,
) -> None:
    """Send a problem document."""
    await send_response(client, status.value, problem(status, detail, code, **fields), [_PROBLEM, *more])


async def send_response(client: StreamClient, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Send a whole response."""
    length = [] if status == 204 else [(b"content-length", b"%d" % len(body))]
    await client.send({"type": "http.response.start", "status": status, "headers": [*headers, *length, *client.cors]})
    await client.send({"type": "http.response.body", "body": body})
