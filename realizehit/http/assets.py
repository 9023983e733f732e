"""The JavaScript client, given out by the nodes that it connects to, so that a page needs one line.

``/realizehit.js`` is this version's client, minified, and is asked for again each time, which costs a 304. An address
that names the version, ``/realizehit-<version>.js`` or ``/realizehit.js?v=<version>``, may be kept for ever. Who
accepts gzip gets it compressed.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from importlib.resources import files
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from realizehit import __version__

FOR_EVER: Final = "public, max-age=31536000, immutable"
ASK_AGAIN: Final = "public, no-cache"

_WEIGHT: Final = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.IGNORECASE)


class _Form(NamedTuple):
    """The script in one content coding."""

    body: bytes
    headers: dict[str, str]


def routes() -> list[Route]:
    """Return the routes that give out the client.

    Raises:
        FileNotFoundError: the package was installed without it.
    """
    script = files("realizehit").joinpath("static", "realizehit.js").read_bytes()
    plain = _form(script, "")
    compressed = _form(gzip.compress(script, 9, mtime=0), "gzip")  # once, when the node starts

    def answer(request: Request, cache: str) -> Response:
        accepted = ",".join(request.headers.getlist("accept-encoding"))
        body, headers = compressed if accepts_gzip(accepted) else plain
        headers = {**headers, "Cache-Control": cache}
        known = request.headers.get("if-none-match", "")
        if known.strip() == "*" or headers["ETag"] in (each.strip().removeprefix("W/") for each in known.split(",")):
            headers.pop("Content-Encoding", None)  # the response has no body
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type="text/javascript")  # and charset=utf-8

    async def current(request: Request) -> Response:
        return answer(request, FOR_EVER if request.query_params.get("v") == __version__ else ASK_AGAIN)

    async def versioned(request: Request) -> Response:
        return answer(request, FOR_EVER)

    return [Route("/realizehit.js", current), Route(f"/realizehit-{__version__}.js", versioned)]


def accepts_gzip(accepted: str) -> bool:
    """Return whether an ``Accept-Encoding`` prefers gzip to no coding, as RFC 9110 (12.5.3) weighs them.

    What cannot be read counts as not accepted: everybody can read the plain text.
    """
    weights: dict[str, float] = {}
    for each in accepted.lower().split(","):
        coding, _, parameter = each.partition(";")
        weight = _WEIGHT.fullmatch(parameter.strip()) if parameter else None
        if parameter and weight is None:
            continue
        weights[coding.strip().removeprefix("x-")] = float(weight[1]) if weight else 1.0
    gzipped = weights.get("gzip", weights.get("*", 0.0))
    # Without a word about it no coding is acceptable too, but the last choice.
    return gzipped > 0 and gzipped >= weights.get("identity", 0.0)


def _form(body: bytes, coding: str) -> _Form:
    # Each form has a tag of its own: a cache must not take one for the other.
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {
        "ETag": etag,
        "Vary": "Accept-Encoding",
        "Access-Control-Allow-Origin": "*",  # modules are fetched with CORS, and pages are served elsewhere
        "Cross-Origin-Resource-Policy": "cross-origin",
        "X-Content-Type-Options": "nosniff",
    }
    return _Form(body, {**headers, "Content-Encoding": coding} if coding else headers)
