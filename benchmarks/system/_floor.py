"""The floor in a separate process: it accepts clients like a node, then hands their sockets to ``floor.c``.

Setting up is Python's and is not measured: handshakes by `websockets`, each ``sub`` answered once the broker confirmed.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import socket
import sys
import threading
from typing import Any

import orjson
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from realizehit.pattern import Pattern


class Client(asyncio.Protocol):
    """One connection up to the reply to its ``sub``."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._protocol = ServerProtocol()

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport
        self.socket: socket.socket = transport.get_extra_info("socket")

    def data_received(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._protocol.send_response(self._protocol.accept(event))
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self._floor.wanted(self, json.loads(bytes(event.data)))
        self.flush()

    def answer(self, reply: dict[str, Any]) -> None:
        self._protocol.send_text(orjson.dumps(reply))
        self.flush()

    def flush(self) -> None:
        for data in self._protocol.data_to_send():
            self.transport.write(data)


class Floor:
    """Waits for its clients, subscribes, answers, and runs the loop."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._clients: list[tuple[Client, str]] = []
        self._complete = asyncio.Event()

    def wanted(self, client: Client, action: dict[str, Any]) -> None:
        self.pattern = Pattern(action["pat"])
        self._clients.append((client, action["id"]))
        # Clients may connect all at once, or each after the reply to the last one.
        client.answer({"id": action["id"], "ret": self.pattern.id})
        if len(self._clients) == self._options["count"]:
            self._complete.set()

    async def accept(self) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Client(self), "127.0.0.1", 0, backlog=4096)
        host, port = server.sockets[0].getsockname()
        print(json.dumps({"ws": f"ws://{host}:{port}/ws"}), flush=True)
        await self._complete.wait()
        await asyncio.sleep(0)
        self.sockets = [client.socket.fileno() for client, _ in self._clients]

    def subscribe(self) -> socket.socket:
        broker = socket.socket(socket.AF_UNIX)
        broker.connect(self._options["broker"])
        channel = str(self.pattern).encode()
        broker.sendall(b"*2\r\n$9\r\nSUBSCRIBE\r\n$%d\r\n%b\r\n" % (len(channel), channel))
        reply = b""
        while not reply.endswith(b":1\r\n"):
            reply += broker.recv(4096)
        return broker

    def run(self) -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(self.accept())
        broker = self.subscribe()
        for descriptor in self.sockets:
            os.set_blocking(descriptor, True)
        library = ctypes.CDLL(self._options["library"])
        arguments = (
            broker.fileno(),
            (ctypes.c_int * len(self.sockets))(*self.sockets),
            len(self.sockets),
            self.pattern.id.encode(),
        )
        threading.Thread(target=library.floor_run, args=arguments, daemon=True).start()
        print(json.dumps({"subscribed": len(self.sockets)}), flush=True)
        sys.stdin.read()
        os._exit(0)  # the thread is in C and ends with the process


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if given["core"] is not None:
        os.sched_setaffinity(0, {given["core"]})
    Floor(given).run()
