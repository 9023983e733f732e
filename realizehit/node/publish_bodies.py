"""The bodies of publish requests: one publication, a batch, and lines of publications.

Text in, values out; nothing here knows a socket. A payload is never decoded: it stays the JSON text it came as.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from realizehit.broker.publication import Publication, with_trace
from realizehit.common.idempotency_keys import check_key
from realizehit.common.surrogates import Hidden, count_lone_surrogates
from realizehit.common.traceparent import Traceparents
from realizehit.errors import ErrorCode, PatternError, RequestError
from realizehit.pattern import RESERVED_KEY, publication_channel


class _PublishBody(msgspec.Struct):
    pattern: Any = msgspec.UNSET
    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    key: Any = msgspec.UNSET
    traceparent: Any = msgspec.UNSET


class _Items(msgspec.Struct):
    messages: list[msgspec.Raw]


class _GoodBody(msgspec.Struct, gc=False):
    pattern: dict[str, Any]
    payload: msgspec.Raw
    key: str | msgspec.UnsetType = msgspec.UNSET
    traceparent: Any = msgspec.UNSET


class _GoodBodies(msgspec.Struct, gc=False):
    messages: list[_GoodBody]


_publish_decoder: Final = msgspec.json.Decoder(_PublishBody)
_items_decoder: Final = msgspec.json.Decoder(_Items)
_good_decoder: Final = msgspec.json.Decoder(_GoodBody)
_good_batch_decoder: Final = msgspec.json.Decoder(_GoodBodies)


def parse_publication(body: bytes | msgspec.Raw, traces: Traceparents | None = None) -> Publication:
    """Read ``{"pattern": {...}, "payload": <any JSON>, "key": <idempotency key>}``; the key may be left out.

    Args:
        body: JSON text.
        traces: reads the key ``traceparent``; ``None`` to ignore it.

    Raises:
        RequestError: ``bad-json`` if it is not JSON or not UTF-8, ``bad-request`` if a part is missing or the key
            cannot be used, ``forbidden`` if the pattern has the reserved key.
        PatternError: the pattern breaks a rule.
    """
    _check_utf8(body)
    try:
        message = _publish_decoder.decode(body)
    except msgspec.ValidationError:
        raise RequestError('a publication is an object {"pattern": {...}, "payload": ...}') from None
    except msgspec.DecodeError as error:
        if (hidden := _without_lone_surrogates(bytes(body))) is not None:
            return _restored(parse_publication(hidden.text, traces), hidden)
        raise RequestError(f"the body is not JSON: {error}", ErrorCode.BAD_JSON) from None
    except RecursionError:
        raise _nested_too_deeply() from None
    if message.pattern is msgspec.UNSET:
        raise RequestError("pattern is missing")
    if isinstance(message.payload, msgspec.UnsetType):
        raise RequestError("payload is missing")
    key = b"" if message.key is msgspec.UNSET else check_key(message.key, "key")
    channel = channel_to_publish(message.pattern)
    return Publication(channel, _payload(message.payload, message.traceparent, traces), key)


def _payload(payload: msgspec.Raw, traceparent: Any, traces: Traceparents | None) -> bytes:
    """Return a payload, with the label of its trace if it has one that can be used."""
    if traces is None or traceparent is msgspec.UNSET or (read := traces.read(traceparent)) is None:
        return bytes(payload)
    return with_trace(bytes(payload), read)


def _without_lone_surrogates(body: bytes) -> Hidden | None:
    """Return a body that the library refused in a form that it may take; ``None`` where this is not why."""
    if b"\\u" not in body:
        return None
    try:
        hidden = Hidden(body)
    except ValueError as error:
        raise RequestError(f"the body cannot be read: {error}", ErrorCode.BAD_JSON) from None
    return hidden if hidden.found else None


def _restored(publication: Publication, hidden: Hidden) -> Publication:
    if hidden.holds_one(unquote(publication.channel.decode())):
        raise PatternError("a key or value of the pattern holds a lone surrogate")
    payload = hidden.restore(publication.payload)
    if count_lone_surrogates(payload) != hidden.found:  # such as in a value that a later one of its key replaces
        raise RequestError("a lone surrogate stands outside the payload", ErrorCode.BAD_JSON)
    return Publication(publication.channel, payload, publication.key)


def channel_to_publish(pattern: Any) -> bytes:
    """Return the channel of a publication of a client.

    Raises:
        PatternError: the pattern breaks a rule.
        RequestError: it has the reserved key.
    """
    channel = publication_channel(pattern)
    if RESERVED_KEY in pattern:
        raise RequestError(f"the key {RESERVED_KEY} is reserved: only servers publish under it", ErrorCode.FORBIDDEN)
    return channel


def parse_batch(
    body: bytes, most: int, traces: Traceparents | None = None
) -> list[Publication | RequestError | PatternError]:
    """Read ``{"messages": [...]}``; an item that is wrong becomes its error and harms no other.

    Args:
        body: the request's body.
        most: how many messages are taken.
        traces: as for `parse_publication`.

    Raises:
        RequestError: ``bad-json`` if the body is not JSON or not UTF-8, ``bad-request`` if it is not a batch,
            ``too-large`` where it has too many messages.

    Cost: all items are decoded in one call; item by item only if one of them is not a publication.
    """
    _check_utf8(body)
    try:
        bodies = _good_batch_decoder.decode(body).messages
    except (msgspec.DecodeError, RecursionError):
        return _one_by_one(_items(body), most, traces)  # the second look says what is wrong
    return _publications(bodies, most, traces)


def _items(body: bytes) -> Sequence[bytes | msgspec.Raw]:
    try:
        return _items_decoder.decode(body).messages
    except msgspec.ValidationError as error:
        raise RequestError(f'a batch is an object {{"messages": [...]}}: {error}') from None
    except msgspec.DecodeError as error:
        if (hidden := _without_lone_surrogates(body)) is not None:
            return [hidden.restore(bytes(item)) for item in _items(hidden.text)]
        raise RequestError(f"the body is not JSON: {error}", ErrorCode.BAD_JSON) from None
    except RecursionError:
        raise _nested_too_deeply() from None


def parse_lines(
    body: bytes, most: int, traces: Traceparents | None = None
) -> list[Publication | RequestError | PatternError]:
    """Read NDJSON, a publication a line; blank lines are left out. Otherwise as `parse_batch`.

    Raises:
        RequestError: ``too-large`` if it has too many lines. A line that is not JSON is an error of that message only.
    """
    lines = [line for line in body.split(b"\n") if line and not line.isspace()]
    _check_count(len(lines), most)
    try:
        _check_utf8(body)
        # One by one: msgspec's `decode_lines` also takes two publications on a line, or one on two lines.
        bodies = [_good_decoder.decode(line) for line in lines]
    except (msgspec.DecodeError, RecursionError, RequestError):
        return _one_by_one(lines, most, traces)
    return _publications(bodies, most, traces)


def _publications(
    bodies: list[_GoodBody], most: int, traces: Traceparents | None
) -> list[Publication | RequestError | PatternError]:
    _check_count(len(bodies), most)
    if traces is not None:  # each is read once, since they are counted
        return [_publication(body, traces) for body in bodies]
    try:
        unset = msgspec.UNSET
        return [
            Publication(channel_to_publish(body.pattern), bytes(body.payload))
            if body.key is unset  # a call for each message would cost more
            else _publication_of(body, None)
            for body in bodies
        ]
    except (PatternError, RequestError):
        return [_publication(body, None) for body in bodies]


def _publication_of(body: _GoodBody, traces: Traceparents | None) -> Publication:
    key = b"" if isinstance(body.key, msgspec.UnsetType) else check_key(body.key, "key")
    return Publication(channel_to_publish(body.pattern), _payload(body.payload, body.traceparent, traces), key)


def _publication(body: _GoodBody, traces: Traceparents | None) -> Publication | RequestError | PatternError:
    try:
        return _publication_of(body, traces)
    except (PatternError, RequestError) as error:
        return error


def _one_by_one(
    items: Sequence[bytes | msgspec.Raw], most: int, traces: Traceparents | None
) -> list[Publication | RequestError | PatternError]:
    _check_count(len(items), most)
    parsed: list[Publication | RequestError | PatternError] = []
    for item in items:
        try:
            parsed.append(parse_publication(item, traces))
        except (RequestError, PatternError) as error:
            parsed.append(error)
    return parsed


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise RequestError(f"the batch has {count} messages; at most {most} are taken", ErrorCode.TOO_LARGE)


def _nested_too_deeply() -> RequestError:
    return RequestError("the body is nested too deeply", ErrorCode.BAD_JSON)


def _check_utf8(text: bytes | msgspec.Raw) -> None:
    # msgspec skips over a raw value without looking at its encoding. A Raw is part of a body that was checked.
    if type(text) is bytes and not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise RequestError(
                f"the body is not UTF-8: {error.reason} at byte {error.start}", ErrorCode.BAD_JSON
            ) from None
