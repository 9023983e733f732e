"""The access log: one line for each HTTP request.

A log record for each request would cost more than the request itself. So where only this program's own handler gets the
lines, they are put together from parts that stay the same: the beginning for a millisecond, and the rest for requests
that are alike. The formatter of the handler makes these parts, so the lines are those that it would write.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from realizehit.logs.lines import ACCESS_LOGGER, HideSecrets
from realizehit.logs.output import Output

_FORM: Final = '%s - "%s %s HTTP/%s" %d'  # that of uvicorn
_MARK: Final = "|"  # stands in no line but as the message
_LONGEST_KEPT: Final = 200  # characters of a target
_MOST_KEPT: Final = 1024


class AccessLog:
    """Writes the lines of a logger, in the form of uvicorn's access log.

    It looks once a second whether the logger's level, filters and handlers have changed.

    Args:
        logger: decides by its level, filters and handlers whether and where a line is written.
        clock: returns nanoseconds since 1970.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], int] = time.time_ns) -> None:
        self._logger = logger
        self._clock = clock
        self._now = self._second = -1  # milliseconds and seconds since 1970
        self._output: Output | None = None  # `None` where lines take the way of all log records
        self._parts: _Parts | None = None
        self._before = self._after = self._beginning = ""
        self._rests: dict[tuple[str, str, str, int], str] = {}  # of lines, by method, target, version and status

    def note(self, client: str, method: str, target: str, version: str, status: int) -> None:
        """Write the line of a request.

        Args:
            client: address and port.
            method: of the request.
            target: of the request, in ASCII.
            version: of HTTP.
            status: of the response.
        """
        now = self._clock() // 1_000_000
        if now != self._now:
            self._now = now
            second = now // 1000
            if second != self._second:
                self._second = second
                self._begin_second(second)
            self._beginning = f"{self._before}.{now % 1000:03d}Z{self._after}"
        parts, output = self._parts, self._output
        # The name of an interface follows a "%" in an address, and is any text.
        if parts is None or output is None or "%" in client:
            self._log(_FORM, client, method, target, version, status)
            return
        key = (method, target, version, status)
        rest = self._rests.get(key)
        if rest is None:
            rest = parts.rest(*key)
            # Queries hardly repeat, and may hold secrets.
            if "?" not in target and len(target) <= _LONGEST_KEPT:
                if len(self._rests) >= _MOST_KEPT:
                    self._rests.clear()
                self._rests[key] = rest
        output.collect(f"{self._beginning}{client}{rest}", now)

    def info(self, message: str, *args: object) -> None:
        """Write the line of a request, as uvicorn asks for it."""
        if message == _FORM:
            self.note(*args)  # type: ignore[arg-type]  # the arguments of that form
        else:
            self._log(message, *args)

    def _log(self, message: str, *args: object) -> None:
        # Without handlers nothing would be written; asking costs less than making a record.
        if self._logger.hasHandlers():
            self._logger.info(message, *args)

    def _begin_second(self, second: int) -> None:
        """Prepare for the lines of a second."""
        output = self._output = _only_output(self._logger)
        formatter = None if output is None else output.formatter
        if formatter is None:
            self._parts = None
            return
        if self._parts is None or self._parts.formatter is not formatter:
            self._rests.clear()
        self._parts = _Parts(self._logger, formatter, second)
        self._before, self._after = self._parts.before, self._parts.after


class _Parts:
    """The parts of the lines of one second.

    Args:
        logger: whose lines they are.
        formatter: makes the parts.
        second: since 1970.

    Attributes:
        formatter: as given.
        before: what is before the milliseconds.
        after: what is between the milliseconds and the client.
    """

    def __init__(self, logger: logging.Logger, formatter: logging.Formatter, second: int) -> None:
        self.formatter = formatter
        self._logger = logger
        self._record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, _MARK, (), None)
        self._record.created, self._record.msecs = float(second), 0.0
        beginning = formatter.format(self._record).partition(_MARK)[0]
        self._size = len(beginning)
        self.before, _, self.after = beginning.partition(".000Z")

    def rest(self, method: str, target: str, version: str, status: int) -> str:
        """Return what follows the client, with secrets masked and a line break."""
        record = self._record
        record.msg, record.args = _FORM, ("", method, target, version, status)
        self._logger.filter(record)
        return self.formatter.format(record)[self._size :] + "\n"


def _only_output(logger: logging.Logger) -> Output | None:
    """Return the handler of a logger, if that is one of this program, and nothing else gets or changes the lines."""
    if not logger.isEnabledFor(logging.INFO) or [type(each) for each in logger.filters] != [HideSecrets]:
        return None
    handlers: list[logging.Handler] = []
    source: logging.Logger | None = logger
    while source is not None:
        handlers += source.handlers
        source = source.parent if source.propagate else None
    if len(handlers) != 1:
        return None
    (output,) = handlers
    return output if isinstance(output, Output) and not output.filters and output.level <= logging.INFO else None


ACCESS_LOG: Final = AccessLog(ACCESS_LOGGER)
"""The access log of this process."""
