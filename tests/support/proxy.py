"""A TCP proxy before a broker or a server, which cuts, delays, truncates and drops."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import TracebackType
from typing import Self


class Proxy:
    """Forwards connections to a Unix socket or a TCP port, as an asynchronous context.

    Args:
        target: the path of the socket, or the port on this machine.

    Attributes:
        delay: seconds that each piece from the broker is held back.
        swallow: take what comes from either side and hand nothing on, as a network that drops packets.
        truncate: bytes from the broker that are still handed on; then the connection is cut, in the middle of a reply
            if need be. ``None`` for no end.
        connections: how many there are.
    """

    def __init__(self, target: Path | int) -> None:
        self.delay = 0.0
        self.swallow = False
        self.truncate: int | None = None
        self._target = target
        self._forgotten = 0  # connections with a lower number drop all bytes
        self._accepted = 0
        self._pipes: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        return len(self._pipes)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        await self.cut()

    def forget(self) -> None:
        """Drop the bytes of existing connections, like a router that forgot them; serve new ones."""
        self._forgotten = self._accepted

    async def cut(self) -> None:
        """End all connections at once."""
        pipes = list(self._pipes)
        for pipe in pipes:
            pipe.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pipes.add(task)
        number, self._accepted = self._accepted, self._accepted + 1
        to_broker: asyncio.StreamWriter | None = None
        try:
            if isinstance(self._target, int):
                from_broker, to_broker = await asyncio.open_connection("127.0.0.1", self._target)
            else:
                from_broker, to_broker = await asyncio.open_unix_connection(str(self._target))
            up = asyncio.create_task(self._pump(number, reader, to_broker, downwards=False))
            down = asyncio.create_task(self._pump(number, from_broker, writer, downwards=True))
            try:
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in (up, down):
                    pump.cancel()
                await asyncio.gather(up, down, return_exceptions=True)
        except asyncio.CancelledError:
            pass  # by `cut`
        except OSError:
            pass  # the broker is away
        finally:
            self._pipes.discard(task)
            for end in (writer, to_broker):
                if end is not None:
                    end.transport.abort()

    async def _pump(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, downwards: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.swallow or number < self._forgotten:
                    continue
                if downwards:
                    if self.delay:
                        await asyncio.sleep(self.delay)
                    if self.truncate is not None:
                        data, self.truncate = data[: self.truncate], max(0, self.truncate - len(data))
                writer.write(data)
                await writer.drain()
                if downwards and self.truncate == 0:
                    self.truncate = None
                    return
