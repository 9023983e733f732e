"""Has the gate decide about a request that comes through ASGI, as it does about a WebSocket's handshake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.types import Scope

from realizehit.access.claimants import Claimant
from realizehit.access.gate import Gate, Opening
from realizehit.access.peers import peer_of

_ANY_PAGE: Final = (b"access-control-allow-origin", b"*")
_BY_ORIGIN: Final = (b"vary", b"Origin")


def opening_of(scope: Scope, gate: Gate) -> Opening:
    """Decide about an opening request.

    Returns:
        What `Gate.joined` is to be told with the connection's handle.

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
