"""The texts of the WebSocket protocol: actions to a server; replies, events and payloads from it.

Source: section 1 of the wire protocol, ``docs/protocol.md``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, unquote_to_bytes

import orjson

from realizehit.client.refusals import refusal
from realizehit.errors import Rejected, Unavailable

MAX_SECONDS: Final = 86_400.0  # of what a server tells; a longer time would overflow timers


_PART: Final = rb"(?:[0-9A-Za-z._~-]|%[0-9A-F]{2})++"
_CHANNEL: Final = re.compile(rb"%b:%b(?:\|%b:%b)*+" % ((_PART,) * 4))


class Reply(NamedTuple):
    """The server's answer to one action.

    Attributes:
        id: the action's id.
        ret: what it returned; ``None`` where the server leaves it out, as the original JavaScript server does.
        error: the server's explanation; empty if there is no error.
        code: the error's stable code.
        at: of a subscription that asked for positions: the position from which it goes on.
        recovered: of a subscription that asked for what came after a position: whether all of that follows.
    """

    id: str
    ret: str | None
    error: str
    code: str
    at: str | None = None
    recovered: bool | None = None

    def failure(self) -> Rejected | Unavailable | None:
        """Return the error that this reply means, if any."""
        if not self.error:
            return None
        return refusal(self.error, self.code)


def action(
    request_id: str,
    act: str,
    filters: Mapping[str, Any] | None = None,
    *,
    token: str | None = None,
    sub_keys: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Build the JSON text of one action; ``sub_keys`` are further keys of ``sub``."""
    message: dict[str, Any] = {"id": request_id, "act": act}
    if filters is not None:
        message["pat"] = filters
    message.update(sub_keys)
    if token is not None:
        message["token"] = token
    return orjson.dumps(message).decode()


def parse_reply(message: bytes) -> Reply | None:
    """Read a message that is not a payload; ``None`` if it is not a reply either, which a client ignores."""
    try:
        values = orjson.loads(message)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(values, dict) or not isinstance(values.get("id"), str):
        return None
    ret, error = values.get("ret"), values.get("err")
    at, recovered = values.get("at"), values.get("recovered")
    return Reply(
        values["id"],
        ret if isinstance(ret, str) else None,
        "" if error is None else str(error),
        str(values.get("code", "")),
        at if isinstance(at, str) else None,
        recovered if isinstance(recovered, bool) else None,
    )


class Notice(NamedTuple):
    """What a server tells without having been asked.

    Attributes:
        name: ``gap``, ``unsubscribed``, ``expiring`` or ``note``; there may be others, which a client ignores.
        ids: the ids of the subscriptions that it concerns.
        seconds: of a gap, how long it was; of a token that expires, how long it still holds.
        reason: why a subscription was ended, for a person.
        code: the same for programs.
        at: of a gap, for the ids of subscriptions with positions: the position from which each goes on.
        note: what an operator sent.
    """

    name: str
    ids: tuple[str, ...]
    seconds: float = 0.0
    reason: str = ""
    code: str = ""
    at: Mapping[str, str] = MappingProxyType({})
    note: Any = None


def parse_event(message: bytes) -> Notice | None:
    """Read a message that is neither a payload nor a reply; ``None`` if it is not an event either."""
    try:
        values = orjson.loads(message)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(values, dict) or not isinstance(values.get("evt"), str):
        return None
    ids, seconds, at = values.get("ids"), values.get("seconds"), values.get("at")
    return Notice(
        values["evt"],
        tuple(each for each in ids if isinstance(each, str)) if isinstance(ids, list) else (),
        max(0.0, min(MAX_SECONDS, seconds)) if isinstance(seconds, int | float) else 0.0,
        str(values.get("reason", "")),
        str(values.get("code", "")),
        {key: each for key, each in at.items() if isinstance(each, str)} if isinstance(at, dict) else {},
        values.get("note"),
    )


def channel_in(label: bytes) -> bytes:
    """Return the channel that a message of a wildcard subscription was published to.

    Args:
        label: what stands between the ``@`` and the ``?`` of the message: ``key=value`` fields with ``&`` between
            them. The field ``c`` holds the channel. Other fields are ignored.

    Raises:
        ValueError: the label is malformed; the text says what is wrong with it.
    """
    channel = b""
    for field in label.split(b"&"):
        key, equals, value = field.partition(b"=")
        if not equals:
            raise ValueError("a field is not key=value" if field else "a field is empty")
        if key == b"c":
            if channel:
                raise ValueError("the field c is there twice")
            if not _CHANNEL.fullmatch(value):
                raise ValueError("the field c is not a channel")
            channel = value
    if not channel:
        raise ValueError("the field c is missing")
    if b"%" in channel:
        try:
            unquote_to_bytes(channel).decode()
        except UnicodeDecodeError:
            raise ValueError("the field c is not UTF-8") from None
    return channel


def filters_in(channel: bytes) -> dict[str, str]:
    """Return the filters of a channel that `channel_in` returned, as text: ``{"kind": "news", "channel": "CNN"}``."""
    pairs = (part.partition(":") for part in channel.decode("ascii").split("|"))
    return {unquote(key): unquote(value) for key, _, value in pairs}
