"""Has the gate decide about a request that comes through ASGI, as it does about a WebSocket's handshake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from starlette.types import Message, Scope, Send

from realizehit.access.claimants import Claimant
from realizehit.access.gate import Gate, Opening
from realizehit.access.peers import peer_of

_ANY_PAGE: Final = (b"access-control-allow-origin", b"*")
_BY_ORIGIN: Final = (b"vary", b"Origin")


def opening_of(scope: Scope, gate: Gate) -> Opening:
    """Decide about an opening request.

    Returns:
        What `Gate.on_connected` is to be told with the connection's handle.

    Raises:
        AccessDenied: it is not let in.
    """
    headers, repeated = headers_of(scope)
    peer = peer_of(scope.get("client"))
    # The connection that the request came on is among its address's already.
    return gate.open(peer, headers, repeated, scope["query_string"], counted=True)


def claimant_of(scope: Scope, gate: Gate) -> Claimant:
    """Say who sends a request of a session.

    Raises:
        AccessDenied: as `Gate.claimant`.
    """
    headers, repeated = headers_of(scope)
    return gate.claimant(peer_of(scope.get("client")), headers, repeated, scope["query_string"])


def check_claimant(scope: Scope, gate: Gate, claimant: Claimant | None) -> None:
    """Refuse a request of a session that somebody else has opened.

    Raises:
        AccessDenied: as `Gate.check_claimant`.
    """
    headers, repeated = headers_of(scope)
    gate.check_claimant(claimant, peer_of(scope.get("client")), headers, repeated, scope["query_string"])


def headers_of(scope: Scope) -> tuple[dict[bytes, bytes], frozenset[bytes]]:
    """Return a request's headers as `realizehit.transports.handshake.Head` has them.

    Returns:
        Trimmed values by lower-case name, those of a name that comes twice joined by a comma; and the names that do.
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
    """Return a function that sends a response with further headers, those left out that it has already."""

    async def send_with_them(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = list(message.get("headers", ()))
            names = {name.lower() for name, _ in there} - {b"vary"}  # which there may be several of
            message = {**message, "headers": [*there, *(header for header in headers if header[0] not in names)]}
        await send(message)

    return send_with_them


def readable(headers: Mapping[bytes, bytes], gate: Gate, *, figures: bool = False) -> list[tuple[bytes, bytes]]:
    """Return the headers that let the page of a request read an answer of the API, where it may use it.

    Cookies say nothing here, so that pages need not send them.

    Args:
        headers: of the request, by lower-case name.
        gate: says which pages may use the server.
        figures: whether the answer tells how the server does, which is for pages that are named.
    """
    origin = headers.get(b"origin")
    if origin is None:
        return []
    if not (gate.origins.knows(headers) if figures else gate.origins.admits(headers)):
        return [_BY_ORIGIN]
    return [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", b"Retry-After"), _BY_ORIGIN]


def cross_origin(headers: Mapping[bytes, bytes], gate: Gate | None) -> list[tuple[bytes, bytes]]:
    """Return the headers that let pages of other origins read an answer.

    A page that may use the server is named, and may send its cookies, from which a proxy makes identities, as it may
    with a WebSocket. Any other one may read why it is refused, when it asks without cookies.

    Args:
        headers: of the request, by lower-case name.
        gate: says which pages may use the server; ``None`` where all may, as nobody.
    """
    if gate is None:
        return [_ANY_PAGE]
    origin = headers.get(b"origin")
    if origin is None or not gate.origins.admits(headers):
        return [_ANY_PAGE, _BY_ORIGIN]
    return [(b"access-control-allow-origin", origin), (b"access-control-allow-credentials", b"true"), _BY_ORIGIN]
