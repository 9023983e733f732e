"""What goes straight to the broker: patterns become channels here, since no server stands between."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from realizehit.broker.publication import Outcome, Publication, Published
from realizehit.client.messages import Message, PublishOutcome, PublishResult, encode_payload, parts_of
from realizehit.common.idempotency_keys import check_key
from realizehit.errors import BrokerError, BrokerUnavailable, PatternError, RealizehitError, SettingsError
from realizehit.pattern import Pattern, channel_id, publication_channel

BLOCK_MESSAGES: Final = 4096
BLOCK_BYTES: Final = 2 << 20  # of payload; one message may be larger


MAX_WINDOW: Final = 86_400.0  # seconds


def checked_window(seconds: float) -> float:
    """Return the time for which idempotency keys are remembered.

    Raises:
        SettingsError: it is out of range.
    """
    if not 0.05 <= seconds <= MAX_WINDOW:
        raise SettingsError(f"idempotency_window: {seconds} is out of range; use 0.05 to {MAX_WINDOW:.0f} seconds")
    return seconds


def encode_message(pattern: Mapping[str, Any], payload: Any, key: str | None = None) -> Publication:
    """Return what goes to the broker: the channel, the payload's JSON text, and the idempotency key.

    Raises:
        PatternError: the pattern breaks a rule, or has a wildcard ``*``.
        RequestError: the payload cannot be written as JSON, or the key cannot be used.
    """
    if key is not None:
        plain = encode_message(pattern, payload)
        return Publication(plain.channel, plain.payload, check_key(key, "the idempotency key"))
    if type(pattern) is Pattern:  # it holds its channel; asking `isinstance` of a mapping costs more than the rest
        if pattern.has_wildcard:
            raise PatternError(f"{pattern.channel!r} has a wildcard '*', which only subscriptions can have")
        return Publication(pattern.channel.encode(), encode_payload(payload))
    return Publication(publication_channel(pattern), encode_payload(payload))


def result_of(pattern: Mapping[str, Any], publication: Publication, published: Published) -> PublishResult:
    """Return what a publisher is told of a message that the broker took."""
    label = pattern.id if type(pattern) is Pattern else channel_id(publication.channel)
    return PublishResult(label, published.nodes, published.duplicate, published.at or None)


Block = list[Publication]
"""Publications that are sent at once."""


def publish_in_blocks(
    messages: Iterable[Message],
) -> Generator[Block, Sequence[Outcome], list[PublishOutcome]]:
    """Publish any number of messages; the caller that drives this generator does the sending.

    Args:
        messages: looked at only as far as the next block needs.

    Yields:
        A block; it is to be sent what the broker said of each of its messages.

    Returns:
        The outcome of each message.
    """
    outcomes: list[PublishOutcome | None] = []
    failure: BrokerError | None = None
    for block, places in _blocks(messages, outcomes):
        replies: Sequence[Outcome]
        if failure is None:
            replies = yield block
            if isinstance(replies[-1], BrokerUnavailable):
                failure = BrokerUnavailable(f"not sent, since an earlier message failed: {replies[-1]}")
        else:
            replies = [failure] * len(block)
        results: dict[tuple[bytes, int, bool, str], PublishResult] = {}  # most messages of a block share few channels
        for place, publication, reply in zip(places, block, replies, strict=True):
            if type(reply) is not Published:
                outcomes[place] = cast(BrokerError, reply)
                continue
            key = publication.channel, reply.nodes, reply.duplicate, reply.at
            result = results.get(key)
            if result is None:
                result = results[key] = result_of({}, publication, reply)
            outcomes[place] = result
    return [outcome for outcome in outcomes if outcome is not None]


def _blocks(messages: Iterable[Message], outcomes: list[PublishOutcome | None]) -> Iterator[tuple[Block, list[int]]]:
    """Cut messages into blocks, and say which places in ``outcomes`` each is about.

    ``outcomes`` gets one entry for each message: ``None``, or the error where it cannot be sent.
    """
    block: Block = []
    places: list[int] = []
    size = 0
    for message in messages:
        try:
            encoded = encode_message(*parts_of(message))
        except RealizehitError as error:
            outcomes.append(error)
            continue
        block.append(encoded)
        places.append(len(outcomes))
        outcomes.append(None)
        size += len(encoded.payload)
        if len(block) == BLOCK_MESSAGES or size >= BLOCK_BYTES:
            yield block, places
            block, places, size = [], [], 0
    if block:
        yield block, places
