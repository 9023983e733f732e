"""The routes that publish, and the one that says who would get a publication."""

from __future__ import annotations

from typing import Any, Final

from realizehit.common.idempotency_keys import MAX_KEY
from realizehit.errors import ErrorCode
from realizehit.http.openapi.parts import JSON, POSITION, content, operation, problems
from realizehit.settings import Settings

_IDEMPOTENCY_KEY: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_KEY,
    "pattern": "^[!-~]([ -~]*[!-~])?$",
}

SCHEMAS: Final[dict[str, Any]] = {
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
            "at": {**POSITION, "description": "Its position, if a rule of history contains the pattern."},
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
}


def publish(settings: Settings) -> dict[str, Any]:
    """Describe ``POST {prefix}``."""
    parameters = [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "Within the window, messages to one pattern with the same key are published once.",
            "schema": _IDEMPOTENCY_KEY,
        }
    ]
    if settings.tracing:
        parameters.append(
            {
                "name": "traceparent",
                "in": "header",
                "description": "The trace that the message belongs to (W3C Trace Context); an invalid one is ignored.",
                "schema": {"type": "string"},
            }
        )
    return {
        **operation(
            "publish",
            "Publish one message to a pattern",
            content("The broker took it.", JSON, "Queued"),
            **problems(400, 401, 403, 408, 413, 415, 429, 431, 502, 503),
        ),
        "parameters": parameters,
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": {"$ref": "#/components/schemas/Publication"}}},
        },
    }


def batch(settings: Settings) -> dict[str, Any]:
    """Describe ``POST {prefix}batch``."""
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
        **operation(
            "publishBatch",
            "Publish many messages in order; also as NDJSON, a Publication a line",
            content("Answered message by message.", JSON, "BatchResult"),
            **problems(400, 401, 403, 408, 413, 415, 429, 431, 503),
        ),
        "requestBody": {"required": True, "content": {JSON: {"schema": body}}},
    }


def audience() -> dict[str, Any]:
    """Describe ``GET {prefix}audience``."""
    pattern = {
        "name": "pat",
        "in": "query",
        "required": True,
        "description": "The pattern as JSON; kind=news,channel=CNN is understood too.",
        "content": {JSON: {"schema": {"$ref": "#/components/schemas/Pattern"}}},
    }
    return {
        **operation(
            "audience",
            "Who would get a publication to a pattern; nothing is published",
            content("Where it would go.", JSON, "Audience"),
            **problems(400, 401, 403, 408, 429, 431, 502, 503),
        ),
        "parameters": [pattern],
    }
