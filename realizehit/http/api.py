"""The ASGI application: publish (`realizehit.http.publishing`), health, metrics. It can be mounted in any other.

Source: section 3 of the wire protocol, ``docs/http-api.md``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from realizehit.access.gate import Gate
from realizehit.access.peers import peer_of
from realizehit.broker.base import Bus, BusState
from realizehit.errors import AccessDenied, BrokerError, ErrorCode, RealizehitError
from realizehit.http import assets, welcome
from realizehit.http.admin import Admin
from realizehit.http.audience import Audience
from realizehit.http.fast_path import Handler
from realizehit.http.history import History
from realizehit.http.openapi.document import document
from realizehit.http.presence import PresenceReader
from realizehit.http.problems import DEFECT, PROBLEM, RETRY_AFTER, BrokerErrorReporter, problem_of
from realizehit.http.publishing import Publish, PublishBatch
from realizehit.node.fleet import Fleet
from realizehit.node.messages import problem
from realizehit.node.metrics import CONTENT_TYPE, Metrics
from realizehit.node.overview import Overview
from realizehit.node.presence import Presence
from realizehit.settings import Settings
from realizehit.transports.admission import adding, headers_of, readable


def create_app(
    bus: Bus,
    settings: Settings | None = None,
    *,
    metrics: Metrics | None = None,
    server_metrics: Callable[[], Awaitable[bytes]] | None = None,
    draining: Callable[[], bool] = lambda: False,
    publish: bool = True,
    transports: Sequence[Route] = (),
    more: Sequence[Route] = (),
    gate: Gate | None = None,
    subscribers: Callable[[bytes], int] | None = None,
    fleet: Fleet | None = None,
    overview: Overview | None = None,
    presence: Presence | None = None,
) -> Application:
    """Build the application.

    Args:
        bus: the broker; the caller starts and closes it.
        settings: the prefix and the bounds; the defaults where none are given.
        metrics: what ``/metrics`` shows; of the bus alone where none is given.
        server_metrics: returns what ``/metrics`` shows instead, where this process is one of several workers; it raises
            a `RealizehitError` where that cannot be had.
        draining: whether the server is going away, which makes it not ready.
        publish: whether messages can be published here; health and metrics are served anyway.
        transports: routes that tell pages of other origins themselves what they may read.
        more: further routes.
        subscribers: returns how many clients of this process are subscribed to a channel.
        fleet: all processes of the deployment, for the admin API; it needs a gate and an overview.
        overview: their figures.
        presence: knows the rules of presence; ``None`` where there are none.
        gate: decides who may publish; without one, access has to be controlled elsewhere.
    """
    settings = settings or Settings()
    metrics = metrics or Metrics(bus=bus)
    broker_errors = BrokerErrorReporter()
    administer = fleet is not None and gate is not None
    described = orjson.dumps(document(settings, publish=publish, administer=administer))

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        if draining():
            return _problem_response(ErrorCode.UNAVAILABLE, "the server is going away")
        try:
            await bus.ping()
        except BrokerError as error:
            return _problem_response(ErrorCode.UNAVAILABLE, broker_errors.report(error))
        if bus.state is not BusState.UP:
            return _problem_response(ErrorCode.UNAVAILABLE, f"the subscriber connection is {bus.state.value}")
        return PlainTextResponse("ready\n")

    async def show_metrics(_: Request) -> Response:
        try:
            text = metrics.render() if server_metrics is None else await server_metrics()
        except RealizehitError as error:
            return _problem_response(ErrorCode.UNAVAILABLE, str(error))
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    async def describe(_: Request) -> Response:
        return Response(described, media_type="application/json")

    welcoming = welcome.page(settings if publish else replace(settings, role="ws"))

    async def not_served(request: Request, error: Exception) -> Response:
        """Say what the framework found, such as an unknown path or a wrong method."""
        assert isinstance(error, HTTPException)
        # The page is not a route: a route would change the methods of the root for all clients.
        return welcome.answer(request, welcoming) or _http_problem(error)

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
        single = Publish(bus, settings, metrics, gate, broker_errors)
        endpoints[settings.prefix] = endpoints[settings.prefix.rstrip("/") or "/"] = single
        endpoints[settings.prefix + "batch"] = PublishBatch(bus, settings, metrics, gate, broker_errors)
        audience = Audience(bus, gate, broker_errors, subscribers)
        routes.append(Route(settings.prefix + "audience", audience.answer))
        history = History(bus, gate, broker_errors, metrics.history, max_bytes=settings.max_batch_bytes)
        routes.append(Route(settings.prefix + "history", history.answer))
        present = PresenceReader(bus, gate, broker_errors, presence)
        routes.append(Route(settings.prefix + "presence", present.answer))
        if fleet is not None and overview is not None and gate is not None:
            routes += Admin(fleet, overview, gate, broker_errors).routes(settings.prefix)
    routes += [Route(path, endpoint, methods=["POST"]) for path, endpoint in endpoints.items()]
    figures = frozenset(("/metrics", "/readyz"))
    console = frozenset(route.path for route in more)
    pages = (
        None
        if gate is None
        else _Pages(
            gate,
            transports=frozenset(route.path for route in transports),
            figures=figures | console,
            checked=figures | {"/openapi.json"},
        )
    )
    return Application(endpoints, pages, routes=routes, exception_handlers={HTTPException: not_served, 500: _defect})


class _Pages:
    """Says which web pages may ask the API and read its answers, as the gate does.

    Args:
        gate: decides.
        transports: paths that tell pages themselves what they may read.
        figures: paths that tell how the server does.
        checked: paths whose handlers do not ask the gate themselves.
    """

    def __init__(
        self, gate: Gate, *, transports: frozenset[str], figures: frozenset[str], checked: frozenset[str]
    ) -> None:
        self._gate = gate
        self._transports = transports
        self._figures = figures
        self._checked = checked

    async def serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Have a request served, with the headers that its page needs, or refuse it."""
        path = scope["path"]
        if path in self._transports:
            await app(scope, receive, send)
            return
        headers = headers_of(scope)[0]
        figures = path in self._figures
        pages = readable(headers, self._gate, figures=figures)
        if pages:
            send = adding(send, pages)
        asks_first = (
            scope["method"] == "OPTIONS" and b"origin" in headers and b"access-control-request-method" in headers
        )
        if asks_first or path in self._checked:
            try:
                self._gate.pages.check_use(peer_of(scope.get("client")), headers, figures=figures)
            except AccessDenied as error:
                status, media_type, body = problem_of(error.code, str(error))
                await Response(body, status, media_type=media_type.decode())(scope, receive, send)
                return
        if asks_first:
            await Response(status_code=HTTPStatus.OK, headers=_PREFLIGHT)(scope, receive, send)
        else:
            await app(scope, receive, send)


_PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Traceparent",
    "Access-Control-Max-Age": "600",
}


class Application(Starlette):
    """A Starlette application that lets publications past its middleware and router, which cost more than they do.

    Args:
        endpoints: take publications, by path.
        pages: decides about web pages; ``None`` to leave that to the program around it.
        **options: Starlette's.
    """

    def __init__(self, endpoints: dict[str, Publish | PublishBatch], pages: _Pages | None, **options: Any) -> None:
        super().__init__(**options)
        self.router.redirect_slashes = False
        self._endpoints = endpoints
        self._pages = pages

    @property
    def direct(self) -> dict[bytes, Handler]:
        """The handlers that serve requests without ASGI, by target; empty where middleware has to see every request."""
        if self.user_middleware:
            return {}
        return {path.encode(): endpoint.directly for path, endpoint in self._endpoints.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._pages is not None and scope["type"] == "http":
            await self._pages.serve(self._serve, scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and not scope.get("root_path"):
            endpoint = self._endpoints.get(scope["path"])
            if endpoint is not None and not self.user_middleware:
                await endpoint(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


def _problem_response(code: ErrorCode, detail: str) -> Response:
    status, media_type, body = problem_of(code, detail)
    return Response(body, status, {"Retry-After": str(RETRY_AFTER)}, media_type.decode())


def _http_problem(error: HTTPException) -> Response:
    status = HTTPStatus(error.status_code)
    methods = (error.headers or {}).get("Allow", "")
    detail = {
        404: "there is nothing here; GET /openapi.json lists what there is",
        405: f"this path takes {methods}; GET /openapi.json lists what there is",
    }.get(status, error.detail)
    return Response(problem(status, detail), status, error.headers, PROBLEM.decode())


async def _defect(_: Request, error: Exception) -> Response:
    """Answer a defect without telling its insides; the server logs them."""
    return Response(DEFECT, HTTPStatus.INTERNAL_SERVER_ERROR, media_type=PROBLEM.decode())
