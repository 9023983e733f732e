"""The opening handshake of a WebSocket: the common request is checked here, every other one by the library.

Source: RFC 6455, section 4.2. What these checks do not recognise as right at once goes to `websockets`, which knows
which error each wrong request deserves; it also decides for the rare right ones, such as those with unusual spacing.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1
from typing import Final, NamedTuple

from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

MAX_HEAD: Final = 16 * 1024  # bytes of a request's line and headers

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_ACCEPTED: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
)


class Head(NamedTuple):
    """A request's head, split.

    Attributes:
        method, target, version: the three parts of the request line.
        headers: values by lower-case name; of a header that comes twice, the values joined by a comma.
    """

    method: bytes
    target: bytes
    version: bytes
    headers: dict[bytes, bytes]

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]

    @property
    def query(self) -> bytes:
        return self.target.partition(b"?")[2]

    @property
    def wants_websocket(self) -> bool:
        return b"websocket" in self.headers.get(b"upgrade", b"").lower()


def parse_head(head: bytes) -> Head | None:
    """Split a request's head.

    Args:
        head: everything up to the blank line, that one not included.

    Returns:
        The parts, or ``None`` for what is no HTTP request as far as can be told here.
    """
    first, *lines = head.split(b"\r\n")
    words = first.split(b" ")
    if len(words) != 3:
        return None
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name.strip() != name:
            return None
        name = name.lower()
        value = value.strip(b" \t")
        headers[name] = headers[name] + b", " + value if name in headers else value
    return Head(words[0], words[1], words[2], headers)


def accept(head: Head) -> tuple[bool, bytes]:
    """Answer an opening handshake.

    Returns:
        Whether it was accepted, and the response to send, ready for the socket.
    """
    headers = head.headers
    key = headers.get(b"sec-websocket-key", b"")
    if (
        head.method == b"GET"
        and head.version == b"HTTP/1.1"
        and headers.get(b"sec-websocket-version") == b"13"
        and headers.get(b"upgrade", b"").lower() == b"websocket"
        and b"upgrade" in headers.get(b"connection", b"").lower().replace(b" ", b"").split(b",")
        and len(key) == 24
        and key.endswith(b"==")
        and key[:-2].translate(None, _BASE64) == b""
        and b"host" in headers
    ):
        # SHA-1 is what the RFC prescribes; nothing here depends on its strength.
        digest = sha1(key + _GUID, usedforsecurity=False).digest()
        return True, _ACCEPTED % b64encode(digest)
    return _accept_by_library(head)


_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def _accept_by_library(head: Head) -> tuple[bool, bytes]:
    protocol = ServerProtocol()
    lines = [b" ".join((head.method, head.target, head.version))]
    lines += [name + b": " + value for name, value in head.headers.items()]
    protocol.receive_data(b"\r\n".join(lines) + b"\r\n\r\n")
    response: Response | None = None
    for event in protocol.events_received():
        if isinstance(event, Request):
            response = protocol.accept(event)
    if response is None:
        return False, refusal(400, "Bad Request", f"this is no WebSocket handshake: {protocol.handshake_exc}")
    return response.status_code == 101, response.serialize()


def refusal(status: int, phrase: str, text: str, *headers: str) -> bytes:
    """Build a whole HTTP response that says no and closes the connection."""
    body = text.encode() + b"\n"
    head = [
        f"HTTP/1.1 {status} {phrase}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body
