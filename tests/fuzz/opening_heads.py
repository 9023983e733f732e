"""Opening handshakes in the engine: its quick reading of a head beside the reading in Python.

Invariant: nothing raises; what the quick reading takes is a whole head that Python can read; every decision about it is
the same by its signature alone; its key has the answer that Python gives.
"""

from __future__ import annotations

from typing import Final

from realizehit import _fanout
from realizehit.access.gate import Gate
from realizehit.settings import Settings
from realizehit.transports.compression import negotiate
from realizehit.transports.handshake import BEFORE_ANSWER, accept, is_usual
from realizehit.transports.heads import Head, host_fault, parse_head
from tests.fuzz.command import main

MOST: Final = 2000  # bytes of a head

GATES: Final = [
    Gate(Settings(**settings), clock=lambda: 0.0)
    for settings in (
        {},
        {"host": "0.0.0.0"},
        {"allow_origin": ("https://example.org", "https://*.example.com")},
        {"allow_origin": ("*",)},
        {"endpoint": "wss://example.org"},
    )
]


def one(data: bytes) -> None:
    """Take a case as what a connection has sent first."""
    found = _fanout.opening_signature(data, MOST)
    if found is None:
        return
    signature, size = found
    text, blank, _ = data.partition(b"\r\n\r\n")
    assert blank
    assert size == len(text) + 4 <= MOST + 4
    head = parse_head(text)
    assert head is not None
    key = head.headers[b"sec-websocket-key"]
    signed = parse_head(signature + b"\r\nsec-websocket-key:" + key)
    assert signed is not None
    assert decisions(signed) == decisions(head)
    accepted, response = accept(head)
    if is_usual(head):
        assert accepted
        assert response == BEFORE_ANSWER + _fanout.accept_key(key) + b"\r\n\r\n"


def decisions(head: Head) -> list[object]:
    """Return all that is decided by a head alone."""
    return [
        (head.method, head.version, head.path),
        head.wants_websocket,
        is_usual(head),
        host_fault(head),
        negotiate(head),
        [gate.clients.is_admitted(head.headers) for gate in GATES],
    ]


if __name__ == "__main__":
    main(__spec__.name)
