"""What the descriptions of all routes have in common: patterns, positions, answers and problem documents.

Source: OpenAPI 3.1, RFC 9457 for the problem documents.
"""

from __future__ import annotations

from typing import Any, Final

from realizehit.errors import ErrorCode
from realizehit.pattern import RESERVED_KEY

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"

# A key or value is bounded by its percent-encoded length, which a regular expression cannot count. This one says what
# is certain to fit: it cuts a text into pieces of at most 12 encoded bytes, which is what one character can take.
_PIECE: Final = r"([0-9A-Za-z._~\-]{1,12}|[\u0001-\u007F]{1,4}|[\u0001-\u07FF]{1,2}|[\s\S])"
KEY: Final = {"pattern": f"^{_PIECE}{{1,5}}$", "not": {"enum": ["*", RESERVED_KEY]}}
VALUE: Final = {"type": "string", "pattern": f"^{_PIECE}{{1,21}}$", "not": {"const": "*"}}

WILD_PATTERN: Final = {  # of a subscription
    "type": "object",
    "minProperties": 1,
    "maxProperties": 16,
    "propertyNames": {"anyOf": [{"const": "*"}, KEY]},
    "properties": {"*": {"const": "*"}},
    "additionalProperties": {"anyOf": [{"const": "*"}, VALUE, {"type": ["number", "boolean"]}]},
}

POSITION: Final = {
    "type": "string",
    "pattern": "^[a-z0-9]{8}\\.(0|[1-9][0-9]{0,14})$",
    "description": "A place in the log of a pattern: epoch and offset.",
}

SCHEMAS: Final[dict[str, Any]] = {
    "Pattern": {
        "type": "object",
        "description": (
            'Filters. Numbers and booleans count as their text: 3, 3.0 and "3" are the same value. Percent-encoded, '
            "a key has at most 64 bytes, a value 256, and all of it 1,024; texts longer than described here fit where "
            f"they stay below that. The key {RESERVED_KEY} is reserved for what servers publish themselves."
        ),
        "minProperties": 1,
        "maxProperties": 16,
        "propertyNames": KEY,
        "additionalProperties": {"anyOf": [VALUE, {"type": ["number", "boolean"]}]},
        "examples": [{"kind": "news", "channel": "CNN"}],
    },
    "Problem": {
        "type": "object",
        "description": "A problem document (RFC 9457).",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "What is wrong and where, for a person."},
            "code": {"enum": [str(code) for code in ErrorCode], "description": "Stable, for programs."},
        },
    },
}


def operation(name: str, summary: str, ok: dict[str, Any], **responses: Any) -> dict[str, Any]:
    """Describe an operation.

    Args:
        name: its operationId.
        summary: what it does, in a line.
        ok: its answer 200.
        **responses: further answers, what `problems` returns.
    """
    numbered = {status.removeprefix("s"): response for status, response in responses.items()}
    return {"operationId": name, "summary": summary, "responses": {"200": ok, **numbered}}


MEANINGS: Final = {
    400: "The body is not what is asked for.",
    401: "An API key is needed, or the one that was sent is not known.",
    403: f"It may not be published: by this key, from there, or because {RESERVED_KEY} is a key of servers alone.",
    404: "No rule of history, or of presence, contains the pattern.",
    408: "It did not arrive in time.",
    413: "It is too large.",
    415: "It is not sent as JSON.",
    429: "The API key has published as fast as it may.",
    431: "Its head is too large.",
    502: "The broker refused it.",
    503: "The broker cannot be reached, or the server is going away.",
}


def problems(*statuses: int) -> dict[str, Any]:
    """Describe the answers of these statuses, which are problem documents."""
    responses = {f"s{status}": content(MEANINGS[status], PROBLEM, "Problem") for status in statuses}
    for status in (429, 503):
        if status in statuses:
            responses[f"s{status}"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return responses


def content(text: str, media_type: str, schema: str) -> dict[str, Any]:
    """Describe an answer whose body has one of the schemas."""
    return {"description": text, "content": {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}


def plain_text(text: str) -> dict[str, Any]:
    """Describe an answer that is plain text."""
    return {"description": text, "content": {"text/plain": {"schema": {"type": "string"}}}}
