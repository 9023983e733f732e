"""Request heads at the front door: the quick reading of a head, and the quick answer to an opening handshake.

Invariant: nothing raises; every head has an answer that is an HTTP response; whatever the quick check accepts, the
`websockets` library accepts with the same response headers that matter; a head that is read says what it said.
"""

from __future__ import annotations

from websockets.http11 import Request
from websockets.server import ServerProtocol

from realizehit.transports.handshake import accept
from realizehit.transports.heads import parse_head
from tests.fuzz.command import main


def one(data: bytes) -> None:
    """Take a case up to its first blank line as a head."""
    text = data.partition(b"\r\n\r\n")[0]
    head = parse_head(text)
    if head is None:
        return
    assert head.text == text
    assert text.startswith(b" ".join((head.method, head.target, head.version)))
    assert head.path + (b"?" + head.query if b"?" in head.target else b"") == head.target
    for name, value in head.headers.items():
        assert name == name.lower()
        assert b"\r" not in value
        assert b"\n" not in value
        if name not in head.repeated:
            assert value in text
    accepted, response = accept(head)
    assert response.startswith(b"HTTP/1.1 101 " if accepted else b"HTTP/1.1 ")
    assert b"\r\n\r\n" in response
    if accepted:
        assert wanted(text) == field(response)


def field(response: bytes) -> bytes:
    return response.lower().partition(b"sec-websocket-accept: ")[2].partition(b"\r\n")[0]


def wanted(text: bytes) -> bytes:
    protocol = ServerProtocol()
    protocol.receive_data(text + b"\r\n\r\n")
    requests = [event for event in protocol.events_received() if isinstance(event, Request)]
    assert len(requests) == 1, "the library reads no request there"
    response = protocol.accept(requests[0])
    assert response.status_code == 101
    return field(response.serialize())


if __name__ == "__main__":
    main(__spec__.name)
