"""Log lines: text for people, or JSON for programs, one line each, on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any, Final

from realizehit.common.masking import masked
from realizehit.common.seldom import LOG_INTERVAL, Seldom, more
from realizehit.logs.output import Output

# A line break in a message would forge a line of its own, and a terminal obeys escape sequences.
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))}


def configure(style: str, level: str) -> None:
    """Send every log line of this process to standard error, Python's warnings and uncaught exceptions included.

    Args:
        style: ``text`` or ``json``.
        level: the least severe to write: ``debug``, ``info``, ``warning`` or ``error``.
    """
    root = logging.getLogger()
    root.handlers[:] = [Output(JsonFormatter() if style == "json" else TextFormatter())]
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


class FewOfAKind(logging.Filter):
    """Limits the log lines of libraries that any client can cause: one line of a kind, then no more for a while.

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
    return f"{_second(int(record.created))}.{int(record.msecs):03d}Z"


@lru_cache(maxsize=2)
def _second(created: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z warning realizehit.node.hub[4711]: what happened``; tracebacks follow."""

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
    """One object a line: ``time``, ``level``, ``logger``, ``pid``, ``message``, and ``exception`` if there is one.

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
