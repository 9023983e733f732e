"""Why an Engine.IO request is refused, with the codes and texts of the reference server.

Source: the Engine.IO server's ``errors`` and ``errorMessages``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import orjson


class EngineIOError(IntEnum):
    """The code in a response with status 400."""

    UNKNOWN_TRANSPORT = 0
    UNKNOWN_SID = 1
    BAD_HANDSHAKE_METHOD = 2
    BAD_REQUEST = 3
    FORBIDDEN = 4
    UNSUPPORTED_PROTOCOL_VERSION = 5

    def body(self, detail: str = "") -> bytes:
        """Return the JSON of the response."""
        message = _MESSAGES[self] + (f": {detail}" if detail else "")
        return orjson.dumps({"code": self.value, "message": message})


_MESSAGES: Final = {
    EngineIOError.UNKNOWN_TRANSPORT: "Transport unknown",
    EngineIOError.UNKNOWN_SID: "Session ID unknown",
    EngineIOError.BAD_HANDSHAKE_METHOD: "Bad handshake method",
    EngineIOError.BAD_REQUEST: "Bad request",
    EngineIOError.FORBIDDEN: "Forbidden",
    EngineIOError.UNSUPPORTED_PROTOCOL_VERSION: "Unsupported protocol version",
}


class Refused(Exception):
    """A request that is refused.

    Args:
        error: which of the errors.
        detail: what was wrong, for humans.
    """

    def __init__(self, error: EngineIOError, detail: str = "") -> None:
        super().__init__(detail)
        self.error = error
        self.detail = detail

    @property
    def body(self) -> bytes:
        """The JSON of the response."""
        return self.error.body(self.detail)
