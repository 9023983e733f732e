"""The routes of the admin API: processes, clients by their identity, and what is done to them."""

from __future__ import annotations

from typing import Any, Final

from realizehit.http.openapi.parts import JSON, PROBLEM, WILD_PATTERN, content, operation, problems

_CODES: Final = {"minimum": 4000, "maximum": 4999}  # close codes for applications
_MOST_LISTED: Final = 1000  # identities in one answer
_REASON: Final = {
    "type": ["string", "null"],
    "maxLength": 100,
    "description": "What the clients are told; by an operator, if it is left out.",
}
_COUNT: Final = {"type": "integer", "minimum": 0}

SCHEMAS: Final[dict[str, Any]] = {
    "Identity": {
        **WILD_PATTERN,
        "description": (
            "A pattern of identities: a client is meant if it matches its identity, as it would match a publication. "
            'The value * stands for any value, and "*": "*" for any further keys.'
        ),
        "examples": [{"user": "42", "*": "*"}],
    },
    "Nodes": {
        "type": "object",
        "required": ["nodes"],
        "properties": {
            "nodes": {
                "type": "array",
                "description": "The processes of the deployment, in the order of their hosts and process ids.",
                "items": {
                    "type": "object",
                    "required": ["node", "host", "pid", "role", "version", "uptime", "broker", "connections"],
                    "properties": {
                        "node": {"type": "string", "description": "The name of the process."},
                        "host": {"type": "string"},
                        "pid": {"type": "integer"},
                        "role": {"enum": ["all", "ws", "api"]},
                        "version": {"type": "string"},
                        "uptime": {"type": "number", "description": "Seconds."},
                        "broker": {"enum": ["connecting", "up", "down", "closed"]},
                        "connections": _COUNT,
                        "subscriptions": _COUNT,
                        "channels": _COUNT,
                        "shapes": _COUNT,
                        "gone": {
                            "type": "number",
                            "description": "Seconds since its last answer, of a process that does not answer any more.",
                        },
                    },
                },
            }
        },
    },
    "Clients": {
        "type": "object",
        "required": ["connections", "clients", "after"],
        "properties": {
            "connections": {**_COUNT, "description": "Of all clients that match, in the whole deployment."},
            "clients": {
                "type": "array",
                "maxItems": _MOST_LISTED,
                "items": {
                    "type": "object",
                    "required": ["identity", "connections"],
                    "properties": {
                        "identity": {"type": "object", "additionalProperties": {"type": "string"}},
                        "connections": _COUNT,
                    },
                },
            },
            "after": {"type": ["string", "null"], "description": "For the next page; null if there is none."},
        },
    },
    "Acted": {
        "type": "object",
        "required": ["connections", "nodes"],
        "properties": {
            "connections": {**_COUNT, "description": "How many connections it was done to."},
            "nodes": {**_COUNT, "description": "How many processes answered."},
        },
    },
    "Reloaded": {
        "type": "object",
        "required": ["nodes"],
        "properties": {"nodes": {**_COUNT, "description": "How many processes answered."}},
    },
}


def paths(prefix: str) -> dict[str, Any]:
    """Describe the routes below a prefix."""
    return {
        prefix + "nodes": {
            "get": _asked("nodes", "All processes of the deployment", "Those that answered, and those gone.", "Nodes")
        },
        prefix + "clients": {"get": _clients()},
        prefix + "clients/disconnect": {
            "post": _action(
                "disconnectClients",
                "Disconnect the clients of an identity",
                {
                    "code": {
                        "type": ["integer", "null"],
                        **_CODES,
                        "description": "The close code, 4502 if it is left out; from 4500 on clients do not come back.",
                    },
                    "reason": _REASON,
                },
            )
        },
        prefix + "clients/unsubscribe": {
            "post": _action(
                "unsubscribeClients",
                "End one subscription of the clients of an identity",
                {"pattern": {**WILD_PATTERN, "description": "Of the subscription."}, "reason": _REASON},
                "pattern",
            )
        },
        prefix + "clients/note": {
            "post": _action(
                "noteClients",
                "Send the clients of an identity a note, the event of that name",
                {
                    "note": {
                        "type": ["object", "array", "string", "number", "boolean"],
                        "description": "Any JSON but null.",
                    }
                },
                "note",
            )
        },
        prefix + "reload": {
            "post": _asked("reload", "Have all processes read their files again", "They do.", "Reloaded")
        },
    }


def _asked(name: str, summary: str, ok: str, schema: str, *statuses: int) -> dict[str, Any]:
    described = operation(name, summary, content(ok, JSON, schema), **problems(*statuses, 401, 403, 408, 431, 502, 503))
    described["responses"]["403"] = {
        **content("The key is not one with admin = true, or the request is not from there.", PROBLEM, "Problem")
    }
    return described


def _clients() -> dict[str, Any]:
    identity = {
        "name": "identity",
        "in": "query",
        "required": True,
        "description": "The identity as JSON; user=42,device=* is understood too.",
        "content": {JSON: {"schema": {"$ref": "#/components/schemas/Identity"}}},
    }
    after = {
        "name": "after",
        "in": "query",
        "description": "Of the page before: go on behind it.",
        "schema": {"type": "string"},
    }
    return {
        **_asked("clients", "Who is connected, by identity", "The identities that match.", "Clients", 400),
        "parameters": [identity, after],
    }


def _action(name: str, summary: str, members: dict[str, Any], *required: str) -> dict[str, Any]:
    body = {
        "type": "object",
        "required": ["identity", *required],
        "properties": {"identity": {"$ref": "#/components/schemas/Identity"}, **members},
        "additionalProperties": False,
    }
    return {
        **_asked(name, summary, "It was done.", "Acted", 400, 413),
        "requestBody": {"required": True, "content": {JSON: {"schema": body}}},
    }


FOR_ADMINS: Final = frozenset(("nodes", "clients", "disconnectClients", "unsubscribeClients", "noteClients", "reload"))
"""The operations that need a key with ``admin = true``."""
