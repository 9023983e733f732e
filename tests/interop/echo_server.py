"""A server that echoes, for conformance suites from outside: ``python -m tests.interop.echo_server --port 9001``.

It serves the very transport that the product serves, with a session that sends back what it is sent, text and binary,
up to 16 MiB.
"""

from __future__ import annotations

import argparse
import asyncio
from functools import partial
from typing import Any

import uvicorn
import uvloop

from realizehit import _fanout
from realizehit.http.front_door import FrontDoor
from realizehit.process.sockets import bind
from realizehit.transports.session import Session
from realizehit.transports.websocket import WebSocketTransport

MAX_MESSAGE = 16 << 20  # bytes


class EchoSession(Session):
    accepts_binary = True

    def __init__(self, engine: _fanout.Engine) -> None:
        self._engine = engine

    def receive(self, conn: int, data: bytes) -> None:
        self._engine.send(conn, data)

    def receive_binary(self, conn: int, data: bytes) -> None:
        self._engine.send(conn, data, binary=True)


async def serve(port: int, *, epoll: bool = True, compress: bool = False) -> None:
    loop = asyncio.get_running_loop()
    engine = _fanout.Engine(
        loop.call_soon,
        lambda error: loop.call_exception_handler({"message": "echo failed", "exception": error}),
        max_message=MAX_MESSAGE,
        max_queue_bytes=256 << 20,
        epoll=epoll,
    )
    transport = WebSocketTransport(engine, EchoSession(engine), max_message=MAX_MESSAGE, path=None, compress=compress)
    if engine.owns_sockets:
        loop.add_reader(engine.fileno(), engine.on_readable)

    def tick() -> None:
        engine.tick(loop.time())
        loop.call_later(engine.tick_interval, tick)

    tick()
    door: Any = partial(FrontDoor, websocket=transport, timeout=10.0)
    config = uvicorn.Config(_no_http, http=door, ws=door, loop="none", lifespan="off", log_level="warning")
    sock = bind("127.0.0.1", port)
    sock.listen()  # whoever reads the next line may connect
    print(f"echoing at ws://127.0.0.1:{sock.getsockname()[1]}/", flush=True)  # noqa: T201 - what a suite waits for
    await uvicorn.Server(config).serve(sockets=[sock])
    engine.close()


async def _no_http(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 426, "headers": [(b"upgrade", b"websocket")]})
    await send({"type": "http.response.body", "body": b"connect with a WebSocket client\n"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9001)
    parser.add_argument("--no-epoll", action="store_true", help="leave each connection with its asyncio transport")
    parser.add_argument("--compress", action="store_true", help="negotiate permessage-deflate")
    options = parser.parse_args()
    uvloop.run(serve(options.port, epoll=not options.no_epoll, compress=options.compress))


if __name__ == "__main__":
    main()
