"""All that a client sends over one HTTP connection, beside h11: which requests there are, their bodies, and the end.

Invariant: nothing raises; the requests that are served are the first ones that h11 reads, with its bodies, through the
application and without it; where they are fewer, or h11 finds an error, the connection is refused and ends; each of
them has one answer, in order; however the bytes are cut, all of this is the same.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import h11
from uvicorn.config import Config
from uvicorn.server import ServerState

from realizehit.http.fast_path import Respond
from realizehit.http.front_door import FrontDoor
from tests.fuzz.command import main

MAX_HEAD = 2048
DIRECT = b"/direct"
TURNS = 6  # of the loop after each piece, so that tasks have theirs

Request = tuple[bytes, bytes, bytes]
"""Method, target and body."""


class Outcome(NamedTuple):
    """What became of a connection.

    Attributes:
        served: the requests that were whole.
        statuses: of the answers.
        ended: whether the server ended it.
    """

    served: list[Request]
    statuses: list[int]
    ended: bool


class Pipe(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.ended = self.closed = False

    def write(self, data: Any) -> None:
        assert not self.ended, "something is written behind the last answer"
        self.data += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.ended = self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def one(data: bytes) -> None:
    """Take a case as what a client sends; its first byte says how the bytes are cut."""
    how, stream = data[0] if data else 0, data[1:]
    compare(stream, how % 32 + 1)


def compare(stream: bytes, size: int) -> Outcome:
    """Hold one connection to the invariant, at once and in pieces of so many bytes, and return what became of it."""
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    loop = asyncio.new_event_loop()
    unexpected: list[Any] = []
    loop.set_exception_handler(lambda _loop, context: unexpected.append(context))
    try:
        whole = loop.run_until_complete(serve([stream]))
        parts = loop.run_until_complete(serve(pieces))
    finally:
        loop.close()
    assert unexpected == []
    assert parts == whole, f"{parts} in pieces of {size}, and {whole} at once"
    wanted, broken = read_by_h11(stream)
    served = len(whole.served)
    assert whole.served == wanted[:served], f"{whole.served} instead of {wanted}"
    good, refused = whole.statuses[:served], whole.statuses[served:]
    assert good == [200] * served
    assert not refused or (len(refused) == 1 and refused[0] >= 400 and whole.ended)
    if served < len(wanted) or broken:
        assert whole.ended, f"{wanted[served:]} has no answer, and the connection goes on"
    return whole


async def serve(pieces: Iterable[bytes]) -> Outcome:
    """Feed a connection."""
    loop = asyncio.get_running_loop()
    served: list[Request] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        served.append((scope["method"].encode(), scope["raw_path"] + query, body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    def directly(client: object, headers: Mapping[bytes, bytes], body: bytes, respond: Respond) -> None:
        served.append((b"POST", DIRECT, body))
        if len(body) % 2:
            respond(200, b"text/plain", b"ok", ())
        else:
            loop.call_soon(respond, 200, b"text/plain", b"ok", ())

    config = Config(app, interface="asgi3", lifespan="off", log_config=None, access_log=False)
    config.load()
    state, pipe = ServerState(), Pipe()
    door = FrontDoor(
        config, state, {}, loop, websocket=None, timeout=60.0, max_head=MAX_HEAD, direct={DIRECT: directly}
    )  # fmt: skip
    door.connection_made(pipe)
    for piece in pieces:
        if pipe.closed:
            break
        door.data_received(piece)
        for _ in range(TURNS):
            await asyncio.sleep(0)
    before = -1
    while before != len(served):  # each has its answer after some turns
        before = len(served)
        for _ in range(5 * TURNS):
            await asyncio.sleep(0)
    door.connection_lost(None)
    if state.tasks:
        await asyncio.wait(state.tasks)
    return Outcome(served, statuses_of(pipe.data, [method for method, _, _ in served]), pipe.ended)


def statuses_of(data: bytes, methods: Iterable[bytes]) -> list[int]:
    """Read the answers as a client does that knows what it asked for."""
    statuses: list[int] = []
    asked = iter(methods)
    while data:
        head, blank, data = data.partition(b"\r\n\r\n")
        assert blank, f"half an answer: {head!r}"
        status = int(head.split(b" ", 2)[1])
        if status < 200:
            continue
        statuses.append(status)
        length = re.search(rb"\r\ncontent-length: (\d+)", head.lower())
        assert length is not None, head
        if next(asked, b"") != b"HEAD":
            size = int(length[1])
            assert len(data) >= size
            data = data[size:]
    return statuses


def read_by_h11(stream: bytes) -> tuple[list[Request], bool]:
    """Return the requests that h11 reads, and whether it found an error behind them."""
    requests: list[Request] = []
    while True:
        if stream.startswith(b"\r\n"):  # one empty line before a request is forgiven
            stream = stream[2:]
        if stream in (b"", b"\r"):
            return requests, False
        conn = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        conn.receive_data(stream)
        try:
            event = conn.next_event()
            if event is h11.NEED_DATA:
                return requests, False
            assert isinstance(event, h11.Request)
            method, target, body = event.method, event.target, b""
            while not isinstance(event := conn.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    return requests, False
                assert isinstance(event, h11.Data)
                body += event.data
            conn.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
            conn.send(h11.EndOfMessage())
        except h11.RemoteProtocolError:
            return requests, True
        if not target.startswith(b"/"):
            try:
                parts = urlsplit(target)
            except ValueError:  # the brackets of its host are not those of an IPv6 address, which h11 does not check
                return requests, True
            target = (parts.path or b"/") + (b"?" + parts.query if parts.query else b"")
        requests.append((method, target.removesuffix(b"?"), body))
        if conn.our_state is not h11.DONE:
            return requests, False
        stream = conn.trailing_data[0]


if __name__ == "__main__":
    main(__spec__.name)
