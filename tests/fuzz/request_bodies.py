"""Bodies of publish requests through all that reads them: the front door, the HTTP parser, the API, and a bus.

Invariant: every body has an answer, a response with one of the documented statuses and a JSON document; what is
published is what `tests.fuzz.publications` holds to its invariant, no more and no less; byte by byte gives the same
response and the same publications as one read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from uvicorn.config import Config
from uvicorn.server import ServerState

from realizehit.broker.publication import Outcome, Publication, Published
from realizehit.errors import PatternError, RequestError
from realizehit.http.api import create_app
from realizehit.http.front_door import FrontDoor
from realizehit.node.publish_bodies import parse_batch, parse_lines, parse_publication
from realizehit.settings import Settings
from tests.fuzz.command import main
from tests.support.scripted_bus import ScriptedBus

SETTINGS = Settings(max_payload_bytes=256, max_batch_bytes=1024, max_batch_messages=8)
STATUSES = {200, 400, 413}
KINDS = (("/", "application/json"), ("/batch", "application/json"), ("/batch", "application/x-ndjson"))
Answer = tuple[bytes, list[Publication]]


class Taking(ScriptedBus):
    """A broker that takes every publication."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[Publication] = []

    async def publish(self, publication: Publication) -> Published:
        self.published.append(publication)
        return Published(1)

    async def publish_many(self, publications: Sequence[Publication]) -> list[Outcome]:
        self.published += publications
        return [Published(1)] * len(publications)


class Pipe(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.protocol: asyncio.BaseProtocol | None = None
        self.closed = False

    def write(self, data: Any) -> None:
        self.data += data

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self.protocol is not None
        return self.protocol

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def one(data: bytes) -> None:
    """Take a case as a body; its first byte says what for, and whether it comes in chunks of which size.

    A body that begins with ``key:`` begins with a line that has the header Idempotency-Key.
    """
    how, body = data[0] if data else 0, data[1:]
    path, media_type = KINDS[how % len(KINDS)]
    key, body = key_and_body(body)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media_type}\r\n".encode()
    if key is not None:
        head += b"Idempotency-Key:%b\r\n" % key
    if how < 128:
        head += b"Content-Length: %d\r\n\r\n" % len(body)
        request = head + body
    else:
        size = 1 + how // 8 % 16 * 16
        parts = [body[start : start + size] for start in range(0, len(body), size)]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])
        request = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
    loop = asyncio.new_event_loop()
    unexpected: list[Any] = []
    loop.set_exception_handler(lambda _loop, context: unexpected.append(context))
    try:
        whole = loop.run_until_complete(answered([request]))
        check(path, media_type, body, key, whole)
        if len(body) <= 256:
            # The head is cut where it ends: taking it apart is what `request_heads` is for.
            cut = len(head)
            pieces = [request[:cut], *(request[i : i + 1] for i in range(cut, len(request)))]
            parts_of_it = loop.run_until_complete(answered(pieces))
            assert parts_of_it == whole, f"{parts_of_it} byte by byte, and {whole} at once"
    finally:
        loop.close()
    assert unexpected == []


async def answered(pieces: Iterable[bytes]) -> Answer:
    """Feed a connection, and return the response and what was published."""
    loop = asyncio.get_running_loop()
    bus, state = Taking(), ServerState()
    config = Config(create_app(bus, SETTINGS), lifespan="off", log_config=None, access_log=False)
    config.load()
    pipe = Pipe()
    pipe.protocol = FrontDoor(config, state, {}, loop, websocket=None, timeout=60.0)
    pipe.protocol.connection_made(pipe)
    for piece in pieces:
        pipe.get_protocol().data_received(piece)  # type: ignore[attr-defined]  # a Protocol, whoever's it is now
        await asyncio.sleep(0)
    while state.tasks:
        await asyncio.wait(state.tasks)
    await asyncio.sleep(0)  # the turn in which what was joined is written
    pipe.get_protocol().connection_lost(None)
    return pipe.data, bus.published


def key_and_body(body: bytes) -> tuple[bytes | None, bytes]:
    """Return the value of the header Idempotency-Key, if there is one that a head can have, and the body."""
    line, _, rest = body.partition(b"\n")
    value = line.removeprefix(b"key:")
    if value == line or len(value) > 200 or any(byte < 0x20 or byte == 0x7F for byte in value):
        return None, body
    return value, rest


def check(path: str, media_type: str, body: bytes, key: bytes | None, outcome: Answer) -> None:
    response, published = outcome
    head, _, text = response.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    assert status in STATUSES, response
    answer = orjson.loads(text)
    items = parsed(path, media_type, body, key)
    good = [item for item in items or () if isinstance(item, Publication) and len(item.payload) <= 256]
    assert published == good
    if items is None:
        assert status >= 400
        assert answer["code"]
    elif path == "/":
        assert status == (200 if good else 413)
    else:
        assert status == 200
        assert [result["status"] == "queued" for result in answer["results"]] == [item in good for item in items]


def parsed(path: str, media_type: str, body: bytes, key: bytes | None) -> list[Any] | None:
    """What a body says; nothing where all of it is refused."""
    try:
        if path == "/":
            publication = parse_publication(body)
            if key is None:
                return [publication]
            text = key.strip(b" ").decode("latin-1")
            usable = 0 < len(text) <= 64 and text.isascii()
            if not usable or publication.key not in {b"", text.encode()}:
                return None
            return [Publication(publication.channel, publication.payload, text.encode())]
        if key is not None or len(body) > SETTINGS.max_batch_bytes:
            return None
        parse = parse_lines if media_type == "application/x-ndjson" else parse_batch
        return [*parse(body, SETTINGS.max_batch_messages)]
    except (RequestError, PatternError):
        return None


if __name__ == "__main__":
    main(__spec__.name)
