"""The route that reads the history of a pattern."""

from __future__ import annotations

from typing import Any, Final

from realizehit.broker.history.rules import MAX_SIZE
from realizehit.http.openapi.parts import JSON, POSITION, WILD_PATTERN, content, operation, problems

SCHEMAS: Final[dict[str, Any]] = {
    "History": {
        "type": "object",
        "required": ["id", "pattern", "at", "first", "more", "messages"],
        "properties": {
            "id": {"type": "string", "pattern": "^[0-9a-f]{8}$"},
            "pattern": {"type": "object", "additionalProperties": {"type": "string"}},
            "at": {**POSITION, "description": "Of the newest message; offset 0 if there never was one."},
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
                        "at": POSITION,
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
}


def history() -> dict[str, Any]:
    """Describe ``GET {prefix}history``."""
    number = {"type": "integer", "minimum": 1, "maximum": MAX_SIZE}
    parameters = [
        {
            "name": "pat",
            "in": "query",
            "required": True,
            "description": "The pattern as JSON, also one with wildcards; kind=news,channel=CNN is understood too.",
            "content": {JSON: {"schema": WILD_PATTERN}},
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
                        "properties": {"since": POSITION, "limit": number},
                        "required": ["since"],
                        "additionalProperties": False,
                    },
                ],
            },
        },
    ]
    return {
        **operation(
            "history",
            "The messages that are kept of a pattern, with their positions",
            content("What is kept.", JSON, "History"),
            **problems(400, 401, 403, 404, 408, 429, 431, 502, 503),
        ),
        "parameters": parameters,
    }
