"""What stands inside the messages: actions and replies of the wire, the bodies of a publish, and its errors over HTTP.

Text in, values out; nothing here knows a socket. A payload is never decoded: it stays the JSON text it came as.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import msgspec
import orjson

from realizehit.broker.publication import Publication
from realizehit.common.idempotency_keys import check_key
from realizehit.common.surrogates import Hidden, count_lone_surrogates
from realizehit.errors import ErrorCode, PatternError, RequestError
from realizehit.node.conflation import check_together, every_of
from realizehit.node.history_request import HistoryRequest, history_request
from realizehit.pattern import RESERVED_KEY, publication_channel

MAX_REQUEST_ID: Final = 128  # characters of an action's id
_IDS: Final = (str, int)


class Action(NamedTuple):
    """One action of a client.

    Attributes:
        id: the client's label for it, or ``None`` where it gave none.
        act: what to do: ``sub``, ``unsub``, ``ping`` or ``auth``.
        pattern: the filters as they came, not yet checked; ``None`` where there were none.
        history: what a ``sub`` asks of the pattern's history; ``None`` if it asks for nothing.
        every: milliseconds in which a ``sub`` asks for at most one message; 0 for every message.
    """

    id: str | int | None
    act: str
    pattern: object
    history: HistoryRequest | None = None
    every: int = 0


class ActionError(RequestError):
    """A malformed action; carries the ``id`` as far as it could be read, so that the reply can name it."""

    def __init__(self, message: str, code: str, request_id: str | int | None = None) -> None:
        super().__init__(message, code)
        self.request_id = request_id


def parse_action(text: bytes) -> Action:
    """Read one message from a client.

    Raises:
        ActionError: ``bad-json`` if it is not JSON, ``bad-request`` if it is not an action. An unknown ``act`` is
            no error here.
    """
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ActionError(f"the message is not JSON: {error}", ErrorCode.BAD_JSON) from None
    if not isinstance(message, dict):
        raise ActionError('an action is an object such as {"act": "ping"}', ErrorCode.BAD_REQUEST)
    request_id = message.get("id")
    if request_id is not None and (
        isinstance(request_id, bool)
        or not isinstance(request_id, _IDS)
        or (isinstance(request_id, str) and len(request_id) > MAX_REQUEST_ID)
    ):
        raise ActionError(
            f"id must be a string of at most {MAX_REQUEST_ID} characters or an integer", ErrorCode.BAD_REQUEST
        )
    act = message.get("act")
    if not isinstance(act, str):
        raise ActionError(
            "act is missing or no string; use sub, unsub, ping or auth", ErrorCode.BAD_REQUEST, request_id
        )
    if act != "sub":
        return Action(request_id, act, message.get("pat"))
    try:
        history, every = history_request(message), every_of(message.get("every"))
        check_together(history, every)
    except RequestError as error:
        raise ActionError(str(error), error.code, request_id) from None
    return Action(request_id, act, message.get("pat"), history, every)


def token_of(text: bytes) -> str:
    """Return the token of an ``auth`` action that `parse_action` has read.

    Raises:
        RequestError: ``bad-request``; it has no token.
    """
    token = orjson.loads(text).get("token")
    if not isinstance(token, str) or not token:
        raise RequestError('token is missing or no string; write {"act": "auth", "token": "..."}')
    return token


def reply(request_id: str | int, ret: str, **more: Any) -> bytes:
    """Build the JSON text of a successful reply, with further members."""
    return orjson.dumps({"id": request_id, "ret": ret, **more})


def error_reply(request_id: str | int, message: str, code: str) -> bytes:
    """Build the JSON text of a reply that says no."""
    return orjson.dumps({"id": request_id, "err": message, "code": str(code)})


def problem(status: int, detail: str, code: str | None = None, **more: Any) -> bytes:
    """Write a problem document, the body of every HTTP response that says no.

    Args:
        status: the response's status.
        detail: what is wrong, for a person.
        code: one of `ErrorCode`; ``None`` where the status says it all.
        **more: further members.

    Source: RFC 9457.
    """
    status = HTTPStatus(status)
    document = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail, **more}
    if code is not None:
        document["code"] = str(code)
    return orjson.dumps(document)


class _PublishBody(msgspec.Struct):
    pattern: Any = msgspec.UNSET
    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    key: Any = msgspec.UNSET


class _Items(msgspec.Struct):
    messages: list[msgspec.Raw]


class _GoodBody(msgspec.Struct, gc=False):
    pattern: dict[str, Any]
    payload: msgspec.Raw
    key: str | msgspec.UnsetType = msgspec.UNSET


class _GoodBodies(msgspec.Struct, gc=False):
    messages: list[_GoodBody]


_publish_decoder: Final = msgspec.json.Decoder(_PublishBody)
_items_decoder: Final = msgspec.json.Decoder(_Items)
_good_decoder: Final = msgspec.json.Decoder(_GoodBody)
_good_batch_decoder: Final = msgspec.json.Decoder(_GoodBodies)


def parse_publication(body: bytes | msgspec.Raw) -> Publication:
    """Read ``{"pattern": {...}, "payload": <any JSON>, "key": <idempotency key>}``; the key may be left out.

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
            return _restored(parse_publication(hidden.text), hidden)
        raise RequestError(f"the body is not JSON: {error}", ErrorCode.BAD_JSON) from None
    except RecursionError:
        raise _nested_too_deeply() from None
    if message.pattern is msgspec.UNSET:
        raise RequestError("pattern is missing")
    if isinstance(message.payload, msgspec.UnsetType):
        raise RequestError("payload is missing")
    if message.key is msgspec.UNSET:
        return Publication(channel_to_publish(message.pattern), bytes(message.payload))
    key = check_key(message.key, "key")
    return Publication(channel_to_publish(message.pattern), bytes(message.payload), key)


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


def parse_batch(body: bytes, most: int) -> list[Publication | RequestError | PatternError]:
    """Read ``{"messages": [...]}``; an item that is wrong becomes its error and harms no other.

    Args:
        body: the request's body.
        most: how many messages are taken.

    Raises:
        RequestError: ``bad-json`` if the body is not JSON or not UTF-8, ``bad-request`` if it is not a batch,
            ``too-large`` where it has too many messages.

    Cost: all items are decoded in one call; item by item only if one of them is not a publication.
    """
    _check_utf8(body)
    try:
        return _publications(_good_batch_decoder.decode(body).messages, most)
    except (msgspec.DecodeError, RecursionError):
        pass  # the second look says what is wrong
    return _one_by_one(_items(body), most)


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


def parse_lines(body: bytes, most: int) -> list[Publication | RequestError | PatternError]:
    """Read NDJSON, a publication a line; blank lines are left out. Otherwise as `parse_batch`.

    Raises:
        RequestError: ``too-large`` if it has too many lines. A line that is not JSON is an error of that message only.
    """
    lines = [line for line in body.split(b"\n") if line and not line.isspace()]
    _check_count(len(lines), most)
    try:
        _check_utf8(body)
        # One by one: msgspec's `decode_lines` also takes two publications on a line, or one on two lines.
        return _publications([_good_decoder.decode(line) for line in lines], most)
    except (msgspec.DecodeError, RecursionError, RequestError):
        return _one_by_one(lines, most)


def _publications(bodies: list[_GoodBody], most: int) -> list[Publication | RequestError | PatternError]:
    _check_count(len(bodies), most)
    try:
        unset = msgspec.UNSET
        return [
            Publication(channel_to_publish(body.pattern), bytes(body.payload))
            if body.key is unset  # a call for each message would cost more
            else _publication_of(body)
            for body in bodies
        ]
    except (PatternError, RequestError):
        return [_publication(body) for body in bodies]


def _publication_of(body: _GoodBody) -> Publication:
    if not isinstance(body.key, msgspec.UnsetType):
        return Publication(channel_to_publish(body.pattern), bytes(body.payload), check_key(body.key, "key"))
    return Publication(channel_to_publish(body.pattern), bytes(body.payload))


def _publication(body: _GoodBody) -> Publication | RequestError | PatternError:
    try:
        return _publication_of(body)
    except (PatternError, RequestError) as error:
        return error


def _one_by_one(items: Sequence[bytes | msgspec.Raw], most: int) -> list[Publication | RequestError | PatternError]:
    _check_count(len(items), most)
    parsed: list[Publication | RequestError | PatternError] = []
    for item in items:
        try:
            parsed.append(parse_publication(item))
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


__all__ = [
    "MAX_REQUEST_ID",
    "Action",
    "ActionError",
    "PatternError",
    "channel_to_publish",
    "error_reply",
    "parse_action",
    "parse_batch",
    "parse_lines",
    "parse_publication",
    "reply",
    "token_of",
]
