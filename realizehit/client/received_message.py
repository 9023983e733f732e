"""A message that a subscription received: its payload, its text, and the pattern that it was published to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

from realizehit.client.payloads import decode_payload
from realizehit.client.protocol import filters_in
from realizehit.errors import ClientError

_NOT_DECODED: Final = object()


@final
class ReceivedMessage:
    """One message of a subscription. Payload and pattern are decoded when they are first read.

    Args:
        filters: the subscription's pattern.
        raw: the payload's JSON text.
        channel: the channel that the message was published to, if it came for a wildcard subscription; else empty.
        position: its position, if the server told one.
        traceparent: its traceparent, if the server told one.

    Attributes:
        raw: the payload's JSON text as it was published.
        position: the message's position in the history of its pattern, ``<epoch>.<offset>``. ``None`` if the
            subscription did not ask for positions, or if the message is in no history.
        traceparent: the trace that the message belongs to (W3C Trace Context). ``None`` if the subscription did not ask
            with ``trace``, if the message belongs to no trace, or if it was read from the history.
    """

    __slots__ = ("_channel", "_filters", "_pattern", "_payload", "position", "raw", "traceparent")

    def __init__(
        self,
        filters: Mapping[str, Any],
        raw: bytes,
        channel: bytes = b"",
        position: str | None = None,
        traceparent: str | None = None,
    ) -> None:
        self.raw: Final = raw
        self.position: Final = position
        self.traceparent: Final = traceparent
        self._filters = filters
        self._channel = channel
        self._payload: Any = _NOT_DECODED
        self._pattern: dict[str, Any] | None = None

    @property
    def payload(self) -> Any:
        """The payload as a Python value.

        Raises:
            ClientError: it is not JSON.
        """
        if self._payload is _NOT_DECODED:
            self._payload = decode_payload(self.raw)
        return self._payload

    @property
    def text(self) -> str:
        """The payload's JSON text as it was published.

        Raises:
            ClientError: it is not UTF-8.
        """
        try:
            return self.raw.decode()
        except UnicodeDecodeError as error:
            raise ClientError(f"the payload is not UTF-8: {error}") from None

    @property
    def pattern(self) -> dict[str, Any]:
        """The pattern that the message was published to, without a star.

        For a wildcard subscription all its values are text. For any other it is the subscription's own pattern.
        """
        if self._pattern is None:
            self._pattern = filters_in(self._channel) if self._channel else dict(self._filters)
        return self._pattern

    def __repr__(self) -> str:
        return f"<ReceivedMessage {self.pattern!r}, {len(self.raw)} bytes>"
