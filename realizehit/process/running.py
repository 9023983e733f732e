"""One process that serves: starts a node, obeys signals and its parent, drains, and ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import uvloop

from realizehit.node.metric_sums import Family
from realizehit.process.line import Line
from realizehit.process.server import Node
from realizehit.process.server_metrics import METRICS
from realizehit.process.siblings import Place
from realizehit.settings import Settings

logger: Final = logging.getLogger(__name__)


def reloads(settings: Settings) -> bool:
    """Whether SIGHUP reads files anew; without any, it ends a server on a terminal, as closing that should."""
    files = (settings.grants, settings.keys, settings.jwt_key_file, settings.history, settings.presence)
    return any(files) or not sys.stderr.isatty()


def run(
    settings: Settings,
    broker_url: str,
    *,
    relay_url: str | None = None,
    reuse_port: bool = False,
    unix: socket.socket | None = None,
    on_started: Callable[[Node], None] = lambda node: None,
    stop_fd: int | None = None,
    line: Line | None = None,
    number: int = 0,
    directory: Path | None = None,
    write_rules: bool = True,
) -> None:
    """Serve until SIGTERM or SIGINT, drain, and return; a second signal ends the drain. SIGHUP reads the files anew.

    Args:
        settings: what to serve and where.
        broker_url: the broker.
        relay_url: where to subscribe instead of at the broker.
        reuse_port: whether other processes listen on the same ports.
        unix: a bound Unix socket to listen on as well.
        on_started: called once the node listens.
        stop_fd: a descriptor whose end of file also means to stop.
        line: to the parent, whose word or end also means to stop.
        number: of this process among several workers.
        directory: where their own sockets are; ``None`` where this process is the only one.
        write_rules: whether this process writes the rules of history to the broker.

    Raises:
        BrokerError, SettingsError: as `Node.start`.
    """
    process = _Process(
        lambda: Node(
            settings,
            broker_url,
            relay_url=relay_url,
            reuse_port=reuse_port,
            unix=unix,
            write_rules=write_rules,
            place=None if line is None or directory is None else Place(number, directory, line.exchange),
        ),
        reloads=reloads(settings),
        line=line,
    )
    # uvloop everywhere; the debug switch of asyncio is honoured.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop, debug=sys.flags.dev_mode) as runner:
        runner.run(process.run(on_started, stop_fd))


class _Process:
    """What a process that serves obeys: signals, and the word of its parent where it has one.

    Args:
        make_node: makes what it serves with, in the running loop.
        reloads: whether SIGHUP reads files anew.
        line: to the parent.
    """

    def __init__(self, make_node: Callable[[], Node], *, reloads: bool, line: Line | None) -> None:
        self._make_node = make_node
        self._reloads = reloads
        self._line = line
        self._node: Node | None = None  # once it has started
        self._reload_again = False
        self._stop, self._stop_now, self._orphaned = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def run(self, on_started: Callable[[Node], None], stop_fd: int | None) -> None:
        self._listen(stop_fd)  # before anything that takes its time, such as a broker that is away
        node = self._make_node()
        if not await completes(node.start(), self._stop):
            return
        try:
            self._node = node
            if self._reload_again:
                node.reload()
            on_started(node)
            # What exists now stays: the collector need not walk through it again and again.
            gc.collect()
            gc.freeze()
            await self._stop.wait()
            if not self._orphaned.is_set():
                await completes(node.drain(), self._stop_now, self._orphaned)
            if self._orphaned.is_set():
                logger.error("the parent is gone; this worker leaves")
                await node.leave()
        finally:
            await node.close()
            if self._line is not None:
                self._line.detach()

    def _listen(self, stop_fd: int | None) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        if self._reloads:
            loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        if stop_fd is not None:
            loop.add_reader(stop_fd, self._on_end_of_file, stop_fd)
        if self._line is not None:
            handlers = {METRICS: self._tell_metrics}
            self._line.attach(drain=self._stop.set, gone=self._on_orphaned, handlers=handlers)

    async def _tell_metrics(self, _: None) -> list[Family]:
        return [] if self._node is None else self._node.metrics.families()

    def _on_signal(self) -> None:
        (self._stop_now if self._stop.is_set() else self._stop).set()

    def _on_reload(self) -> None:
        if self._node is not None:
            self._node.reload()
        else:  # it may have read the files already
            self._reload_again = True

    def _on_end_of_file(self, descriptor: int) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        self._stop.set()

    def _on_orphaned(self) -> None:
        self._orphaned.set()
        self._stop.set()


async def completes(work: Coroutine[Any, Any, None], *unless: asyncio.Event) -> bool:
    """Do some work to its end, or cancel it once one of the events is set; say whether it came to its end."""
    task = asyncio.ensure_future(work)
    waits = [asyncio.ensure_future(event.wait()) for event in unless]
    try:
        await asyncio.wait([task, *waits], return_when=asyncio.FIRST_COMPLETED)
    finally:
        completed = task.done()
        for each in (task, *waits):
            each.cancel()
        await asyncio.gather(task, *waits, return_exceptions=True)
    if completed:
        task.result()
    return completed
