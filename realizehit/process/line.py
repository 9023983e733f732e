"""The line between a parent and one worker, a socket pair, as the worker sees it.

Down goes the work, one line of JSON, and later ``drain``. Up comes one line that says whether the worker serves, and an
empty line every second, the beat: a worker whose beat stays away hangs. Between these go questions and answers in both
directions (`realizehit.common.exchange`). The end of the line means that the parent is gone; a worker without a parent
ends at once, since no process could replace or stop it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from realizehit.common.exchange import Exchange, Handler
from realizehit.common.upkeep import Ticker

BEAT: Final = 1.0  # seconds between two beats
DRAIN: Final = b"drain"
MOST_UNSENT: Final = 1 << 20  # bytes that wait for a parent that does not read; what comes beyond is left out
_PR_SET_PDEATHSIG: Final = 1
NOTICE: Final = 0.5  # seconds for the event loop to see that the parent is gone; one that does not hangs
LEAVE: Final = 3.0  # seconds for a worker without a parent to end


class Report(NamedTuple):
    """What a worker said about its start.

    Attributes:
        ready: whether it serves.
        error: why it does not, where it could say so.
        kind: ``settings`` or ``broker`` where the error is of that class and will be the same next time.
    """

    ready: bool = False
    error: str = ""
    kind: str = ""


class Line:
    """The worker's end.

    Args:
        sock: the socket, this object's from here on.

    Attributes:
        exchange: for questions to the parent, once the line is attached.
    """

    exchange: Exchange

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = b""  # what was read and is not a whole line yet
        self._unsent = bytearray()
        self._noticed = threading.Event()  # the event loop knows that the parent is gone
        self._ticker: Ticker | None = None
        _wake_without_parent()
        threading.Thread(target=self._watch, name="realizehit parent watch", daemon=True).start()

    def order(self) -> dict[str, Any] | None:
        """Wait for the work and return it; ``None`` where the parent is gone."""
        while b"\n" not in self._rest:
            data = self._sock.recv(65536)
            if not data:
                self._noticed.set()
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        order: dict[str, Any] = json.loads(line)
        return order

    def tell(self, report: Report) -> None:
        """Tell the parent about the start."""
        line = json.dumps(report._asdict()).encode()
        if self._ticker is not None:
            self._send(line)
            return
        with contextlib.suppress(OSError):  # the parent is gone; the end of the line says so
            self._sock.setblocking(True)
            self._sock.sendall(line + b"\n")
            self._sock.setblocking(False)

    def attach(
        self, *, drain: Callable[[], None], gone: Callable[[], None], handlers: Mapping[str, Handler] | None = None
    ) -> None:
        """Beat from the running loop, and listen there until `detach`.

        Args:
            drain: called when the parent asks for a drain.
            gone: called when the parent is gone.
            handlers: answer the questions of the parent, by kind.
        """
        self._loop = asyncio.get_running_loop()
        self._drain, self._gone = drain, gone
        self.exchange = Exchange(self._send, handlers or {})
        self._sock.setblocking(False)
        self._loop.add_reader(self._sock.fileno(), self._read)
        self._ticker = Ticker("the beat of a worker", lambda: self._send(b""), interval=lambda: BEAT)
        self._ticker.start()
        self._take(b"")

    def detach(self) -> None:
        """Beat and listen no more; the parent sees the end of the line when the process ends."""
        if self._ticker is not None:
            self._ticker.stop()
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._ticker = None
            self.exchange.close()

    def _send(self, line: bytes) -> None:
        """Send a line, the rest of it once the parent has read what came before."""
        if self._ticker is None or len(self._unsent) > MOST_UNSENT:  # a parent that does not read for minutes
            return
        idle = not self._unsent
        self._unsent += line + b"\n"
        if idle and not self._write():
            self._loop.add_writer(self._sock.fileno(), self._go_on)

    def _go_on(self) -> None:
        if self._write():
            self._loop.remove_writer(self._sock.fileno())

    def _write(self) -> bool:
        """Send what waits; true where nothing is left."""
        try:
            del self._unsent[: self._sock.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:  # the parent is gone; the end of the line says so
            self._unsent.clear()
        return not self._unsent

    def _read(self) -> None:
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._take(data)
            return
        self._loop.remove_reader(self._sock.fileno())
        self._noticed.set()
        self.exchange.close()
        self._gone()

    def _take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line == DRAIN:
                self._drain()
            else:
                self.exchange.receive(line)

    def _watch(self) -> None:
        """End the process where its parent is gone and the event loop does not see to that: on a thread of its own."""
        poll = select.poll()
        poll.register(self._sock.fileno(), 0)  # nothing but the end of the line
        poll.poll()
        if self._noticed.wait(NOTICE):
            time.sleep(LEAVE)
        os._exit(1)


def _wake_without_parent() -> None:
    """Have the system continue this process when its parent dies: one that is stopped could not leave otherwise."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)
