"""The stream of log lines: standard error, to which lines of the access log are written together."""

from __future__ import annotations

import asyncio
import logging
from select import PIPE_BUF
from typing import Final, TextIO

WAIT: Final = 0.01
"""Seconds that a line of the access log may wait for others."""

_WAIT_MS: Final = int(WAIT * 1000)


class Output(logging.StreamHandler[TextIO]):
    """Writes log records to standard error at once, and collected lines soon, in the order in which they came.

    The collected lines are written with one system call: before the next log record, after `WAIT` seconds, or when
    they reach ``PIPE_BUF`` bytes. A pipe keeps such a write together, so lines of several processes never mix. The
    interpreter writes what is left when it ends.

    Args:
        formatter: of the records. Collected lines are complete.
    """

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._lines: list[str] = []
        self._size = 0
        self._since = 0  # when the first of the lines came
        self._has_timer = False

    def collect(self, line: str, now: int) -> None:
        """Write a line soon.

        Args:
            line: in ASCII, with its line break.
            now: milliseconds of any clock. It is for the case that the event loop that had the timer is gone.

        Raises:
            RuntimeError: no event loop runs.
        """
        size = len(line)
        if self._lines and (self._size + size > PIPE_BUF or now - self._since > 2 * _WAIT_MS):
            if now - self._since > 2 * _WAIT_MS:
                self._has_timer = False
            self.flush()
        if not self._lines:
            self._size = 0
            self._since = now
        if not self._has_timer:
            asyncio.get_running_loop().call_later(WAIT, self._on_timer)
            self._has_timer = True
        self._lines.append(line)
        self._size += size

    def _on_timer(self) -> None:
        self._has_timer = False
        self.flush()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, and before it the lines that came before it."""
        self._write_collected()
        super().emit(record)

    def flush(self) -> None:
        """Write the collected lines."""
        with self.lock:  # type: ignore[union-attr]  # `None` only while logging itself is being set up
            if not self._write_collected():
                super().flush()

    def _write_collected(self) -> bool:
        """Write the collected lines, and return whether there were any.

        The caller holds the handler's lock. Another thread may add lines meanwhile.
        """
        count = len(self._lines)
        if not count:
            return False
        text = "".join(self._lines[:count])
        del self._lines[:count]
        try:
            self.stream.write(text)
            self.stream.flush()
        except Exception:  # noqa: BLE001 - as for records: a log that cannot be written stops nothing
            self.handleError(logging.makeLogRecord({"msg": f"{count} lines of the access log"}))
        return True
