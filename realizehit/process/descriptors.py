"""Connections that a worker passes on to another one: their descriptors, with the bytes that they have sent so far.

Each worker has a Unix datagram socket that only the others can reach. A connection is one datagram, so sending it never
waits, and it arrives whole or not at all.
"""

from __future__ import annotations

import array
import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from realizehit.common.upkeep import Failures

logger: Final = logging.getLogger(__name__)

AT_ONCE: Final = 16  # connections that are taken in one turn of the event loop

Serve = Callable[[socket.socket, bytes], None]
"""Takes a connection, and the bytes that it has sent so far."""


class Descriptors:
    """Sends connections to other workers, and takes those that others send.

    Args:
        path_of: returns the path of a worker's socket, given its number.
        number: of this worker.
        most: bytes that a connection may have sent before it is passed on.
    """

    def __init__(self, path_of: Callable[[int], Path], number: int, most: int) -> None:
        self._path_of = path_of
        self._number = number
        self._most = most
        self._socket: socket.socket | None = None
        self._serve: Serve | None = None
        self._failures = Failures("taking a connection of another worker")

    def start(self, serve: Serve) -> None:
        """Take connections; where that cannot be, the others refuse them, which is logged."""
        path = self._path_of(self._number)
        self._serve = serve
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            path.unlink(missing_ok=True)  # of the worker that this one replaces
            sock.bind(str(path))
        except OSError as error:
            sock.close()
            text = "other workers cannot pass connections of Engine.IO sessions on to this one: %s: %s"
            logger.warning(text, path, error.strerror or error)
            return
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock, self._take)

    def close(self) -> None:
        """Take no more; calling it again does nothing."""
        sock, self._socket = self._socket, None
        if sock is not None:
            asyncio.get_running_loop().remove_reader(sock)
            with suppress(OSError):
                self._path_of(self._number).unlink()
            sock.close()

    def send(self, number: int, fd: int, data: bytes) -> bool:
        """Send a connection to another worker; this process then has to close its own descriptor.

        Args:
            number: of the worker.
            fd: of the connection.
            data: what it has sent so far.

        Returns:
            Whether the worker gets it. It does not where it is gone, has no room, or the data is too long.
        """
        if len(data) > self._most:
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            try:
                sock.sendmsg([data], rights, 0, str(self._path_of(number)))
            except OSError:
                return False
        return True

    def _take(self) -> None:
        """Take the connections that have come; level-triggered, so the rest is taken in the next turn."""
        for _ in range(AT_ONCE):
            if self._socket is None:
                return
            try:
                data, rights, flags, _ = self._socket.recvmsg(
                    self._most + 1, socket.CMSG_SPACE(array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError as error:
                self._failures.note(error)
                return
            self._take_one(data, rights, flags)

    def _take_one(self, data: bytes, rights: list[tuple[int, int, bytes]], flags: int) -> None:
        fds = array.array("i")
        for level, kind, value in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(value[: len(value) - len(value) % fds.itemsize])
        if len(fds) != 1 or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or self._serve is None:
            for fd in fds:
                os.close(fd)
            self._failures.note(OSError("a connection came without its descriptor: this process has too many"))
            return
        sock = socket.socket(fileno=fds[0])
        try:
            self._serve(sock, data)
        except Exception as error:  # noqa: BLE001 - one connection does not end the others
            sock.close()
            self._failures.note(error)
