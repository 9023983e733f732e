"""Asks the gate about requests that come through ASGI, and builds the headers that browsers need (CORS)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from starlette.types import Message, Scope, Send

from realizehit.access.claimants import Claimant
from realizehit.access.connected_clients import Opening
from realizehit.access.gate import Gate
from realizehit.access.peers import peer_of

_ANY_PAGE: Final = (b"access-control-allow-origin", b"*")
_BY_ORIGIN: Final = (b"vary", b"Origin")


def opening_of(scope: Scope, gate: Gate) -> Opening:
    """Decide about an opening request.

    Returns:
        What `ConnectedClients.on_connected` needs, with the connection's handle.

    Raises:
        AccessDenied: the client is not let in.
    """
    headers, repeated = headers_of(scope)
    peer = peer_of(scope.get("client"))
    # The connection of the request is already counted under its address.
    return gate.clients.open(peer, headers, repeated, scope["query_string"], counted=True)


def claimant_of(scope: Scope, gate: Gate) -> Claimant:
    """Return who sends a request of a polling session.

    Raises:
        AccessDenied: as `ClientGate.claimant`.
    """
    headers, repeated = headers_of(scope)
    return gate.clients.claimant(peer_of(scope.get("client")), headers, repeated, scope["query_string"])


def check_claimant(scope: Scope, gate: Gate, claimant: Claimant | None) -> None:
    """Refuse a request of a polling session that somebody else opened.

    Raises:
        AccessDenied: as `ClientGate.check_claimant`.
    """
    headers, repeated = headers_of(scope)
    gate.clients.check_claimant(claimant, peer_of(scope.get("client")), headers, repeated, scope["query_string"])


def headers_of(scope: Scope) -> tuple[dict[bytes, bytes], frozenset[bytes]]:
    """Return a request's headers in the form of `realizehit.transports.heads.Head`.

    Returns:
        Trimmed values by lower-case name, several values of a name joined by commas; and the names with several.
    """
    headers: dict[bytes, bytes] = {}
    repeated = []
    for name, text in scope["headers"]:
        value = text.strip(b" \t")
        if name in headers:
            repeated.append(name)
            value = headers[name] + b", " + value
        headers[name] = value
    return headers, frozenset(repeated)


def adding(send: Send, headers: Sequence[tuple[bytes, bytes]]) -> Send:
    """Return a function that adds headers to a response, except headers that the response has already."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = list(message.get("headers", ()))
            names = {name.lower() for name, _ in present} - {b"vary"}  # a response may have several of these
            message = {**message, "headers": [*present, *(header for header in headers if header[0] not in names)]}
        await send(message)

    return send_with_headers


def readable(headers: Mapping[bytes, bytes], gate: Gate, *, figures: bool = False) -> list[tuple[bytes, bytes]]:
    """Return the headers that let a page read a response of the API, if the page may use the API.

    The API looks at no cookies, so pages need not send them.

    Args:
        headers: of the request, by lower-case name.
        gate: knows which pages may use the server.
        figures: whether the response has the server's figures, which only pages that are named may read.
    """
    origin = headers.get(b"origin")
    if origin is None:
        return []
    if not (gate.pages.origins.knows(headers) if figures else gate.pages.origins.admits(headers)):
        return [_BY_ORIGIN]
    return [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", b"Retry-After"), _BY_ORIGIN]


def cross_origin(headers: Mapping[bytes, bytes], gate: Gate | None) -> list[tuple[bytes, bytes]]:
    """Return the headers that let pages of other origins read a response of a transport.

    A page that may use the server may send its cookies, as it may with a WebSocket, since a proxy can derive identities
    from them. Any other page can read why it was refused, if it asked without cookies.

    Args:
        headers: of the request, by lower-case name.
        gate: knows which pages may use the server; ``None`` where every page may, without an identity.
    """
    if gate is None:
        return [_ANY_PAGE]
    origin = headers.get(b"origin")
    if origin is None or not gate.pages.origins.admits(headers):
        return [_ANY_PAGE, _BY_ORIGIN]
    return [(b"access-control-allow-origin", origin), (b"access-control-allow-credentials", b"true"), _BY_ORIGIN]
