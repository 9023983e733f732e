"""The query of a request for an event stream: patterns, where each begins in its history, and how often it is told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

import orjson

from realizehit import _fanout
from realizehit.common.position import Position
from realizehit.errors import ErrorCode, PatternError, RequestError
from realizehit.node.conflation import check_together, every_of
from realizehit.node.history_request import BOTH_GIVEN, HistoryRequest, count_of, position_of
from realizehit.pattern import Channel, Pattern, subscription_channel
from realizehit.transports.sse_responses import Refusal

_MAX_FIELDS: Final = 4096  # of a query
_EVENT_ID: Final = re.compile(r"([0-9a-f]{8})@o=([a-z0-9]{8}\.[0-9]{1,16})(?:&.*)?")
_SWITCH: Final = {"": True, "1": True, "true": True, "0": False, "false": False}


class Wanted(NamedTuple):
    """A pattern of a stream.

    Attributes:
        channel: the canonical channel; why it is refused where the pattern or its history cannot be read.
        history: what is asked of its history; ``None`` for nothing.
        resumes: whether the stream continues one that has told positions, but not how far this pattern had come.
        every: milliseconds in which at most one message is asked for; 0 for every message.
        trace: whether the traceparents of messages are asked for.
    """

    channel: Channel | Refusal
    history: HistoryRequest | None = None
    resumes: bool = False
    every: int = 0
    trace: bool = False


class _Field:
    """A ``pat`` with the fields behind it."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.since = ""
        self.last = ""
        self.every = ""


def wanted_of(query: bytes, last_event_id: bytes = b"", *, wildcards: bool) -> list[Wanted]:
    """Return what a request asks for, in the order of its patterns.

    Args:
        query: ``pat`` for each pattern, with its ``since``, ``last`` or ``every`` behind it; ``offsets`` and ``trace``
            for all.
        last_event_id: the header; the pattern that it names resumes, unless the query says where.
        wildcards: whether subscriptions may have wildcards.
    """
    try:
        pairs = parse_qsl(query.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError as error:
        return [Wanted(Refusal(ErrorCode.BAD_REQUEST, f"the query cannot be read: {error}"))]
    fields: list[_Field] = []
    switches = {"offsets": False, "trace": False}
    for name, text in pairs:
        if name == "pat":
            fields.append(_Field(text))
        elif name in switches:
            if text.lower() not in _SWITCH:
                return [Wanted(Refusal(ErrorCode.BAD_REQUEST, f"{name} must be 1 or 0"))]
            switches[name] = _SWITCH[text.lower()]
        elif name in ("since", "last", "every") and text:
            if not fields:
                return [Wanted(Refusal(ErrorCode.BAD_REQUEST, f"{name} must stand behind the pat that it belongs to"))]
            setattr(fields[-1], name, text)
    resumed = _EVENT_ID.fullmatch(last_event_id.decode("latin-1"))
    offsets, trace = switches["offsets"], switches["trace"]
    wanted = [_wanted(field, offsets=offsets, wildcards=wildcards)._replace(trace=trace) for field in fields]
    return _resume(wanted, resumed, offsets=offsets)


def _resume(wanted: Sequence[Wanted], resumed: re.Match[str] | None, *, offsets: bool) -> list[Wanted]:
    since = Position.parse(resumed[2]) if resumed else None
    if resumed is None or since is None:
        return list(wanted)
    result = []
    for each in wanted:
        says_where = each.history is not None and (each.history.since or each.history.last)
        if isinstance(each.channel, Refusal) or each.every or says_where:
            result.append(each)
        elif _fanout.channel_id(each.channel) == resumed[1]:
            result.append(each._replace(history=HistoryRequest(since)))
        else:
            result.append(each._replace(resumes=offsets))
    return result


def _wanted(field: _Field, *, offsets: bool, wildcards: bool) -> Wanted:
    try:
        text = field.pattern
        filters = orjson.loads(text) if text.lstrip().startswith("{") else Pattern.parse(text)
        channel = subscription_channel(filters, wildcards=wildcards)
        history, every = (
            _history(field, offsets=offsets and not field.every),
            every_of(_number(field.every) if field.every else None),
        )
        check_together(history, every)
        return Wanted(channel, history, every=every)
    except orjson.JSONDecodeError as error:
        return Wanted(Refusal(ErrorCode.BAD_JSON, f"the pattern is not JSON: {error}"))
    except (PatternError, RequestError) as error:
        return Wanted(Refusal(error.code, str(error)))


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() and len(text) <= 16 else text


def _history(field: _Field, *, offsets: bool) -> HistoryRequest | None:
    if field.since and field.last:
        raise RequestError(BOTH_GIVEN)
    if field.since:
        return HistoryRequest(position_of(field.since))
    if field.last:
        return HistoryRequest(last=count_of(_number(field.last)))
    return HistoryRequest() if offsets else None
