"""A proxy whose network can be taken away: connections break, and new ones are closed without an answer."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

from tests.browser.blocking_proxy import BlockingProxy


class CuttingProxy(BlockingProxy):
    """Passes everything on, unless it is cut."""

    def __init__(self, port: int) -> None:
        self._is_cut = False
        super().__init__(port)

    def cut(self) -> None:
        """Break all connections, and close new ones at once."""
        self._is_cut = True
        for each in list(self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def restore(self) -> None:
        """Accept connections again."""
        self._is_cut = False

    def _serve(self, client: socket.socket) -> None:
        if self._is_cut:
            client.close()
        else:
            super()._serve(client)

    def _passed_on(self, head: bytes) -> bytes | None:
        return head


@contextmanager
def cutting_proxy(port: int) -> Iterator[CuttingProxy]:
    """Run a proxy to a port of this machine."""
    with closing(CuttingProxy(port)) as proxy:
        yield proxy
