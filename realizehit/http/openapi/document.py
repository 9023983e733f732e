"""The whole description: the routes that a server with its settings has."""

from __future__ import annotations

from typing import Any, Final

from realizehit import __version__
from realizehit.http.openapi import admin, history, parts, presence, publishing
from realizehit.http.openapi.parts import operation, plain_text, problems
from realizehit.settings import Settings

_FOR_PUBLISHERS: Final = frozenset(("publish", "publishBatch", "audience", "history", "presence"))

_SCHEMAS: Final = {**parts.SCHEMAS, **publishing.SCHEMAS, **history.SCHEMAS, **presence.SCHEMAS}


def document(settings: Settings, *, publish: bool, administer: bool = False) -> dict[str, Any]:
    """Describe the routes that a server with these settings has.

    Args:
        settings: where the routes stand, and their bounds.
        publish: whether messages can be published here.
        administer: whether the admin API is served, where messages can be published.
    """
    paths: dict[str, Any] = {
        "/healthz": {"get": operation("health", "Whether the process runs", plain_text("It does."))},
        "/readyz": {
            "get": operation(
                "readiness",
                "Whether it can serve: the broker is reachable and no drain is under way",
                plain_text("It can."),
                **problems(503),
            )
        },
        "/metrics": {"get": operation("metrics", "Prometheus metrics", plain_text("The figures of this process."))},
    }
    if publish:
        prefix = settings.prefix
        paths[prefix] = {"post": publishing.publish(settings)}
        paths[prefix + "batch"] = {"post": publishing.batch(settings)}
        paths[prefix + "audience"] = {"get": publishing.audience()}
        paths[prefix + "history"] = {"get": history.history()}
        paths[prefix + "presence"] = {"get": presence.presence()}
        if administer:
            paths |= admin.paths(prefix)
    components: dict[str, Any] = {"schemas": _SCHEMAS | admin.SCHEMAS if administer else _SCHEMAS}
    if settings.keys is not None:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path in paths.values():
            for described in path.values():
                if described["operationId"] in _FOR_PUBLISHERS | admin.FOR_ADMINS:
                    described["security"] = [{"key": []}]
    return {
        "openapi": "3.1.0",
        "info": {"title": "realizehit", "version": __version__, "license": {"name": "MIT", "identifier": "MIT"}},
        "paths": paths,
        "components": components,
    }
