"""The route that tells who is subscribed to a pattern."""

from __future__ import annotations

from typing import Any, Final

from realizehit.broker.presence.store import MOST_MEMBERS
from realizehit.http.openapi.parts import JSON, content, operation, problems

_COUNT: Final = {"type": "integer", "minimum": 0}

_PRESENCE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["id", "count", "anonymous"],
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9a-f]{8}$"},
        "count": {**_COUNT, "description": "Members on all servers."},
        "anonymous": {**_COUNT, "description": "Connections of clients without an identity, on all servers."},
        "members": {
            "type": "array",
            "description": "Identities in the order of their JSON texts; not with count=1.",
            "items": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "after": {"type": ["string", "null"], "description": "For the next page; null on the last page."},
    },
}
_PARAMETERS: Final[list[dict[str, Any]]] = [
    {
        "name": "pat",
        "in": "query",
        "required": True,
        "description": "The pattern as JSON; kind=chat,room=7 is understood too.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pattern"}}},
    },
    {
        "name": "range",
        "in": "query",
        "description": (
            "Which members: limit=N for at most N, after=MEMBER for those behind the last one of a page, or count=1 "
            "for the counts alone."
        ),
        "style": "form",
        "explode": True,
        "schema": {
            "type": "object",
            "oneOf": [
                {
                    "properties": {
                        "limit": {"type": "integer", "minimum": 1, "maximum": MOST_MEMBERS},
                        "after": {"type": "string", "maxLength": 1024},
                    },
                    "additionalProperties": False,
                },
                {"properties": {"count": {"const": 1}}, "required": ["count"], "additionalProperties": False},
            ],
        },
    },
]
SCHEMAS: Final = {"Presence": _PRESENCE}


def presence() -> dict[str, Any]:
    """Describe ``GET {prefix}presence``."""
    return {
        **operation(
            "presence",
            "Who is subscribed to a pattern",
            content("Who is there.", JSON, "Presence"),
            **problems(400, 401, 403, 404, 408, 429, 431, 502, 503),
        ),
        "parameters": _PARAMETERS,
    }
