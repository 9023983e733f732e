"""The page ``/console``: its files, its figures, and the check that only browsers on the same machine get them.

The page shows the figures of all processes and publishes to this server; `realizehit.access.local` decides which
requests are local.

Source: the console, ``docs/console.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.resources import files
from typing import Any, Final

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from realizehit import __version__
from realizehit.access.local import console_refusal
from realizehit.access.peers import peer_of
from realizehit.access.refusals import RefusalLog
from realizehit.errors import BrokerError
from realizehit.http.problems import BrokerErrorReporter
from realizehit.node.overview import Overview
from realizehit.settings import Settings
from realizehit.transports.admission import headers_of

PATH: Final = "/console"
NODES_PATH: Final = PATH + "/nodes"

_TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

HEADERS: Final = {
    # No foreign content, no inline scripts, no foreign frames; 'self' covers the WebSocket of the same port.
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_HOW: Final = (
    "the console is for browsers on the server's own machine; from elsewhere use a "
    "tunnel: ssh -L 8080:127.0.0.1:8080 SERVER, then open http://127.0.0.1:8080/console (with the server's port)"
)


def routes(
    settings: Settings,
    ws_port: Callable[[], int],
    log: RefusalLog | None = None,
    overview: Overview | None = None,
) -> list[Route]:
    """Return the page's routes.

    Args:
        settings: say where publishers are served, if they are.
        ws_port: returns the port of the WebSocket server; requests on another port are redirected there.
        log: logs requests that are refused.
        overview: has the figures that the page shows; ``None`` for a page without them.
    """
    folder = files("realizehit") / "static" / "console"
    page = (folder / "console.html").read_text(encoding="utf-8")
    api = "" if settings.role == "ws" else settings.prefix
    page = page.replace('data-api="/"', f'data-api="{api}"').replace("{version}", __version__)
    texts = {PATH: ("text/html", page)}
    for file in folder.iterdir():
        media_type = _TYPES.get(file.name.rpartition(".")[2])
        if media_type is not None:
            texts[f"{PATH}/{file.name}"] = (media_type, file.read_text(encoding="utf-8"))

    def checked(request: Request) -> str:
        try:
            return check(request)
        except HTTPException as error:
            if log is not None:
                peer, why = peer_of(request.scope.get("client")), str(error.detail).removesuffix(f"; {_HOW}")
                log.note("console", peer=peer, headers=dict(request.scope["headers"]), detail=why)
            raise

    async def show(media_type: str, text: str, request: Request) -> Response:
        host = checked(request)
        if (request.scope.get("server") or ("", None))[1] not in (None, ws_port()):
            return RedirectResponse(f"{request.url.scheme}://{host}:{ws_port()}{PATH}", 307)
        return Response(text, headers={**HEADERS, "Content-Type": f"{media_type}; charset=utf-8"})

    pages = [Route(path, partial(show, media_type, text)) for path, (media_type, text) in texts.items()]
    if overview is None:
        return pages
    nodes = _Nodes(overview)

    async def show_nodes(request: Request) -> Response:
        checked(request)
        return Response(orjson.dumps(await nodes.document()), headers={**HEADERS, "Content-Type": "application/json"})

    return [*pages, Route(NODES_PATH, show_nodes)]


class _Nodes:
    """What the page shows of all processes.

    Args:
        overview: has it.
    """

    def __init__(self, overview: Overview) -> None:
        self._overview = overview
        self._broker_errors = BrokerErrorReporter()

    async def document(self) -> dict[str, Any]:
        """Return ``nodes``; of this process alone, and ``error``, where the others could not be asked."""
        try:
            return {"nodes": await self._overview.rows(watch=True)}
        except BrokerError as error:
            return {"nodes": [self._overview.own()], "error": self._broker_errors.report(error)}


def check(request: Request) -> str:
    """Let a request pass that comes from a browser on this machine.

    Returns:
        The name under which the browser knows this machine, as it stands in a URL.

    Raises:
        HTTPException: 403, with what to do instead.
    """
    headers, _ = headers_of(request.scope)
    reason = console_refusal(peer_of(request.scope.get("client")), headers)
    if reason is not None:
        raise HTTPException(403, f"{reason}; {_HOW}")
    host = headers[b"host"].decode("latin-1")
    return host[: host.index("]") + 1] if host.startswith("[") else host.partition(":")[0]
