"""``GET {prefix}audience``: which channels a publication would go to, and how many are subscribed to them.

Nothing is published.

Source: ``docs/http-api.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from realizehit import _fanout
from realizehit.access.gate import Gate
from realizehit.broker.base import Bus
from realizehit.broker.projections import projections_of
from realizehit.broker.publication import Publication
from realizehit.http.pattern_query import fields_of, pattern_asked_for
from realizehit.http.problems import BrokerErrorReporter
from realizehit.http.publisher_queries import admitted, answer_of, refusal_response
from realizehit.node.publish_bodies import channel_to_publish
from realizehit.pattern import shape_of


class Audience:
    """Tells publishers who would get a publication.

    Args:
        bus: the broker.
        gate: decides who may ask, which are those who may publish. ``None`` where access is controlled elsewhere.
        broker_errors: reports that the broker cannot be reached.
        subscribers: returns how many clients of this process are subscribed to a channel; ``None`` for a process
            without clients.
    """

    def __init__(
        self,
        bus: Bus,
        gate: Gate | None,
        broker_errors: BrokerErrorReporter,
        subscribers: Callable[[bytes], int] | None,
    ) -> None:
        self._bus = bus
        self._gate = gate
        self._broker_errors = broker_errors
        self._subscribers = subscribers

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
        try:
            document = await self._document(admitted(self._gate, request, _channel, bytes))
        except Exception as error:
            refusal = refusal_response(error, self._broker_errors)
            if refusal is None:
                raise
            return refusal
        return answer_of(orjson.dumps(document))

    async def _document(self, channel: bytes) -> dict[str, Any]:
        await self._bus.ping()  # the shapes are known once there is a connection
        shapes = self._bus.followed_shapes
        projections = projections_of(Publication(channel, b""), shapes)
        channels = [channel, *(projection.channel for projection in projections)]
        nodes = await self._bus.nodes(channels)
        return {
            "channel": channel.decode("ascii"),
            "id": _fanout.channel_id(channel),
            "nodes": sum(nodes),
            "channels": [self._row(one, count, one is channel) for one, count in zip(channels, nodes, strict=True)],
            "shapes": [shape.decode("ascii") for shape in sorted(shapes)],
        }

    def _row(self, channel: bytes, nodes: int, exact: bool) -> dict[str, Any]:
        return {
            "channel": channel.decode("ascii"),
            "id": _fanout.channel_id(channel),
            "shape": None if exact else shape_of(channel).decode("ascii"),
            "nodes": nodes,
            "subscribers": None if self._subscribers is None else self._subscribers(channel),
        }


def _channel(query: bytes) -> bytes:
    return channel_to_publish(pattern_asked_for(fields_of(query)))
