"""The publish API's description for machines, served at ``/openapi.json``.

Source: OpenAPI 3.1, RFC 9457 for the problem documents.
"""

from __future__ import annotations

from typing import Any, Final

from realizehit import __version__
from realizehit.broker.history.rules import MAX_SIZE
from realizehit.common.idempotency_keys import MAX_KEY
from realizehit.errors import ErrorCode
from realizehit.http.openapi_presence import PRESENCE, PRESENCE_PARAMETERS
from realizehit.pattern import RESERVED_KEY
from realizehit.settings import Settings

_JSON: Final = "application/json"
_PROBLEM: Final = "application/problem+json"

# A key or value is bounded by its percent-encoded length, which a regular expression cannot count. This one says what
# is certain to fit: it cuts a text into pieces of at most 12 encoded bytes, which is what one character can take.
_PIECE: Final = r"([0-9A-Za-z._~\-]{1,12}|[\u0001-\u007F]{1,4}|[\u0001-\u07FF]{1,2}|[\s\S])"
_KEY: Final = {"pattern": f"^{_PIECE}{{1,5}}$", "not": {"enum": ["*", RESERVED_KEY]}}
_VALUE: Final = {"type": "string", "pattern": f"^{_PIECE}{{1,21}}$", "not": {"const": "*"}}

_IDEMPOTENCY_KEY: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_KEY,
    "pattern": "^[!-~]([ -~]*[!-~])?$",
}

_POSITION: Final = {
    "type": "string",
    "pattern": "^[a-z0-9]{8}\\.(0|[1-9][0-9]{0,14})$",
    "description": "A place in the log of a pattern: epoch and offset.",
}

_SCHEMAS: Final[dict[str, Any]] = {
    "Pattern": {
        "type": "object",
        "description": (
            'Filters. Numbers and booleans count as their text: 3, 3.0 and "3" are the same value. Percent-encoded, '
            "a key has at most 64 bytes, a value 256, and all of it 1,024; texts longer than described here fit where "
            f"they stay below that. The key {RESERVED_KEY} is reserved for what servers publish themselves."
        ),
        "minProperties": 1,
        "maxProperties": 16,
        "propertyNames": _KEY,
        "additionalProperties": {"anyOf": [_VALUE, {"type": ["number", "boolean"]}]},
        "examples": [{"kind": "news", "channel": "CNN"}],
    },
    "Publication": {
        "type": "object",
        "required": ["pattern", "payload"],
        "properties": {
            "pattern": {"$ref": "#/components/schemas/Pattern"},
            "payload": {"description": "Any JSON; it reaches the subscribers as the text that was sent."},
        },
        "examples": [{"pattern": {"kind": "news", "channel": "CNN"}, "payload": {"title": "hello"}}],
    },
    "Queued": {
        "type": "object",
        "required": ["status", "id", "nodes"],
        "properties": {
            "status": {"const": "queued"},
            "id": {"type": "string", "pattern": "^[0-9a-f]{8}$", "description": "The pattern's label on the wire."},
            "nodes": {"type": "integer", "minimum": 0, "description": "Subscribing servers that the broker reached."},
            "duplicate": {
                "const": True,
                "description": "It was published before by this idempotency key; the answer is the first one's.",
            },
            "at": {**_POSITION, "description": "Its position, if a rule of history contains the pattern."},
        },
    },
    "Failed": {
        "type": "object",
        "required": ["status", "index", "code", "detail"],
        "properties": {
            "status": {"const": "error"},
            "index": {"type": "integer", "minimum": 0, "description": "Which message of the batch, from 0."},
            "code": {"enum": [str(code) for code in ErrorCode]},
            "detail": {"type": "string"},
        },
    },
    "Audience": {
        "type": "object",
        "required": ["channel", "id", "nodes", "channels", "shapes"],
        "properties": {
            "channel": {"type": "string", "description": "What the pattern is at the broker."},
            "id": {"type": "string", "pattern": "^[0-9a-f]{8}$"},
            "nodes": {"type": "integer", "minimum": 0, "description": "The sum over the channels."},
            "channels": {
                "type": "array",
                "description": "Where a publication would go: its own channel, then one for each shape that applies.",
                "items": {
                    "type": "object",
                    "required": ["channel", "id", "shape", "nodes", "subscribers"],
                    "properties": {
                        "channel": {"type": "string"},
                        "id": {"type": "string", "pattern": "^[0-9a-f]{8}$"},
                        "shape": {"type": ["string", "null"], "description": "null for the publication's own channel."},
                        "nodes": {"type": "integer", "minimum": 0, "description": "Servers subscribed at the broker."},
                        "subscribers": {
                            "type": ["integer", "null"],
                            "minimum": 0,
                            "description": "Clients of the answering process; null where it serves none.",
                        },
                    },
                },
            },
            "shapes": {
                "type": "array",
                "description": "All shapes of wildcard subscriptions that are in use.",
                "items": {"type": "string"},
            },
        },
    },
    "History": {
        "type": "object",
        "required": ["id", "pattern", "at", "first", "more", "messages"],
        "properties": {
            "id": {"type": "string", "pattern": "^[0-9a-f]{8}$"},
            "pattern": {"type": "object", "additionalProperties": {"type": "string"}},
            "at": {**_POSITION, "description": "Of the newest message; offset 0 if there never was one."},
            "first": {"type": "integer", "minimum": 1, "description": "Offset of the oldest message that is kept."},
            "recovered": {
                "type": "boolean",
                "description": "With since: whether every message after that position is still there.",
            },
            "more": {"type": "boolean", "description": "Whether messages up to at are left out."},
            "messages": {
                "type": "array",
                "description": "Oldest first.",
                "items": {
                    "type": "object",
                    "required": ["at", "payload"],
                    "properties": {
                        "at": _POSITION,
                        "payload": {"description": "The text that was published."},
                        "pattern": {
                            "type": "object",
                            "description": "What it was published to; only if the pattern of the log has wildcards.",
                            "additionalProperties": {"type": "string"},
                        },
                    },
                },
            },
        },
    },
    "Presence": PRESENCE,
    "BatchResult": {
        "type": "object",
        "required": ["results", "queued", "failed"],
        "properties": {
            "results": {
                "type": "array",
                "items": {"oneOf": [{"$ref": "#/components/schemas/Queued"}, {"$ref": "#/components/schemas/Failed"}]},
            },
            "queued": {"type": "integer", "minimum": 0},
            "failed": {"type": "integer", "minimum": 0},
        },
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


def document(settings: Settings, *, publish: bool) -> dict[str, Any]:
    """Describe the routes that a server with these settings has.

    Args:
        settings: where the routes stand, and their bounds.
        publish: whether messages can be published here.
    """
    paths: dict[str, Any] = {
        "/healthz": {"get": _operation("health", "Whether the process runs", _text("It does."))},
        "/readyz": {
            "get": _operation(
                "readiness",
                "Whether it can serve: the broker is reachable and no drain is under way",
                _text("It can."),
                **_problems(503),
            )
        },
        "/metrics": {"get": _operation("metrics", "Prometheus metrics", _text("The figures of this process."))},
    }
    if publish:
        prefix = settings.prefix
        paths[prefix] = {"post": _publish()}
        paths[prefix + "batch"] = {"post": _batch(settings)}
        paths[prefix + "audience"] = {"get": _audience()}
        paths[prefix + "history"] = {"get": _history()}
        paths[prefix + "presence"] = {"get": _presence()}
    components: dict[str, Any] = {"schemas": _SCHEMAS}
    if settings.keys is not None:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path in paths.values():
            for operation in path.values():
                if operation["operationId"] in _FOR_PUBLISHERS:
                    operation["security"] = [{"key": []}]
    return {
        "openapi": "3.1.0",
        "info": {"title": "realizehit", "version": __version__, "license": {"name": "MIT", "identifier": "MIT"}},
        "paths": paths,
        "components": components,
    }


def _operation(name: str, summary: str, ok: dict[str, Any], **responses: Any) -> dict[str, Any]:
    numbered = {status.removeprefix("s"): response for status, response in responses.items()}
    return {"operationId": name, "summary": summary, "responses": {"200": ok, **numbered}}


def _publish() -> dict[str, Any]:
    return {
        **_operation(
            "publish",
            "Publish one message to a pattern",
            _content("The broker took it.", _JSON, "Queued"),
            **_problems(400, 401, 403, 408, 413, 415, 429, 431, 502, 503),
        ),
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "Within the window, messages to one pattern with the same key are published once.",
                "schema": _IDEMPOTENCY_KEY,
            }
        ],
        "requestBody": {
            "required": True,
            "content": {_JSON: {"schema": {"$ref": "#/components/schemas/Publication"}}},
        },
    }


def _batch(settings: Settings) -> dict[str, Any]:
    messages = {
        "type": "array",
        "description": f"At most {settings.max_batch_messages} publications; for more the answer is 413.",
        "items": {
            "description": (
                "A Publication; it may have an idempotency key as its member key. One that is wrong gets an error of "
                "its own and harms no other."
            )
        },
    }
    body = {"type": "object", "required": ["messages"], "properties": {"messages": messages}}
    return {
        **_operation(
            "publishBatch",
            "Publish many messages in order; also as NDJSON, a Publication a line",
            _content("Answered message by message.", _JSON, "BatchResult"),
            **_problems(400, 401, 403, 408, 413, 415, 429, 431, 503),
        ),
        "requestBody": {"required": True, "content": {_JSON: {"schema": body}}},
    }


def _audience() -> dict[str, Any]:
    pattern = {
        "name": "pat",
        "in": "query",
        "required": True,
        "description": "The pattern as JSON; kind=news,channel=CNN is understood too.",
        "content": {_JSON: {"schema": {"$ref": "#/components/schemas/Pattern"}}},
    }
    return {
        **_operation(
            "audience",
            "Who would get a publication to a pattern; nothing is published",
            _content("Where it would go.", _JSON, "Audience"),
            **_problems(400, 401, 403, 408, 429, 431, 502, 503),
        ),
        "parameters": [pattern],
    }


def _history() -> dict[str, Any]:
    pattern = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 16,
        "propertyNames": {"anyOf": [{"const": "*"}, _KEY]},
        "properties": {"*": {"const": "*"}},
        "additionalProperties": {"anyOf": [{"const": "*"}, _VALUE, {"type": ["number", "boolean"]}]},
    }
    number = {"type": "integer", "minimum": 1, "maximum": MAX_SIZE}
    parameters = [
        {
            "name": "pat",
            "in": "query",
            "required": True,
            "description": "The pattern as JSON, also one with wildcards; kind=news,channel=CNN is understood too.",
            "content": {_JSON: {"schema": pattern}},
        },
        {
            "name": "range",
            "in": "query",
            "description": (
                "Which messages: last=N for the newest N, or since=POSITION for those after a position, with "
                "limit=N at most N of them. Without these, none: only the position."
            ),
            "style": "form",
            "explode": True,
            "schema": {
                "type": "object",
                "oneOf": [
                    {"properties": {"last": number}, "additionalProperties": False},
                    {
                        "properties": {"since": _POSITION, "limit": number},
                        "required": ["since"],
                        "additionalProperties": False,
                    },
                ],
            },
        },
    ]
    return {
        **_operation(
            "history",
            "The messages that are kept of a pattern, with their positions",
            _content("What is kept.", _JSON, "History"),
            **_problems(400, 401, 403, 404, 408, 429, 431, 502, 503),
        ),
        "parameters": parameters,
    }


def _presence() -> dict[str, Any]:
    return {
        **_operation(
            "presence",
            "Who is subscribed to a pattern",
            _content("Who is there.", _JSON, "Presence"),
            **_problems(400, 401, 403, 404, 408, 429, 431, 502, 503),
        ),
        "parameters": PRESENCE_PARAMETERS,
    }


_FOR_PUBLISHERS: Final = frozenset(("publish", "publishBatch", "audience", "history", "presence"))

_MEANINGS: Final = {
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


def _problems(*statuses: int) -> dict[str, Any]:
    responses = {f"s{status}": _content(_MEANINGS[status], _PROBLEM, "Problem") for status in statuses}
    for status in (429, 503):
        if status in statuses:
            responses[f"s{status}"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return responses


def _content(text: str, media_type: str, schema: str) -> dict[str, Any]:
    return {"description": text, "content": {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}


def _text(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"text/plain": {"schema": {"type": "string"}}}}
