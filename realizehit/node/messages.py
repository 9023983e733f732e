"""What stands inside the messages: actions and replies of the wire, and errors over HTTP.

Text in, values out; nothing here knows a socket.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final, NamedTuple

import orjson

from realizehit.errors import ErrorCode, RequestError
from realizehit.node.conflation import check_together, every_of
from realizehit.node.history_request import HistoryRequest, history_request

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
        trace: whether a ``sub`` asks for the traceparents of messages.
    """

    id: str | int | None
    act: str
    pattern: object
    history: HistoryRequest | None = None
    every: int = 0
    trace: bool = False


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
        trace = _is_traced(message)
    except RequestError as error:
        raise ActionError(str(error), error.code, request_id) from None
    return Action(request_id, act, message.get("pat"), history, every, trace)


def _is_traced(message: dict[str, Any]) -> bool:
    trace = message.get("trace")
    if trace is not None and not isinstance(trace, bool):
        raise RequestError("trace must be true or false")
    return trace is True


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
