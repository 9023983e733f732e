"""Has the gate decide about a request that comes through ASGI, as it does about a WebSocket's handshake."""

from __future__ import annotations

from starlette.types import Scope

from realizehit.access.gate import Gate, Opening
from realizehit.access.peers import peer_of


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
