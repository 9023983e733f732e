"""The opening handshake of a WebSocket: common requests are checked here, all others by `websockets`.

The library also decides which error each wrong request gets, and accepts valid but unusual requests, such as those with
unusual spacing.

Source: RFC 6455, section 4.2.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1
from http import HTTPStatus
from typing import Final

from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from realizehit.errors import ErrorCode
from realizehit.logs.lines import WEBSOCKET_LOGGER
from realizehit.node.messages import problem
from realizehit.transports.heads import Head

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_USUAL_CONNECTION: Final = (b"upgrade", b"keep-alive, upgrade")

BEFORE_ANSWER: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)
"""The response to a usual handshake up to the answer to its key; two line ends follow that."""

VERSION_LINE: Final = "Sec-WebSocket-Version: 13"
"""The header by which a refused handshake names the supported version (RFC 6455, section 4.4)."""


def accept(head: Head) -> tuple[bool, bytes]:
    """Answer an opening handshake.

    Returns:
        Whether it was accepted, and the response to send, ready for the socket.
    """
    if is_usual(head):
        # The RFC prescribes SHA-1; nothing depends on its strength.
        digest = sha1(head.headers[b"sec-websocket-key"] + _GUID, usedforsecurity=False).digest()
        return True, BEFORE_ANSWER + b64encode(digest) + b"\r\n\r\n"
    if not head.headers.get(b"host") or b"host" in head.repeated:
        # The only check that the library does not do: RFC 6455, section 4.2.1, and RFC 9112, section 3.2.
        return False, refusal(400, "a WebSocket handshake needs exactly one Host", ErrorCode.BAD_REQUEST, VERSION_LINE)
    return _accept_by_library(head)


def is_usual(head: Head) -> bool:
    """Whether a handshake is valid and of the kind that most clients send."""
    headers = head.headers
    key = headers.get(b"sec-websocket-key", b"")
    return (
        bool(headers.get(b"host"))
        and head.method == b"GET"
        and head.version == b"HTTP/1.1"
        and headers.get(b"sec-websocket-version") == b"13"
        and headers.get(b"upgrade", b"").lower() == b"websocket"
        and headers.get(b"connection", b"").lower() in _USUAL_CONNECTION
        and len(key) == 24
        and key.endswith(b"==")
        and key[:-2].translate(None, _BASE64) == b""
        and not head.repeated
        and b"content-length" not in headers
        and b"transfer-encoding" not in headers
    )


def _accept_by_library(head: Head) -> tuple[bool, bytes]:
    protocol = ServerProtocol(logger=WEBSOCKET_LOGGER)
    protocol.receive_data(head.text + b"\r\n\r\n")
    response: Response | None = None
    for event in protocol.events_received():
        if isinstance(event, Request):
            response = protocol.accept(event)
    if response is None:
        detail = f"this is not a valid WebSocket handshake: {protocol.handshake_exc}"
        return False, refusal(400, detail, ErrorCode.BAD_REQUEST, VERSION_LINE)
    if response.status_code == 101:
        return True, response.serialize()
    more = [f"{name}: {response.headers[name]}" for name in ("Upgrade", "Allow") if name in response.headers]
    detail = f"this is not a valid WebSocket handshake: {protocol.handshake_exc}"
    return False, refusal(response.status_code, detail, ErrorCode.BAD_REQUEST, VERSION_LINE, *more)


def refusal(status: int, detail: str, code: str | None, *headers: str) -> bytes:
    """Build a whole HTTP response with a problem document, which closes the connection.

    Args:
        status: the response's status.
        detail: what is wrong, for humans.
        code: one of `ErrorCode`; ``None`` where the status is enough.
        *headers: further header lines.
    """
    return last_response(status, "application/problem+json", problem(status, detail, code), *headers)


def too_large(most: int) -> bytes:
    """Build the response to a request whose head has more than `most` bytes."""
    return refusal(431, f"a request head has at most {most} bytes", ErrorCode.TOO_LARGE)


def last_response(status: int, media_type: str, body: bytes, *headers: str) -> bytes:
    """Build a whole HTTP response that closes the connection; pages of any origin may read it."""
    head = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Content-Type: {media_type}",
        f"Content-Length: {len(body)}",
        "Access-Control-Allow-Origin: *",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body
