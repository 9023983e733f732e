"""The workers of one server, as one of them sees the others: each listens on a Unix socket that only they can reach."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from realizehit.common.exchange import Exchange, Handler, NoAnswerError

logger: Final = logging.getLogger(__name__)


class Place(NamedTuple):
    """A worker's place among the workers of a server.

    Attributes:
        number: of the worker; the one that replaces it has the same.
        directory: where the workers' sockets and common counts are; closed to other users.
        parent: for questions to the parent.
    """

    number: int
    directory: Path
    parent: Exchange

    def socket_of(self, number: int) -> Path:
        """Return the path of a worker's socket."""
        return self.directory / f"w{number}.sock"

    def descriptors_of(self, number: int) -> Path:
        """Return the path of the socket on which a worker takes connections."""
        return self.directory / f"w{number}.fds"

    @property
    def limits(self) -> Path:
        """Path of the counts that the workers share."""
        return limits_in(self.directory)


def limits_in(directory: Path) -> Path:
    """Return the path of the counts that the workers with a directory share."""
    return directory / "limits"


class Siblings:
    """Asks other workers, and answers them.

    Args:
        place: of this worker.
        handlers: answer the questions of others, by kind.
        most_line: bytes that a question or an answer may have.
    """

    def __init__(self, place: Place, handlers: Mapping[str, Handler], *, most_line: int) -> None:
        self._place = place
        self._handlers = handlers
        self._most_line = most_line
        self._server: asyncio.Server | None = None
        self._connections: dict[int, _Connection] = {}  # to others, by their numbers
        self._accepted: set[_Connection] = set()

    async def start(self) -> None:
        """Listen; where that cannot be, the others get no answers, which is logged."""
        path = self._place.socket_of(self._place.number)
        try:
            path.unlink(missing_ok=True)  # of the worker that this one replaces
            self._server = await asyncio.start_unix_server(self._accept, path, limit=self._most_line)
        except OSError as error:
            text = "other workers cannot pass requests of Engine.IO sessions on to this one: %s: %s"
            logger.warning(text, path, error.strerror or error)

    async def close(self) -> None:
        """Answer and ask no more."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for connection in [*self._connections.values(), *self._accepted]:
            await connection.close()

    async def ask(self, number: int, kind: str, data: Any, *, patience: float) -> Any:
        """Ask another worker. See `Exchange.ask`.

        Raises:
            NoAnswerError: it is not there, or does not answer.
        """
        connection = self._connections.get(number)
        if connection is None or connection.ended:
            try:
                streams = await asyncio.open_unix_connection(self._place.socket_of(number), limit=self._most_line)
            except OSError as error:
                raise NoAnswerError(f"worker {number} cannot be asked: {error}") from None
            connection = self._connections[number] = _Connection(*streams, self._handlers)
        return await connection.exchange.ask(kind, data, patience=patience)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(reader, writer, self._handlers)
        self._accepted.add(connection)
        connection.task.add_done_callback(lambda _: self._accepted.discard(connection))


class _Connection:
    """A connection between two workers."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handlers: Mapping[str, Handler]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self.exchange = Exchange(self._send, handlers)
        self.task = asyncio.create_task(self._read(), name="realizehit siblings")

    @property
    def ended(self) -> bool:
        return self.task.done()

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})

    def _send(self, line: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(line + b"\n")

    async def _read(self) -> None:
        try:
            # A line that is too long is a ValueError.
            with contextlib.suppress(ConnectionError, ValueError):
                while line := await self._reader.readline():
                    self.exchange.receive(line)
        finally:
            self.exchange.close()
            self._writer.close()
