"""The query of an Engine.IO request: which revision, transport and session it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl

from realizehit.transports.engineio.errors import EngineIOError, Refused

_MAX_FIELDS = 32


class Query(NamedTuple):
    """What a request asks for.

    Attributes:
        revision: of the protocol: 3 or 4.
        transport: ``polling`` or ``websocket``.
        sid: the session's id; ``None`` for a new session.
    """

    revision: int
    transport: str
    sid: str | None

    @classmethod
    def parse(cls, text: bytes) -> Query:
        """Read a query.

        Raises:
            Refused: it is malformed, or asks for something that this server does not support.
        """
        try:
            pairs: Mapping[str, str] = dict(
                parse_qsl(text.decode("ascii"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
            )
        except ValueError:
            raise Refused(EngineIOError.BAD_REQUEST, "the query cannot be read") from None
        transport = pairs.get("transport", "")
        if transport not in ("polling", "websocket"):
            raise Refused(EngineIOError.UNKNOWN_TRANSPORT)
        if pairs.get("EIO") not in ("3", "4"):
            raise Refused(EngineIOError.UNSUPPORTED_PROTOCOL_VERSION)
        if "j" in pairs:
            raise Refused(EngineIOError.BAD_REQUEST, "JSONP polling (j=) is not supported")
        return cls(int(pairs["EIO"]), transport, pairs.get("sid"))
