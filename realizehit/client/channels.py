"""What goes straight to the broker: patterns become channels here, since no server stands between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from realizehit._fanout import channel_id
from realizehit.client.messages import Message, PublishOutcome, PublishResult, encode_payload
from realizehit.errors import BrokerError, RealizehitError, WildcardUnsupported
from realizehit.pattern import Pattern, channel_of

BLOCK_MESSAGES: Final = 4096
BLOCK_BYTES: Final = 2 << 20  # of payload; one message may be larger


def encode_message(pattern: Mapping[str, Any], payload: Any) -> tuple[bytes, bytes]:
    """Return the channel and the payload's JSON text.

    Raises:
        PatternError: the pattern breaks a rule, or carries the reserved ``*``.
        RequestError: the payload cannot be written as JSON.
    """
    if isinstance(pattern, Pattern):  # it holds its channel
        if pattern.has_wildcard:
            raise WildcardUnsupported(f"{pattern.channel!r} carries the reserved '*' and cannot be published to")
        return pattern.channel.encode(), encode_payload(payload)
    return channel_of(pattern), encode_payload(payload)


def blocks(
    messages: Iterable[Message], outcomes: list[PublishOutcome | None]
) -> Iterator[tuple[list[tuple[bytes, bytes]], list[int]]]:
    """Cut any number of messages into blocks that are sent at once.

    Args:
        messages: looked at only as far as the next block needs.
        outcomes: gets one entry for each message: ``None``, or the error where it cannot be sent.

    Yields:
        Pairs of channel and payload, and their places in ``outcomes``.
    """
    block: list[tuple[bytes, bytes]] = []
    places: list[int] = []
    size = 0
    for pattern, payload in messages:
        try:
            encoded = encode_message(pattern, payload)
        except RealizehitError as error:
            outcomes.append(error)
            continue
        block.append(encoded)
        places.append(len(outcomes))
        outcomes.append(None)
        size += len(encoded[1])
        if len(block) == BLOCK_MESSAGES or size >= BLOCK_BYTES:
            yield block, places
            block, places, size = [], [], 0
    if block:
        yield block, places


def fill(
    outcomes: list[PublishOutcome | None],
    places: Sequence[int],
    block: Sequence[tuple[bytes, bytes]],
    replies: Sequence[int | BrokerError],
) -> None:
    """Put what the broker said of a block into its places."""
    for place, (channel, _), reply in zip(places, block, replies, strict=True):
        outcomes[place] = PublishResult(channel_id(channel), reply) if type(reply) is int else reply  # type: ignore[assignment]
