"""Clients that all connect and subscribe at once, in a process of their own, and check what they are sent.

Each line of its input is one task: the channels' patterns, and for those with history the position that the clients
have seen and the messages that they missed. The answer is one line with the seconds; or why it failed.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time
from typing import Any

import orjson

from benchmarks.system.client import HANDSHAKE, masked
from benchmarks.system.place import raise_file_limit
from realizehit.pattern import Pattern

UNDER_WAY = 2000  # connections without an answer yet; more than a system's queue of new ones loses time in retries
TIMEOUT = 60.0  # seconds
NICENESS = 5  # the reader of the live messages on the same core goes first
RESET = struct.pack("ii", 1, 0)  # leaves no port in TIME_WAIT


class Expected:
    """What the clients of one channel send, and what they must get."""

    def __init__(self, pattern: dict[str, str | int], since: str | None, missed: list[str]) -> None:
        asked = {} if since is None else {"since": since}
        self.opening = HANDSHAKE + masked(orjson.dumps({"id": 1, "act": "sub", "pat": pattern, **asked}))
        self.reply = b'"ret"' if since is None else b'"recovered":true'
        self.messages = len(missed)
        offset = int(since.partition(".")[2]) if since else 0
        label = Pattern(pattern).id
        texts = [f"{label}@o={n}?{payload}".encode() for n, payload in enumerate(missed, offset + 1)]
        self.end = b"".join(_frame(text) for text in texts) or b"}"

    def is_met(self, received: bytes | bytearray) -> bool:
        """Tell whether all has come, once and in order.

        Raises:
            RuntimeError: something else came.
        """
        if not received.endswith(self.end) or self.reply not in received:
            return False
        if received.count(b"@o=") != self.messages:
            raise RuntimeError(f"more than what was missed came: {bytes(received[:1000])!r}")
        return True


def _frame(text: bytes) -> bytes:
    return (bytes((0x81, len(text))) if len(text) < 126 else b"\x81\x7e" + struct.pack(">H", len(text))) + text


class Herd:
    """Connections to one port, in turn to each of the channels."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._epoll = select.epoll()
        self._received: dict[int, tuple[socket.socket, Expected, bytearray]] = {}

    def come(self, size: int, channels: list[Expected]) -> float:
        """Connect all clients, and return the seconds until the last has everything.

        Raises:
            RuntimeError: something is missing, or too much came.
        """
        start, complete = time.perf_counter(), 0
        for n in range(size):
            channel = channels[n % len(channels)]
            sock = socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.sendall(channel.opening)
            self._received[sock.fileno()] = (sock, channel, bytearray())
            self._epoll.register(sock, select.EPOLLIN)
            if n % 32 == 0 or n + 1 - complete >= UNDER_WAY:
                complete += self._read(0.0 if n + 1 - complete < UNDER_WAY else 1.0)
        while complete < size:
            complete += self._read(1.0)
            if time.perf_counter() - start > TIMEOUT:
                got = [bytes(data[-300:]) for _, channel, data in self._received.values() if not channel.is_met(data)]
                raise RuntimeError(f"{size - complete} of {size} clients have not got everything, such as {got[:1]}")
        return time.perf_counter() - start

    def _read(self, timeout: float) -> int:
        complete = 0
        for fd, _ in self._epoll.poll(timeout, 1024):
            sock, channel, data = self._received[fd]
            part = sock.recv(65536)
            if not part:
                raise RuntimeError(f"the server closed a connection after {bytes(data[-300:])!r}")
            data += part
            complete += channel.is_met(data)
        return complete

    def leave(self) -> None:
        """Close all connections."""
        for sock, _, _ in self._received.values():
            sock.close()
        self._received.clear()


def main() -> None:
    options: dict[str, Any] = json.loads(sys.argv[1])
    os.sched_setaffinity(0, {options["core"]})
    os.nice(NICENESS)
    raise_file_limit(options["size"] + 100)
    herd = Herd(options["port"])
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        task: dict[str, Any] = json.loads(line)
        said: dict[str, Any] = {}
        if "channels" in task:
            channels = [Expected(one["pattern"], one["since"], one["missed"]) for one in task["channels"]]
            try:
                said["seconds"] = herd.come(options["size"], channels)
            except (RuntimeError, OSError) as error:
                said["error"] = str(error)
        else:
            herd.leave()
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
