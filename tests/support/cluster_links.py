"""The network between the machines of a cluster, which can be cut around one of them while clients still reach it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

HEADER = 80  # bytes of a packet up to the sender's id, which is the last of them
SENDER = 40  # where the id begins

Result = TypeVar("Result")


class Links:
    """A proxy before the cluster port of each machine, as a context. Its event loop has a thread of its own."""

    def __init__(self) -> None:
        self._cut_off: set[str] = set()
        self._names: dict[int, str] = {}  # ids of machines by their cluster port
        self._servers: list[asyncio.Server] = []
        self._links: dict[asyncio.Task[None], tuple[str, str]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links of a cluster")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def add(self, port: int) -> int:
        """Return a new port that leads to the cluster port of a machine."""
        return self._do(self._listen(port))

    def name(self, port: int, name: str) -> None:
        """Learn the id of the machine with a cluster port."""
        self._names[port] = name

    def cut_off(self, name: str) -> None:
        """Drop all packets from and to a machine from now on, like a network that fails."""
        self._cut_off.add(name)

    def rejoin(self, name: str) -> None:
        """End that; the links are made anew."""
        self._cut_off.discard(name)
        self._do(self._drop(name))

    async def _listen(self, port: int) -> int:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            try:
                await self._link(task, port, reader, writer)
            finally:
                self._links.pop(task, None)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _drop(self, name: str | None) -> None:
        links = [task for task, ends in self._links.items() if name is None or name in ends]
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        await self._drop(None)

    async def _link(
        self, task: asyncio.Task[None], port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        onward: asyncio.StreamWriter | None = None
        self._links[task] = "", ""
        try:
            head = await reader.readexactly(HEADER)
            ends = head[SENDER:].decode("ascii"), self._names.get(port, "")
            self._links[task] = ends
            back, onward = await asyncio.open_connection("127.0.0.1", port)
            if self._cut_off.isdisjoint(ends):
                onward.write(head)
            pumps = {
                asyncio.create_task(self._pump(ends, reader, onward)),
                asyncio.create_task(self._pump(ends, back, writer)),
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the machine is away, or `rejoin` or the end of the test
        finally:
            for end in (writer, onward):
                if end is not None:
                    end.transport.abort()

    async def _pump(self, ends: tuple[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self._cut_off.isdisjoint(ends):
                    writer.write(data)
                    await writer.drain()
