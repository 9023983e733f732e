"""What an operator has done to the clients of a whole deployment, by their identity: this process's part of it.

Each function answers a question of `realizehit.node.fleet`: it takes and returns what JSON can hold.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from realizehit import _fanout
from realizehit.access.identity import Identity
from realizehit.errors import ErrorCode
from realizehit.node.hub import Hub
from realizehit.pattern import Channel, Pattern
from realizehit.transports.guard import SLICE, Guard

logger: Final = logging.getLogger(__name__)

MOST_LISTED: Final = 1000  # identities in one answer


class FleetActions:
    """Finds clients by their identity, and acts on them.

    Args:
        engine: holds their connections.
        hub: holds their subscriptions.
        guard: knows their identities.
        reload: reads the files of grants, keys and tokens again.
    """

    def __init__(self, engine: _fanout.Engine, hub: Hub, guard: Guard, reload: Callable[[], None]) -> None:
        self._engine = engine
        self._hub = hub
        self._guard = guard
        self._reload = reload

    @property
    def handlers(self) -> dict[str, Callable[[Any], Awaitable[Any]]]:
        """The functions by the kind of question."""
        return {
            "clients": self.clients,
            "disconnect": self.disconnect,
            "unsubscribe": self.unsubscribe,
            "note": self.note,
            "reload": self.reload,
        }

    async def clients(self, data: Any) -> Any:
        """List the identities that a pattern matches, with the number of connections of each.

        Args:
            data: ``identity``, the pattern; ``after``, the text of the identity that a page before ended with.

        Returns:
            ``connections``, of all; ``clients``, pairs of identity and connections in the order of their texts, at most
            `MOST_LISTED`.
        """
        found: Counter[Identity] = Counter()
        async for _, identity in self._matching(data):
            found[identity] += 1
        texts = sorted((channel_text(identity), dict(identity), count) for identity, count in found.items())
        page = [[identity, count] for text, identity, count in texts if text > data["after"]]
        return {"connections": found.total(), "clients": page[:MOST_LISTED]}

    async def disconnect(self, data: Any) -> Any:
        """Disconnect clients.

        Args:
            data: ``identity``, the pattern; ``code`` and ``reason`` of the close frame.
        """
        count = 0
        async for conn, _ in self._matching(data):
            count += self._engine.disconnect(conn, data["code"], data["reason"]) is not False
        if count:
            logger.info("an operator disconnected clients: %d", count)
        return {"connections": count}

    async def unsubscribe(self, data: Any) -> Any:
        """End one subscription of clients, and tell them.

        Args:
            data: ``identity``, the pattern; ``channel``, the channel of the subscription; ``reason``, for the clients.
        """
        channel = Channel(data["channel"].encode("ascii"))
        count = 0
        async for conn, _ in self._matching(data):
            if self._hub.unsubscribe(conn, channel):
                ids = [_fanout.channel_id(channel)]
                self._hub.events.send(conn, "unsubscribed", ids=ids, code=ErrorCode.FORBIDDEN, reason=data["reason"])
                count += 1
        return {"connections": count}

    async def note(self, data: Any) -> Any:
        """Send clients a note, an event of its own.

        Args:
            data: ``identity``, the pattern; ``note``, any JSON.
        """
        count = 0
        async for conn, _ in self._matching(data):
            count += self._hub.events.send(conn, "note", note=data["note"])
        return {"connections": count}

    async def reload(self, _: Any) -> Any:
        """Read the files of grants, keys and tokens again."""
        self._reload()
        return {}

    async def _matching(self, data: Any) -> AsyncIterator[tuple[int, Identity]]:
        """Yield the connections whose identity a pattern matches; other work has its turn meanwhile."""
        pattern = Pattern(data["identity"])
        matches: dict[Identity, bool] = {}
        for turn, (conn, identity) in enumerate(self._guard.gate.connected.identified(), 1):
            if identity not in matches:
                matches[identity] = matches_identity(pattern, identity)
            if matches[identity] and self._engine.is_open(conn):
                yield conn, identity
            if turn % SLICE == 0:
                await asyncio.sleep(0)


def matches_identity(pattern: Pattern, identity: Identity) -> bool:
    """Whether a pattern matches an identity, as it would match a publication with the identity's values."""
    own = pattern.channel.encode("ascii")
    channel = channel_text(identity).encode("ascii")
    return channel == own if not pattern.has_wildcard else _fanout.project(channel, _fanout.shape_of(own)) == own


def channel_text(identity: Mapping[str, str]) -> str:
    """Return an identity as a channel; its keys and values are in the text of patterns already."""
    return "|".join(f"{key}:{value}" for key, value in sorted(identity.items()))
