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
    headers: dict[bytes, bytes] = {}
    repeated = []
    for name, value in scope["headers"]:
        if name in headers:
            repeated.append(name)
            headers[name] += b", " + value
        else:
            headers[name] = value
    peer = peer_of(scope.get("client"))
    # The connection that the request came on is among its address's already.
    return gate.open(peer, headers, frozenset(repeated), scope["query_string"], counted=True)
