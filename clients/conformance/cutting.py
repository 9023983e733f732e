"""A TCP proxy between a client and a server: it cuts, refuses, swallows and truncates when a case says so."""

from __future__ import annotations

import asyncio
import contextlib


class CuttingProxy:
    """The proxy. One for each case that asks for it.

    Args:
        target: the server's port on this machine.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._swallow = False
        self._refuse = False
        self._left: int | None = None  # bytes to the client until the connection is cut
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End all connections and listen no more."""
        assert self._server is not None
        self._server.close()
        await self.cut()

    async def do(self, what: str, count: int = 0) -> None:
        """Do what a step says.

        Args:
            what: ``cut`` all connections; ``refuse`` new ones, which are cut at once; ``accept`` them again;
                ``swallow`` what comes from either side; ``pass`` it on again; ``truncate``: cut after ``count`` more
                bytes to the client.
            count: see there.
        """
        if what == "cut":
            await self.cut()
        elif what == "truncate":
            self._left = count
        elif what in ("swallow", "pass"):
            self._swallow = what == "swallow"
        else:
            self._refuse = what == "refuse"

    async def cut(self) -> None:
        """End all connections at once."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._refuse:
            writer.transport.abort()
            return
        self._tasks.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            from_server, upstream = await asyncio.open_connection("127.0.0.1", self._target)
            pumps = {
                asyncio.create_task(self._pump(reader, upstream, down=False)),
                asyncio.create_task(self._pump(from_server, writer, down=True)),
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the server is away, or the connection was cut
        finally:
            self._tasks.discard(task)
            for end in (writer, upstream):
                if end is not None:
                    end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, down: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self._swallow:
                    continue
                if down and self._left is not None:
                    data, self._left = data[: self._left], max(0, self._left - len(data))
                writer.write(data)
                await writer.drain()
                if down and self._left == 0:
                    self._left = None
                    return
