"""Publishing to a cluster for programs without an event loop: a thread runs one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from realizehit.broker.cluster.address import ClusterAddress
from realizehit.broker.publication import Outcome
from realizehit.client.channels import Block
from realizehit.client.ownership import PerProcess
from realizehit.client.publisher import ClusterLine, LineOptions
from realizehit.errors import BrokerError, BrokerUnavailable

_T = TypeVar("_T")


class ClusterSender:
    """Publishes to a cluster; all threads share the connections of one event loop.

    Args:
        url: of the cluster.
        timeout: seconds until a publication fails.
        retries: not used: what no machine has carried out is tried again until ``timeout``.
        wildcards: whether messages reach wildcard subscriptions too.
        window: seconds for which the broker remembers an idempotency key.

    Raises:
        SettingsError: the URL cannot be used.
    """

    def __init__(self, url: str, *, timeout: float, retries: int, wildcards: bool, window: float) -> None:
        self._address = ClusterAddress(url)
        options = LineOptions(timeout, retries, wildcards, window)
        self._closed = False
        self._threads = PerProcess(lambda: _LoopThread(lambda: ClusterLine(self._address, options)))

    def exchange(self, block: Block) -> Sequence[Outcome]:
        """Publish messages in order, and return the outcome of each."""

        async def publish(line: ClusterLine) -> Sequence[Outcome]:
            await line.reach()
            return await line.pipeline.publish_many(block)

        try:
            return self._call(publish)
        except BrokerError as error:
            return [error] * len(block)

    def ping(self) -> None:
        """Check that all primaries answer. See `Publisher.ping`."""

        async def ping(line: ClusterLine) -> None:
            await line.reach()
            await line.pipeline.ping()

        self._call(ping)

    def close(self) -> None:
        """Disconnect. See `Publisher.close`."""
        self._closed = True
        self._threads.get().close()

    def _call(self, work: Callable[[ClusterLine], Coroutine[Any, Any, _T]]) -> _T:
        if self._closed:
            raise BrokerUnavailable(f"broker {self._address}: this side is closed")
        return self._threads.get().call(work)


class _LoopThread:
    """A thread with an event loop and the connections of it, which the first call starts.

    Args:
        make: makes the connections; called in the loop.
    """

    def __init__(self, make: Callable[[], ClusterLine]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._line: ClusterLine | None = None
        self._ended = False

    def call(self, work: Callable[[ClusterLine], Coroutine[Any, Any, _T]]) -> _T:
        """Run something in the loop, and return what it returns."""

        async def run() -> _T:
            if self._line is None:
                self._line = self._make()
            return await work(self._line)

        with self._lock:  # `close` comes before this or after it: a loop that has ended would never run it
            loop = self._started()
            future = asyncio.run_coroutine_threadsafe(run(), loop)
        try:
            return future.result()
        except CancelledError:
            raise BrokerUnavailable("this side is closed") from None
        finally:
            future.cancel()  # the caller was interrupted: what has not been sent shall not be

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._ended:
            raise BrokerUnavailable("this side is closed")
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            # A daemon, so that a program that does not close its publisher can end.
            self._thread = threading.Thread(target=_serve, args=(self._loop,), name="realizehit cluster", daemon=True)
            self._thread.start()
        return self._loop

    def close(self) -> None:
        """End the connections and the thread; calls of other threads that are under way fail."""
        with self._lock:
            self._ended = True
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
        if loop is None or thread is None:
            return

        async def end() -> None:
            if self._line is not None:
                await self._line.close()

        asyncio.run_coroutine_threadsafe(end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped, and end what is under way then."""
    loop.run_forever()
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left))
