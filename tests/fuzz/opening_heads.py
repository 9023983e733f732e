"""Opening handshakes in the engine: its quick reading of a head beside the reading in Python.

Invariant: nothing raises; what the quick reading takes is a whole head that Python can read; every decision about it is
the same by its signature alone, or by its signature and the headers that the gate watches where a setting asks for a
look at each client; its key has the answer that Python gives.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

import jwt

from realizehit import _fanout
from realizehit.access.connected_clients import Opening
from realizehit.access.gate import Gate
from realizehit.access.peers import UNKNOWN
from realizehit.errors import AccessDenied
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

SECRET: Final = "s" * 32
LASTS: Final = 1e6  # seconds; tokens are made once
TOKEN: Final = jwt.encode({"sub": "ann", "exp": int(time.time() + LASTS)}, SECRET, "HS256").encode()
IDENTIFY: Final = {"identify": ("user=X-User", "device=X-Device"), "trusted_proxies": ("127.0.0.0/8",)}
TOKENS: Final = {"jwt_secret": SECRET, "jwt_algorithms": ("HS256",)}
EVERYBODY: Final = ("0.0.0.0/0", "::/0")
FULL: Final = "192.0.2.2"  # an address that has as many connections as it may
PEERS: Final = ("127.0.0.1", "192.0.2.1", FULL, UNKNOWN)
GATES_FOR_EACH: Final = [
    Gate(Settings(**settings), clock=lambda: 0.0)
    for settings in (
        IDENTIFY,
        {**TOKENS, "jwt_claims": ("user=sub",)},
        {**IDENTIFY, **TOKENS, "jwt_claims": ("sub=sub",), "max_per_address": 1},
        {
            "identify": ("page=Origin", "key=Sec-WebSocket-Key", "token=Authorization"),
            "trusted_proxies": ("0.0.0.0/0",),
        },
        {"console": True, "host": "0.0.0.0", "allow_origin": ("*",)},
        {"max_per_address": 1, "allow_origin": ("https://example.org",)},
    )
]
"""Gates that look at each client."""

for _gate in GATES_FOR_EACH:
    if _gate.clients.addresses is not None:
        _gate.clients.addresses.add(FULL)


def one(data: bytes) -> None:
    """Take a case as what a connection has sent first; ``TOKEN`` in it stands for a token that is valid."""
    data = data.replace(b"TOKEN", TOKEN)
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
    for gate in GATES_FOR_EACH:
        if is_usual(head) and host_fault(head) is None:
            decide_both_ways(gate, data, head, signed)
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


def decide_both_ways(gate: Gate, data: bytes, head: Head, signed: Head) -> None:
    """Decide about clients of several peers by the whole head and by what the engine reads of it."""
    clients = gate.clients
    fields = _fanout.opening_fields(data, clients.watched, MOST)
    assert fields is not None
    headers, query = fields
    for peer in PEERS:
        if not clients.is_admitted(signed.headers, trusted=clients.trusts(peer)):
            continue
        whole = decided(gate, partial(clients.open, peer, head.headers, head.repeated, head.query))
        quick = decided(gate, partial(clients.open_usual, peer, headers, query))
        assert quick == whole
        if not clients.needs_peer:
            assert decided(gate, partial(clients.open_usual, UNKNOWN, headers, query)) == whole


def decided(gate: Gate, decide: Callable[[], Opening]) -> object:
    """Return a decision, with the count of ignored headers that it added."""
    before = gate.clients.ignored_headers
    try:
        opening = decide()
    except AccessDenied as error:
        return error.code, error.reason, str(error), error.retry_after
    if opening.end is not None:
        assert LASTS / 2 < opening.end < 2 * LASTS  # the clock moves between two decisions
    return opening._replace(end=None), opening.end is None, gate.clients.ignored_headers - before


if __name__ == "__main__":
    main(__spec__.name)
