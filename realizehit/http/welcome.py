"""What a browser gets that opens the server's address: what this is, and where things are.

Programs are answered as for any other path: only who asks for ``text/html`` by that name gets the page.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from html import escape
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from realizehit import __version__
from realizehit.settings import Settings

_STYLE: Final = (
    ":root { color-scheme: light dark; } body { font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem;"
    " margin: 0 auto; padding: 2rem 1rem; } code { overflow-wrap: anywhere; } li { margin: .3rem 0; }"
)
_HASH: Final = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

_HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Vary": "Accept",
}


def page(settings: Settings) -> str:
    """Return the page of a server with these settings; its links lead to paths beside it."""
    clients, publishes = settings.role != "api", settings.role != "ws"
    lines = []
    if clients and settings.console:
        lines.append('<a href="console">/console</a>: a page to subscribe and publish, on the server\'s own machine')
    elif clients:
        lines.append("The console, a page to subscribe and publish, is off; <code>--console</code> serves it")
    if clients:
        lines.append("<code>/ws</code>: WebSocket and Engine.IO clients connect here; <code>/sse</code>: event streams")
        lines.append('<a href="realizehit.js">/realizehit.js</a>: the JavaScript client')
    if publishes:
        lines.append(f"<code>POST {escape(settings.prefix)}</code>: publish a message")
    lines.append('<a href="openapi.json">/openapi.json</a>: what there is, for machines')
    lines.append('<a href="metrics">/metrics</a>, <a href="healthz">/healthz</a>, <a href="readyz">/readyz</a>')
    items = "\n".join(f"<li>{line}</li>" for line in lines)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>realizehit</title>
<style>{_STYLE}</style>
<h1>realizehit {__version__}</h1>
<p>A server that pushes what is published to a pattern to all clients that subscribe to it.</p>
<ul>
{items}
</ul>
</html>
"""


def answer(request: Request, text: str) -> Response | None:
    """Return the page for a browser at the root; ``None`` where another answer is due.

    Args:
        request: one that no route takes.
        text: the page.
    """
    root = str(request.scope.get("root_path", ""))
    if request.method not in ("GET", "HEAD") or request.scope["path"].removeprefix(root) not in ("", "/"):
        return None
    return Response(text, headers=_HEADERS) if _asks_for_html(request.headers.get("accept", "")) else None


def _asks_for_html(accept: str) -> bool:
    for each in accept.split(","):
        media_type, *parameters = (part.strip().lower() for part in each.split(";"))
        weights = [part[2:].strip() for part in parameters if part.startswith("q=")]
        if media_type == "text/html" and not any(weight.strip("0.") == "" for weight in weights):
            return True
    return False
