"""Requests for the messages that are kept of a pattern, and the answers, for both API clients.

Source: ``docs/http-api.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import httpx2
import msgspec
import orjson

from realizehit.client.filters import filters_of
from realizehit.client.http import raise_for_refusal, was_never_sent
from realizehit.client.payloads import decode_payload
from realizehit.common.causes import reason_of
from realizehit.common.masking import masked
from realizehit.common.surrogates import Hidden
from realizehit.errors import Rejected, RequestError, Unavailable


class KeptMessage(NamedTuple):
    """One message of a history.

    Attributes:
        position: ``<epoch>.<offset>``.
        raw: the payload's JSON text as it was published.
        pattern: what it was published to, all values as text; ``None`` if that is the pattern that was asked for.
    """

    position: str
    raw: bytes
    pattern: Mapping[str, str] | None = None

    @property
    def payload(self) -> Any:
        """The payload as a Python value.

        Raises:
            ClientError: it is not JSON.
        """
        return decode_payload(self.raw)


class History(NamedTuple):
    """The messages that are kept of a pattern, or a part of them.

    Attributes:
        position: of the newest message; its offset is 0 if there never was a message.
        first: offset of the oldest message that is kept.
        messages: oldest first.
        more: whether messages up to ``position`` are left out; ask again with the position of the last message.
        recovered: with ``since``: whether every message after that position is still there. If false, ``messages``
            begins with the oldest one that is kept. ``None`` without ``since``.
    """

    position: str
    first: int
    messages: Sequence[KeptMessage]
    more: bool
    recovered: bool | None = None


def history_query(pattern: object, last: int | None, since: str | None, limit: int | None) -> dict[str, str]:
    """Return the query of a request.

    Raises:
        PatternError: the pattern is not a mapping, or cannot be written as JSON.
        RequestError: ``last`` and ``since`` are both given, or neither.
    """
    if (last is None) == (since is None):
        raise RequestError("give either last or since")
    query = {"pat": orjson.dumps(filters_of(pattern)).decode()}
    query |= {
        name: str(value) for name, value in (("last", last), ("since", since), ("limit", limit)) if value is not None
    }
    return query


def history_answer(outcome: httpx2.Response | httpx2.HTTPError, url: str) -> History:
    """Return what a request was answered.

    Args:
        outcome: the response, or the library's error.
        url: what was asked, without the query.

    Raises:
        Unavailable: there is no connection or no answer, or the answer is 503.
        Rejected: any other answer that is not a success; ``no-history`` if no rule contains the pattern.
    """
    if isinstance(outcome, httpx2.Response):
        raise_for_refusal(outcome)
        return _read(outcome)
    place = masked(url)
    text = "it took too long" if isinstance(outcome, httpx2.TimeoutException) else reason_of(outcome)
    if was_never_sent(outcome) or isinstance(outcome, httpx2.ProxyError):
        raise Unavailable(f"cannot connect to {place}: {text}") from outcome
    raise Unavailable(f"{place} did not answer: {text}") from outcome


class _Message(msgspec.Struct):
    at: str
    payload: msgspec.Raw
    pattern: dict[str, str] | None = None


class _Answer(msgspec.Struct):
    at: str
    first: int
    messages: list[_Message]
    more: bool = False
    recovered: bool | None = None


_decoder = msgspec.json.Decoder(_Answer)


def _read(response: httpx2.Response) -> History:
    try:
        hidden = None
        try:
            answer = _decoder.decode(response.content)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:  # perhaps because of lone surrogates, which the library refuses
            hidden = Hidden(response.content)
            answer = _decoder.decode(hidden.text)
    except ValueError as error:  # also the errors of the library
        text = f"{masked(str(response.url))} did not answer with a history: {error}"
        raise Rejected(text, status=response.status_code) from None
    messages = [
        KeptMessage(
            each.at, bytes(each.payload) if hidden is None else hidden.restore(bytes(each.payload)), each.pattern
        )
        for each in answer.messages
    ]
    return History(answer.at, answer.first, messages, answer.more, answer.recovered)
