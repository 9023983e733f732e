"""Events: what a node tells a client without having been asked, in the words of its transport."""

from __future__ import annotations

from typing import Any, Final

import orjson

from realizehit import _fanout
from realizehit.errors import ErrorCode
from realizehit.node.names import RegistryKey, label_of


class Events:
    """Sends events to connections of any framing: ``{"evt": <name>, …}``, or as Server-Sent Events ``event: <name>``.

    Args:
        engine: holds the connections.

    Attributes:
        named: handles of the connections on which an event's name stands beside its data, as Server-Sent Events have
            it; their transport adds and removes them.
    """

    def __init__(self, engine: _fanout.Engine) -> None:
        self._engine: Final = engine
        self.named: Final[set[int]] = set()

    def send(self, conn: int, name: str, *, retry: int | None = None, **fields: Any) -> bool:
        """Send one event.

        Args:
            conn: the engine's handle.
            name: the event's, a word.
            retry: milliseconds after which an ``EventSource`` is to come back once the connection has ended; for
                connections in `named` alone.
            **fields: what JSON can hold.

        Returns:
            False when the connection is gone or going.
        """
        if conn in self.named:
            wait = b"" if retry is None else b"retry: %d\n" % retry
            event = b"%bevent: %b\ndata: %b\n\n" % (wait, name.encode(), orjson.dumps(fields))
            return self._engine.send_bytes(conn, event)
        return self._engine.send(conn, orjson.dumps({"evt": name, **fields}))

    def end_subscription(self, conn: int, key: RegistryKey, code: ErrorCode, reason: str) -> bool:
        """End a subscription that its client did not end, and tell it why, with an ``unsubscribed`` event.

        Returns:
            False where there was none.
        """
        ended = self._engine.unsubscribe(conn, key)
        if ended:
            self.send(conn, "unsubscribed", ids=[label_of(key)], code=code, reason=reason)
        return ended
