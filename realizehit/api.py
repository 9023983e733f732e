"""The ASGI application: publish (`realizehit.publishing`), health, metrics. It can be mounted in any other.

Source: section 3 of the wire protocol, ``docs/http-api.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from realizehit import assets, openapi
from realizehit.access.gate import Gate
from realizehit.bus.base import Bus, BusState
from realizehit.errors import BrokerError, ErrorCode
from realizehit.messages import problem
from realizehit.metrics import CONTENT_TYPE, Metrics
from realizehit.publishing import DEFECT, PROBLEM, RETRY_AFTER, Away, Publish, PublishBatch, problem_of
from realizehit.settings import Settings
from realizehit.transports.direct import Handler


def create_app(
    bus: Bus,
    settings: Settings | None = None,
    *,
    metrics: Metrics | None = None,
    draining: Callable[[], bool] = lambda: False,
    publish: bool = True,
    transports: Sequence[Route] = (),
    more: Sequence[Route] = (),
    gate: Gate | None = None,
) -> Application:
    """Build the application.

    Args:
        bus: the broker; whoever calls this starts and closes it.
        settings: the prefix and the bounds; the defaults where none are given.
        metrics: what ``/metrics`` shows; of the bus alone where none is given.
        draining: whether the server is going away, which makes it not ready.
        publish: whether messages can be published here; health and metrics are served anyway.
        transports: routes that tell pages of other origins themselves what they may read.
        more: further routes.
        gate: decides who may publish; whoever gives none decides elsewhere.
    """
    settings = settings or Settings()
    metrics = metrics or Metrics(bus=bus)
    away = Away()
    described = orjson.dumps(openapi.document(settings, publish=publish))

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        if draining():
            return _problem_response(ErrorCode.UNAVAILABLE, "the server is going away")
        try:
            await bus.ping()
        except BrokerError as error:
            return _problem_response(ErrorCode.UNAVAILABLE, away.say(error))
        if bus.state is not BusState.UP:
            return _problem_response(ErrorCode.UNAVAILABLE, f"the subscriber connection is {bus.state.value}")
        return PlainTextResponse("ready\n")

    async def show_metrics(_: Request) -> Response:
        return Response(metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def describe(_: Request) -> Response:
        return Response(described, media_type="application/json")

    routes = [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", show_metrics),
        Route("/openapi.json", describe),
        *transports,
        *more,
    ]
    if settings.role != "api":
        routes += assets.routes()
    endpoints: dict[str, Publish | PublishBatch] = {}
    if publish:
        single = Publish(bus, settings, metrics, gate, away)
        endpoints[settings.prefix] = endpoints[settings.prefix.rstrip("/") or "/"] = single
        endpoints[settings.prefix + "batch"] = PublishBatch(bus, settings, metrics, gate, away)
    routes += [Route(path, endpoint, methods=["POST"]) for path, endpoint in endpoints.items()]
    middleware = []
    if gate is not None and settings.allow_origin:
        # So that the browsers of those pages ask at all, and show them the answer.
        middleware = [
            Middleware(
                _CrossOrigin,
                besides=frozenset(route.path for route in transports),
                allow_origins=[origin.rstrip("/").lower() for origin in settings.allow_origin],
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type"],
                expose_headers=["Retry-After"],
            )
        ]
    return Application(
        endpoints,
        routes=routes,
        middleware=middleware,
        exception_handlers={HTTPException: _http_exception, 500: _defect},
    )


class _CrossOrigin(CORSMiddleware):
    """Tells browsers which pages may ask and read; it would overwrite what some paths say more exactly.

    Args:
        besides: those paths.
    """

    def __init__(self, app: ASGIApp, /, *, besides: frozenset[str], **options: Any) -> None:
        super().__init__(app, **options)
        self._besides = besides

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in self._besides:
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class Application(Starlette):
    """A Starlette application that lets publications past its middleware and router, which cost more than they do."""

    def __init__(self, endpoints: dict[str, Publish | PublishBatch], **options: Any) -> None:
        super().__init__(**options)
        self.router.redirect_slashes = False
        self._endpoints = endpoints

    @property
    def direct(self) -> dict[bytes, Handler]:
        """Who serves requests without ASGI, by target; nobody where middleware has a say in every answer."""
        if self.user_middleware:
            return {}
        return {path.encode(): endpoint.directly for path, endpoint in self._endpoints.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and not scope.get("root_path"):
            endpoint = self._endpoints.get(scope["path"])
            if endpoint is not None and not self.user_middleware:
                await endpoint(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


def _problem_response(code: ErrorCode, detail: str) -> Response:
    status, media_type, body = problem_of(code, detail)
    return Response(body, status, {"Retry-After": str(RETRY_AFTER)}, media_type.decode())


async def _http_exception(_: Request, error: Exception) -> Response:
    """Say what the framework found, such as an unknown path or a wrong method."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    detail = {404: "there is nothing here; GET /openapi.json lists what there is"}.get(status, error.detail)
    return Response(problem(status, detail), status, error.headers, PROBLEM.decode())


async def _defect(_: Request, error: Exception) -> Response:
    """Answer a defect without telling its insides; the server logs them."""
    return Response(DEFECT, HTTPStatus.INTERNAL_SERVER_ERROR, media_type=PROBLEM.decode())
