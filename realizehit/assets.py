"""The JavaScript client, given out by the nodes that it connects to, so that a page needs one line.

``/realizehit.js`` is this version's client and is asked for again each time, which costs a 304. An address that names
the version, ``/realizehit-<version>.js`` or ``/realizehit.js?v=<version>``, may be kept for ever.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from realizehit import __version__

FOR_EVER: Final = "public, max-age=31536000, immutable"
ASK_AGAIN: Final = "public, no-cache"


def routes() -> list[Route]:
    """Return the routes that give out the client.

    Raises:
        FileNotFoundError: the package was installed without it.
    """
    script = files("realizehit").joinpath("static", "realizehit.js").read_bytes()
    etag = f'"{hashlib.sha256(script).hexdigest()[:32]}"'

    def answer(request: Request, cache: str) -> Response:
        headers = {
            "Cache-Control": cache,
            "ETag": etag,
            "Access-Control-Allow-Origin": "*",  # modules are fetched with CORS, and pages are served elsewhere
            "Cross-Origin-Resource-Policy": "cross-origin",
            "X-Content-Type-Options": "nosniff",
        }
        known = request.headers.get("if-none-match", "")
        if known.strip() == "*" or etag in (each.strip().removeprefix("W/") for each in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(script, headers=headers, media_type="text/javascript")  # and charset=utf-8

    async def current(request: Request) -> Response:
        return answer(request, FOR_EVER if request.query_params.get("v") == __version__ else ASK_AGAIN)

    async def versioned(request: Request) -> Response:
        return answer(request, FOR_EVER)

    return [Route("/realizehit.js", current), Route(f"/realizehit-{__version__}.js", versioned)]
