"""Messages and results of all publishers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec
import orjson

from realizehit.common.surrogates import Hidden
from realizehit.errors import ErrorCode, RealizehitError, RequestError

RETRIES: Final = 2
"""How often a request is repeated by default."""


class PublishResult(NamedTuple):
    """The result of publishing one message.

    Attributes:
        id: the pattern's label on the wire; empty where the server does not tell it.
        nodes: how many subscribing WebSocket nodes the broker reached, not how many clients; ``None`` where the server
            does not tell it.
        duplicate: whether a message with the same idempotency key was published before, and this one was not; the
            other values are those of the first time.
        at: the position of the message in its history, ``<epoch>.<offset>``; ``None`` if the server does not tell it.
    """

    id: str
    nodes: int | None
    duplicate: bool = False
    at: str | None = None


Message = tuple[Mapping[str, Any], Any] | tuple[Mapping[str, Any], Any, str | None]
"""A pattern and a payload, and perhaps an idempotency key."""


def parts_of(message: Message) -> tuple[Mapping[str, Any], Any, str | None]:
    """Return the pattern, the payload and the idempotency key of a message."""
    pattern, payload, *key = message
    return pattern, payload, key[0] if key else None


PublishOutcome = PublishResult | RealizehitError
"""What `publish` would have returned or raised for one message of many."""


class RawJSON:
    """A payload that is JSON text already. Subscribers get the same bytes.

    Use it for what Python values lose, such as integers over 64 bits and the spelling of floats.

    Args:
        text: one JSON value, UTF-8 where it is bytes. It is checked when it is published.
    """

    __slots__ = ("text",)

    def __init__(self, text: str | bytes) -> None:
        self.text: Final = text

    def __repr__(self) -> str:
        return f"RawJSON({self.text!r})"


def encode_payload(payload: Any) -> bytes:
    """Return the JSON text of a payload.

    Raises:
        RequestError: JSON cannot represent it, or it is a `RawJSON` whose text is not JSON.
    """
    if isinstance(payload, RawJSON):
        return _checked(payload.text)
    try:
        return orjson.dumps(payload)
    except TypeError as error:  # what orjson raises, and the type of its own error
        hint = "; pass such numbers as RawJSON" if "64-bit" in str(error) else ""
        raise RequestError(f"the payload cannot be written as JSON: {error}{hint}") from None


def _checked(text: str | bytes) -> bytes:
    try:
        encoded = text.encode() if isinstance(text, str) else bytes(text)
        check_json(encoded)
    except ValueError as error:
        raise RequestError(f"the raw payload is not JSON: {error}", ErrorCode.BAD_JSON) from None
    return encoded


def check_json(text: bytes) -> None:
    """Check that a text is JSON (RFC 8259), without decoding it.

    Raises:
        ValueError: it is not JSON or not UTF-8; the text says where.
    """
    if not text.isascii():
        text.decode()
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.DecodeError as error:
        hidden = Hidden(text)  # the library refuses lone surrogates
        if not hidden.found:
            raise ValueError(str(error)) from None
        try:
            msgspec.json.decode(hidden.text, type=msgspec.Raw)
        except msgspec.DecodeError as other:
            raise ValueError(str(other)) from None
