"""Log lines: text for people, or JSON for programs, one line each, on standard error."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from types import TracebackType
from typing import Any, Final

# A line break in a message would forge a line of its own, and a terminal obeys escape sequences.
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))}


_TOKEN: Final = re.compile(r"([?&][^=&\s]*token[^=&\s]*=)[^&\s]*", re.IGNORECASE)


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


class HideTokens(logging.Filter):
    """Takes tokens out of the targets in access logs: a browser has no other place for one."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a record, and let it pass."""
        if isinstance(record.args, tuple):
            record.args = tuple(_TOKEN.sub(r"\1***", arg) if isinstance(arg, str) else arg for arg in record.args)
        return True


def hide_tokens() -> None:
    """Have the access log of this process show no tokens; calling it again does nothing."""
    logging.getLogger("uvicorn.access").filters[:] = [HideTokens()]


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
        message = record.getMessage().translate(_CONTROLS)
        text = f"{_stamp(record)} {record.levelname.lower():7} {record.name}[{record.process}]: {message}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if record.stack_info:
            text += "\n" + record.stack_info
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
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = record.stack_info
        return json.dumps(entry, default=str)
