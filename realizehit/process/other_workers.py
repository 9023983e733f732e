"""What a worker does with the others: they share counts, pass on what is for another one, and have common metrics."""

from __future__ import annotations

from typing import Any, Final

from realizehit.access.shared_limits import SharedLimits
from realizehit.node.metric_sums import text_of
from realizehit.process.descriptors import Descriptors, Serve
from realizehit.process.drain import CLOSE_TIMEOUT
from realizehit.process.server_metrics import METRICS
from realizehit.process.siblings import Place, Siblings
from realizehit.settings import Settings
from realizehit.transports.engineio.endpoint import EngineIO
from realizehit.transports.engineio.passing import KIND, Passing

MOST_AFTER_HEAD: Final = 64 * 1024  # bytes that a client may have sent after an opening handshake that is passed on


class OtherWorkers:
    """The other processes of a server, as one of its workers uses them.

    Args:
        place: of this worker.
        settings: of the server.

    Attributes:
        limits: what all workers count together.
    """

    def __init__(self, place: Place, settings: Settings) -> None:
        self._place = place
        self._settings = settings
        self.limits = SharedLimits(place.limits, settings.workers, place.number)
        self._siblings: Siblings | None = None
        self._descriptors: Descriptors | None = None
        self._engineio: EngineIO | None = None

    async def start(self, engineio: EngineIO | None) -> None:
        """Answer the other workers.

        Args:
            engineio: has this worker's polling sessions; ``None`` where the server has no clients.
        """
        self._engineio = engineio
        if self._siblings is not None:
            await self._siblings.start()

    def take_connections(self, serve: Serve) -> None:
        """Have connections served that other workers pass on, since they are of sessions of this one."""
        if self._descriptors is not None:
            self._descriptors.start(serve)

    async def close(self) -> None:
        """Answer and ask no more."""
        if self._descriptors is not None:
            self._descriptors.close()
        if self._siblings is not None:
            await self._siblings.close()
        self.limits.close()

    async def metrics(self) -> bytes:
        """Return the metrics of all workers and their parent in the text format.

        Raises:
            NoAnswerError: the parent does not answer.
        """
        return text_of(await self._place.parent.ask(METRICS))

    def passing(self, max_payload: int) -> Passing:
        """Have requests and upgrades of polling sessions passed on between the workers; see `EngineIO`."""
        settings = self._settings
        # A body is sent as base64, a third longer.
        most = 2 * (settings.max_queue_bytes + 2 * settings.max_batch_bytes + max_payload + settings.max_head_bytes)
        self._siblings = Siblings(self._place, {KIND: self._passed}, most_line=most)
        patience = settings.heartbeat_interval + settings.heartbeat_timeout + CLOSE_TIMEOUT
        number = self._place.number
        self._descriptors = Descriptors(self._place.descriptors_of, number, settings.max_head_bytes + MOST_AFTER_HEAD)
        return Passing(number, self._siblings.ask, self._descriptors.send, patience=patience, max_payload=max_payload)

    async def _passed(self, request: Any) -> Any:
        assert self._engineio is not None
        return await self._engineio.passed(request)
