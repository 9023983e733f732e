"""Keeps repeated and permanent work going after an error, and logs the error.

A timer that sets itself again at its end, or a task that nobody awaits, would stop at the first error without a trace.
All work of that kind runs in a `Ticker` or in `keep_up`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from realizehit.common.backoff import Backoff
from realizehit.common.seldom import REMINDER, Seldom

logger: Final = logging.getLogger(__name__)

LOG_INTERVAL: Final = REMINDER  # seconds between two log lines about one piece of work
RESTART_FIRST: Final = 0.1  # seconds until failed work is started again, doubled each time
RESTART_MOST: Final = 5.0  # seconds
STEADY: Final = 10.0  # seconds after which a failure counts as the first one again


class Failures:
    """Logs the errors of one piece of work: the first with its traceback, the following ones as a count.

    Args:
        what: names the work.
        interval: seconds between two log lines.
        clock: returns seconds of a monotonic clock.

    Attributes:
        count: errors so far.
    """

    def __init__(self, what: str, interval: float = LOG_INTERVAL, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        self._what = what
        self._seldom = Seldom(interval, clock)

    def note(self, error: BaseException) -> None:
        """Count an error, and log it if a line is due. Any thread may call this."""
        self.count += 1
        left_out = self._seldom.passes("failed")
        if left_out is None:
            return
        more = f" ({left_out} more errors since the last line)" if left_out else ""
        logger.error("%s failed and goes on%s", self._what, more, exc_info=error)


class Ticker:
    """Calls functions at intervals until it is stopped, even if they raise.

    Args:
        what: names the work in the log.
        *functions: each is called at every tick, also when one before it raised.
        interval: returns the seconds until the next tick.
    """

    def __init__(self, what: str, *functions: Callable[[], object], interval: Callable[[], float]) -> None:
        self._work = [(function, Failures(what)) for function in functions]
        self._own = Failures(what)
        self._interval = interval
        self._seconds = 1.0  # the last interval; used where the function that gives it fails
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Tick now, and from now on."""
        self._loop = asyncio.get_running_loop()
        self._tick()

    def stop(self) -> None:
        """Stop; calling it again does nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        # The next tick is set before anything can fail, and set right afterwards.
        timer = self._timer = self._loop.call_later(self._seconds, self._tick)
        for function, failures in self._work:
            try:
                function()
            except Exception as error:  # noqa: BLE001 - the work has to go on, and the error is logged
                failures.note(error)
        try:
            seconds = self._interval()
        except Exception as error:  # noqa: BLE001 - as above
            self._own.note(error)
            return
        if seconds != self._seconds and self._timer is timer:  # else one of the functions stopped this
            timer.cancel()
            self._seconds = seconds
            self._timer = self._loop.call_later(seconds, self._tick)


async def keep_up(what: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run work until it returns; when it raises, log the error and start it again after a pause.

    Args:
        what: names the work in the log.
        work: makes the coroutine; called for each start.
    """
    loop = asyncio.get_running_loop()
    failures = Failures(what)
    pauses = Backoff(RESTART_FIRST, RESTART_MOST, jitter=False)
    while True:
        began = loop.time()
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - the work has to go on, and the error is logged
            failures.note(error)
        else:
            return
        if loop.time() - began >= STEADY:
            pauses.reset()
        await asyncio.sleep(pauses.next())
