"""The page ``/console``: what it consists of, and who may have it.

It shows this server and publishes to it, so only browsers on the same machine get it:
the peer must be a loopback address, and the request must not have come through a proxy or under a name of somebody
else's, which a stranger's page could let point here (DNS rebinding).

Source: the console, ``docs/console.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.resources import files
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from realizehit import __version__
from realizehit.access.local import is_forwarded, is_local_host, is_local_page
from realizehit.access.peers import UNIX, is_loopback, peer_of
from realizehit.access.refusals import RefusalLog
from realizehit.settings import Settings

PATH: Final = "/console"

_TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

HEADERS: Final = {
    # Nothing from elsewhere, nothing inline, nobody else's frame; 'self' covers the WebSocket of the same port.
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


def routes(settings: Settings, ws_port: Callable[[], int], log: RefusalLog | None = None) -> list[Route]:
    """Return the page's routes.

    Args:
        settings: where publishers are served, if they are.
        ws_port: returns the port of the WebSocket server, to which a page that was asked for on another one moves.
        log: is told of requests that are refused.
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

    async def show(media_type: str, text: str, request: Request) -> Response:
        try:
            host = check(request)
        except HTTPException as error:
            if log is not None:
                peer, why = peer_of(request.scope.get("client")), str(error.detail).removesuffix(f"; {_HOW}")
                log.note("console", peer=peer, headers=dict(request.scope["headers"]), detail=why)
            raise
        if (request.scope.get("server") or ("", None))[1] not in (None, ws_port()):
            return RedirectResponse(f"{request.url.scheme}://{host}:{ws_port()}{PATH}", 307)
        return Response(text, headers={**HEADERS, "Content-Type": f"{media_type}; charset=utf-8"})

    return [Route(path, partial(show, media_type, text)) for path, (media_type, text) in texts.items()]


def check(request: Request) -> str:
    """Let a request pass that comes from a browser on this machine.

    Returns:
        The name under which the browser knows this machine, as it stands in an address.

    Raises:
        HTTPException: 403, with what to do instead.
    """
    headers = dict(request.scope["headers"])
    peer = peer_of(request.scope.get("client"))
    if peer == UNIX or not is_loopback(peer):  # no browser opens a Unix socket
        raise HTTPException(403, _HOW)
    host = request.headers.get("host", "")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if not is_local_host(host.encode("latin-1")):
        raise HTTPException(403, f"the Host is {host[:100]!r}, which is not this machine's own name for itself; {_HOW}")
    if is_forwarded(headers):
        raise HTTPException(403, f"the request came through a proxy; {_HOW}")
    # Whoever follows a link to the page is where the browser is; no page gets at what is shown then.
    if not is_local_page(headers) and ("origin" in request.headers or headers.get(b"sec-fetch-mode") != b"navigate"):
        raise HTTPException(403, f"the request comes from another page; {_HOW}")
    return f"[{name}]" if ":" in name else name
