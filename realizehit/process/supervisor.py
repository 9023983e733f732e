"""From settings to running processes: one that serves by itself, or a parent that keeps N workers alive.

The workers share the port through SO_REUSEPORT, and the embedded Valkey where that is the broker. The parent serves
nobody; it holds the port, starts the workers, restarts those that die, and drains them all at the end. From a few
workers on it also holds the one subscription at the broker that they share (`relay`).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import resource
import signal
import socket
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import uvloop

from realizehit.access.gate import Gate
from realizehit.access.shared_limits import SharedLimits
from realizehit.broker.embedded import EmbeddedValkey
from realizehit.broker.history.rules_file import read_rules
from realizehit.broker.open import open_bus
from realizehit.broker.presence.rules import read_rules as read_presence_rules
from realizehit.broker.private_directory import private_directory
from realizehit.common.backoff import Backoff
from realizehit.common.upkeep import Failures, keep_up
from realizehit.errors import BrokerError, RealizehitError, SettingsError
from realizehit.process.drain import CLOSE_TIMEOUT
from realizehit.process.history_rules import RulesWriter
from realizehit.process.line import Report
from realizehit.process.relay import Relay
from realizehit.process.running import completes, reloads, run
from realizehit.process.server_metrics import METRICS, ServerMetrics
from realizehit.process.siblings import limits_in
from realizehit.process.sockets import PATIENCE, api_url, bind_all, place_of, tls_context, unix_socket, ws_url
from realizehit.process.worker import Worker
from realizehit.settings import Settings

logger: Final = logging.getLogger(__name__)

STEADY: Final = 10.0  # seconds after which a worker's death is an accident, and no failed start
BACKOFF_FIRST: Final = 0.25  # seconds until a worker that died at once is started again, doubled each time
BACKOFF_MOST: Final = 15.0  # seconds
FAILED_STARTS: Final = 8  # in a row, while no worker serves, until the server gives up
KILL_TIMEOUT: Final = 5.0  # seconds for a worker to be gone after SIGKILL; one that waits for a dead disk may stay
END_TIMEOUT: Final = CLOSE_TIMEOUT + 10.0  # seconds for a worker to end, besides its drain

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

Announce = Callable[[str, str, Sequence[str]], None]
"""Told the URLs for WebSocket clients and for publishers, and where it listens, once everything does."""


def check(settings: Settings) -> None:
    """Find out what can be known to be wrong before anything starts.

    Raises:
        SettingsError: the broker's URL cannot be used, or not with this role; a file of grants, keys, tokens, or rules
            of history or presence, or the certificate, cannot be used.
    """
    Gate(settings, clock=time.monotonic)
    tls_context(settings)
    if settings.history is not None:
        read_rules(settings.history)
    if settings.presence is not None:
        read_presence_rules(settings.presence)
    if settings.redis is not None:
        open_bus(settings.redis)
    if settings.role != "all" and (settings.redis is None or settings.redis.startswith("memory:")):
        raise SettingsError(
            f"--role {settings.role} needs a broker that the other servers reach too: "
            "set --redis (REDIS_URI) to a Redis or Valkey"
        )


def start(settings: Settings, announce: Announce) -> None:
    """Serve until SIGTERM or SIGINT, drain, and return; a second signal ends the drain.

    Args:
        settings: what to serve, where, and with how many processes.
        announce: called once everything listens.

    Raises:
        BrokerError: the broker refuses us, or there is no embedded one.
        SettingsError: a port or a URL cannot be used.
        RealizehitError: the workers die again and again.
    """
    check(settings)
    _raise_file_limit()
    ignored = [signal.SIGHUP] if reloads(settings) else []
    with _ending_on_signals(ignored=ignored) as end_where_asked, contextlib.ExitStack() as stack:
        url = settings.redis
        if url is None:
            url = stack.enter_context(EmbeddedValkey()).url
        patience = PATIENCE if settings.workers > 1 else 0.0
        unix = stack.enter_context(unix_socket(settings.unix_socket, patience=patience))
        stack.callback(_ignore_signals)  # what follows the drain is short, and is not to be left half done
        if settings.workers == 1:
            end_where_asked()
            run(settings, url, unix=unix, on_started=lambda node: announce(node.ws_url, node.api_url, node.places))
        else:
            settings, places = stack.enter_context(_reserved(settings))
            directory = stack.enter_context(private_directory())
            end_where_asked()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_Parent(settings, url, unix, lambda ws, api: announce(ws, api, places), directory).run())


def _raise_file_limit() -> None:
    # Each client is a descriptor; the soft limit is often 1,024 for the sake of programs that use select().
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # macOS names a limit that it does not take
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def _ending_on_signals(*, ignored: Iterable[signal.Signals]) -> Generator[Callable[[], None]]:
    """End in order on a signal that comes before a loop handles them: what was started is stopped again.

    Args:
        ignored: signals that mean nothing yet: to read files again that are still to be read.

    Yields:
        What ends the process where a signal has come whose exception was lost, as it may be in an import.
    """
    asked = False

    def end(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        raise SystemExit(0)

    def end_where_asked() -> None:
        if asked:
            raise SystemExit(0)

    before = {number: signal.signal(number, end) for number in _SIGNALS}
    before |= {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    try:
        yield end_where_asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _reserved(settings: Settings) -> Generator[tuple[Settings, list[str]]]:
    """Hold the workers' ports with sockets that are bound and never listen; the system chooses the open ones.

    Yields:
        The settings with the ports, and the addresses and ports.
    """
    with contextlib.ExitStack() as stack:

        def hold(port: int) -> int:
            if port != 0:
                # SO_REUSEPORT would let a second server of this user in beside a first, and each would get a part of
                # the other's clients. Without it the port has to be free.
                for sock in bind_all(settings.host, port, patience=PATIENCE):
                    sock.close()
            held = [stack.enter_context(sock) for sock in bind_all(settings.host, port, reuse_port=True)]
            places.extend(map(place_of, held))
            return int(held[0].getsockname()[1])

        places: list[str] = []
        ports = [hold(port) for _, port in settings.listens]
        yield dataclasses.replace(settings, ws_port=ports[0], api_port=ports[-1]), places


class _Parent:
    """Keeps the workers alive until it is told to stop."""

    def __init__(
        self,
        settings: Settings,
        broker_url: str,
        unix: socket.socket | None,
        announce: Callable[[str, str], None],
        directory: Path,  # for the sockets of the workers and the relay
    ) -> None:
        self._settings = settings
        self._broker_url = broker_url
        self._unix = unix  # all workers accept from the one socket
        self._directory = directory
        self._relay_url: str | None = None
        self._announce: Callable[[str, str], None] | None = announce  # until it was called
        self._stop, self._stop_now = asyncio.Event(), asyncio.Event()
        self._workers: set[Worker] = set()
        self._serving: set[Worker] = set()
        self._failed_starts = 0
        self._reloads = 0
        self._failure: RealizehitError | None = None
        self._rules: RulesWriter | None = None
        self._limits = SharedLimits(limits_in(directory), settings.workers)
        self._metrics = ServerMetrics()
        self._handlers = {METRICS: lambda _: self._metrics.of_server()}

    async def run(self) -> None:
        """Keep the workers, and a relay for them where they share one subscription."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        if reloads(self._settings):
            loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._limits)

            async def enter() -> None:
                if self._settings.history is not None:
                    self._rules = RulesWriter(self._broker_url, self._settings.history)
                    await stack.enter_async_context(self._rules)
                if self._settings.uses_relay:
                    relay = await stack.enter_async_context(Relay(self._broker_url, self._directory / "relay.sock"))
                    self._relay_url = relay.url

            if await completes(enter(), self._stop):
                await self._run()

    async def _run(self) -> None:
        collecting = asyncio.create_task(keep_up("collecting the workers' metrics", self._metrics.run))
        keepers = asyncio.create_task(self._keep_all())
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait({keepers, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        self._stop.set()
        for worker in self._workers:
            worker.drain()
        await self._end(keepers)
        await keepers
        collecting.cancel()
        if self._failure is not None:
            raise self._failure

    async def _end(self, keepers: asyncio.Task[None]) -> None:
        """Wait for the workers to end; be firmer with those that do not, and when told so."""
        hurry = asyncio.create_task(self._stop_now.wait())
        patience = self._settings.drain_seconds + END_TIMEOUT
        await asyncio.wait({keepers, hurry}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        for worker in self._workers:
            worker.signal(signal.SIGTERM)
        await asyncio.wait({keepers}, timeout=END_TIMEOUT)
        for worker in self._workers:
            logger.error("worker %d does not end and is killed", worker.process.pid)
            worker.signal(signal.SIGKILL)

    def _on_signal(self) -> None:
        (self._stop_now if self._stop.is_set() else self._stop).set()

    def _on_reload(self) -> None:
        self._reloads += 1
        if self._rules is not None:
            self._rules.reload()
        for worker in self._serving:
            worker.signal(signal.SIGHUP)

    async def _keep_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._settings.workers):
                group.create_task(self._keep(number))

    async def _keep(self, number: int) -> None:
        """Have a worker of this number running until the end."""
        loop = asyncio.get_running_loop()
        failures = Failures("keeping a worker")
        backoff = Backoff(BACKOFF_FIRST, BACKOFF_MOST, jitter=False)
        while not self._stop.is_set():
            began = loop.time()
            try:
                report = await self._live(number)
            except OSError as error:
                report = Report(error=f"no process can be started: {error.strerror}")
            except Exception as error:  # noqa: BLE001 - a worker's place must not stay empty, and the error is logged
                failures.note(error)
                report = Report(error=f"its parent failed: {error!r}")
            if loop.time() - began >= STEADY:
                self._failed_starts = 0
                backoff.reset()
                delay = 0.0
            else:
                self._failed_starts += 1
                delay = backoff.next()
            if not self._stop.is_set() and not self._gives_up(report):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), delay)

    async def _live(self, number: int) -> Report:
        """Run one worker to its end; return what it said at its start."""
        reloads_before = self._reloads
        worker = await Worker.spawn(
            self._settings,
            self._broker_url,
            self._relay_url,
            self._unix,
            number=number,
            directory=self._directory,
            handlers=self._handlers,
        )
        self._workers.add(worker)
        try:
            if self._stop.is_set():
                worker.drain()
            report = await worker.report()
            if report.ready:
                self._serves(worker)
                if self._reloads != reloads_before:  # it may have read the files before they changed
                    worker.signal(signal.SIGHUP)
            status = await self._end_of(worker)
        finally:
            self._workers.discard(worker)
            self._serving.discard(worker)
            self._metrics.ended(worker)
            worker.close()
            worker.signal(signal.SIGKILL)  # it is not watched any more; does nothing if it has ended
            self._limits.forget(number)
        if not self._stop.is_set():
            how = f"signal {-status}" if status < 0 else f"status {status}"
            logger.warning("worker %d ended with %s%s", worker.process.pid, how, _because(report))
        elif status not in (0, -signal.SIGTERM) and self._failure is None:
            logger.error("worker %d ended with status %d while draining", worker.process.pid, status)
        return report

    @staticmethod
    async def _end_of(worker: Worker) -> int:
        """Wait for the end of a worker, and bring it about where it hangs; return its exit status."""
        ended = asyncio.create_task(worker.process.wait())
        silence = asyncio.create_task(worker.silence())
        try:
            await asyncio.wait({ended, silence}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                logger.error(
                    "worker %d hangs: it has given no sign of life for %.0f seconds and is killed",
                    worker.process.pid,
                    silence.result(),
                )
                worker.signal(signal.SIGKILL)
                await asyncio.wait({ended}, timeout=KILL_TIMEOUT)
            return ended.result() if ended.done() else -signal.SIGKILL
        finally:
            ended.cancel()
            silence.cancel()

    def _serves(self, worker: Worker) -> None:
        logger.info("worker %d serves", worker.process.pid)
        self._serving.add(worker)
        self._metrics.serves(worker)
        if self._announce is not None and len(self._serving) == self._settings.workers:
            announce, self._announce = self._announce, None
            settings = self._settings
            announce(
                ws_url(settings, settings.ws_listen[1]),
                api_url(settings, settings.api_listen[1]),
            )

    def _gives_up(self, report: Report) -> bool:
        """Decide after a worker's death whether to end; as long as another one serves, never."""
        if self._serving:
            return False
        if self._announce is not None and report.kind:  # at the first start it is the user's to set right
            self._failure = SettingsError(report.error) if report.kind == "settings" else BrokerError(report.error)
        elif self._failed_starts >= FAILED_STARTS:
            self._failure = RealizehitError(f"workers die again and again right after their start{_because(report)}")
        else:
            return False
        self._stop.set()
        return True


def _because(report: Report) -> str:
    return f": {report.error}" if report.error else ""
