"""Log lines: text for people, or JSON for programs, one line each, on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final

from realizehit.masking import masked

LOG_INTERVAL: Final = 10.0
"""Seconds between two lines of a kind that a stranger or an outage can cause."""

REMINDER: Final = 60.0
"""Seconds between two lines about a trouble that lasts."""

# A line break in a message would forge a line of its own, and a terminal obeys escape sequences.
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))}


def configure(style: str, level: str) -> None:
    """Send every log line of this process to standard error, Python's warnings and uncaught exceptions included.

    Args:
        style: ``text`` or ``json``.
        level: the least severe to write: ``debug``, ``info``, ``warning`` or ``error``.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    # What uvicorn tells about its own start and end is said better elsewhere.
    logging.getLogger("uvicorn.error").setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    _add(logging.getLogger("asyncio"), FewOfAKind(_DEFECTS))


class HideSecrets(logging.Filter):
    """Takes secrets out of what a library logs, where the handlers may be those of another program."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a record, and let it pass."""
        if record.name.startswith("uvicorn.access") and isinstance(record.args, tuple):
            # uvicorn's own formatter takes the arguments apart.
            record.args = tuple(masked(arg) if isinstance(arg, str) else arg for arg in record.args)
            return True
        text = record.getMessage()
        shown = masked(text)
        if shown != text:
            record.msg, record.args = shown, None
        return True


class Seldom:
    """Decides which lines of a kind are written: one, then none for a while; those left out are counted.

    It bounds what strangers and outages can write into a log, whose lines would fill a disk otherwise.

    Args:
        interval: seconds between two lines of a kind.
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        # By kind, of which there are few: when the next line may be written, and how many were left out since the last.
        self._kinds: dict[str, tuple[float, int]] = {}

    def passes(self, kind: str) -> int | None:
        """Ask for one line.

        Returns:
            How many were left out since the last line of this kind; ``None`` where this one is left out too.
        """
        now = self._clock()
        quiet_until, left_out = self._kinds.get(kind, (now, 0))
        if now < quiet_until:
            self._kinds[kind] = (quiet_until, left_out + 1)
            return None
        self._kinds[kind] = (now + self._interval, 0)
        return left_out

    def overdue(self) -> list[tuple[str, int]]:
        """Return the kinds whose time is over, with how many of their lines were left out, for a line about these."""
        now = self._clock()
        found = [
            (kind, left_out) for kind, (quiet_until, left_out) in self._kinds.items() if left_out and now >= quiet_until
        ]
        for kind, _ in found:
            self._kinds[kind] = (now + self._interval, 0)
        return found


def more(left_out: int) -> str:
    """Return the words, with a space before them, that say how many lines were left out; none for 0."""
    return f" ({left_out} more like this since the last line)" if left_out else ""


class FewOfAKind(logging.Filter):
    """Lets one of a library's lines pass that any stranger can cause, and then none of its kind for a while.

    The next line that passes tells how many were left out.

    Args:
        kinds: the beginnings of the messages that this is about.
        interval: seconds.
        clock: seconds of a clock that never goes back.
        dropped: the beginnings of messages that never pass, because something better is said elsewhere.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        interval: float = LOG_INTERVAL,
        clock: Callable[[], float] = time.monotonic,
        *,
        dropped: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self._kinds = tuple(kinds)
        self._dropped = dropped
        self._seldom = Seldom(interval, clock)

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record is written."""
        message = str(record.msg)
        if message.startswith(self._dropped):
            return False
        kind = next((kind for kind in self._kinds if message.startswith(kind)), None)
        if kind is None:
            return True
        left_out = self._seldom.passes(kind)
        if left_out is None:
            return False
        if left_out:
            record.msg, record.args = record.getMessage() + more(left_out), None
        return True


_STRANGERS: Final = (
    "Unsupported upgrade request", "No supported WebSocket library",
    # Defects; what causes one may be sent again and again.
    "Exception in ASGI application", "ASGI callable",
)  # fmt: skip
_DEFECTS: Final = (
    "a connection's callback failed", "the relay failed", "Task exception was never retrieved", "Exception", "Fatal",
    "SSL", "socket.send() raised exception",
)  # fmt: skip
_SAID_BETTER: Final = ("Invalid HTTP request received",)  # with the peer's address, by `realizehit.access.refusals`

# What the libraries say of the connections of a node, through loggers of the node's own: it may be a guest in another
# program, which uses the same libraries. Levels and handlers are those of the loggers above them.
HTTP_LOGGER: Final = logging.getLogger("uvicorn.error.realizehit")
ACCESS_LOGGER: Final = logging.getLogger("uvicorn.access.realizehit")
WEBSOCKET_LOGGER: Final = logging.getLogger("websockets.server.realizehit")


def guard_own_loggers() -> None:
    """Have the loggers of nodes write no secrets, and few lines that strangers cause; calling it again does nothing.

    Loggers that other parts of the program may use stay as they are.
    """
    for logger in (HTTP_LOGGER, ACCESS_LOGGER, WEBSOCKET_LOGGER):
        _add(logger, HideSecrets())
    _add(HTTP_LOGGER, FewOfAKind(_STRANGERS, dropped=_SAID_BETTER))


def _add(logger: logging.Logger, new: logging.Filter) -> None:
    if not any(type(there) is type(new) for there in logger.filters):
        logger.addFilter(new)


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Log what ends the process, in the same form as everything else."""
    logging.getLogger("realizehit").critical("ended by an error", exc_info=(kind, error, traceback))


def _stamp(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z warning realizehit.hub[4711]: what happened``; a traceback has lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        message = masked(record.getMessage()).translate(_CONTROLS)
        text = f"{_stamp(record)} {record.levelname.lower():7} {record.name}[{record.process}]: {message}"
        if record.exc_info:
            text += "\n" + masked(self.formatException(record.exc_info))
        if record.stack_info:
            text += "\n" + masked(record.stack_info)
        return text


class JsonFormatter(logging.Formatter):
    """One object a line: ``time``, ``level``, ``logger``, ``pid``, ``message``, and ``exception`` where there is one.

    ``extra={"fields": {...}}`` of a logging call adds further keys.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        entry: dict[str, Any] = {
            "time": _stamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": masked(record.getMessage()),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = masked(self.formatException(record.exc_info))
        if record.stack_info:
            entry["stack"] = masked(record.stack_info)
        return json.dumps(entry, default=str)
