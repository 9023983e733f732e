"""Negotiates permessage-deflate in the only supported form: without context takeover, with the full window.

Each message is then compressed independently, so that a frame is built once and shared by all receivers.

Source: RFC 7692, section 7.
"""

from __future__ import annotations

from typing import Final

from websockets.exceptions import InvalidHeaderFormat, NegotiationError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension

from realizehit.transports.heads import Head
from realizehit.transports.intake import WINDOW_BITS

_FACTORY: Final = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)


def negotiate(head: Head) -> bytes | None:
    """Answer the extensions that a client offers.

    Returns:
        The header line to add to the response, or ``None`` where messages stay uncompressed.
    """
    offered = head.headers.get(b"sec-websocket-extensions")
    if offered is None:
        return None
    try:
        offers = parse_extension(offered.decode("latin-1"))
    except InvalidHeaderFormat:
        return None
    for name, parameters in offers:
        if name != _FACTORY.name:
            continue
        try:
            agreed, extension = _FACTORY.process_request_params(parameters, [])
        except NegotiationError:
            continue
        if extension.local_max_window_bits == extension.remote_max_window_bits == WINDOW_BITS:
            return f"Sec-WebSocket-Extensions: {build_extension([(name, agreed)])}\r\n".encode()
    return None
