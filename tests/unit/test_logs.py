"""Log lines, as text and as JSON."""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Any

import pytest

from realizehit.logs.lines import FewOfAKind, HideSecrets, JsonFormatter, TextFormatter, configure, guard_own_loggers


def record(message: str, *args: object, exc_info: Any = None) -> logging.LogRecord:
    return logging.LogRecord("realizehit.test", logging.WARNING, __file__, 1, message, args, exc_info)


def failure() -> Any:
    try:
        int("broken")
    except ValueError:
        return sys.exc_info()
    return None


def test_a_line_of_text() -> None:
    line = TextFormatter().format(record("%d clients", 3))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z warning realizehit\.test\[\d+\]: 3 clients", line), (
        line
    )


def test_text_from_outside_cannot_forge_a_line() -> None:
    line = TextFormatter().format(record("%s", "one\n2026 error forged\x1b[2J\x9b"))
    assert line.endswith(r": one\x0a2026 error forged\x1b[2J\x9b")


def test_an_exception_follows_its_line() -> None:
    first, second, *_, last = TextFormatter().format(record("broken", exc_info=failure())).splitlines()
    assert first.endswith(": broken")
    assert second == "Traceback (most recent call last):"
    assert last == "ValueError: invalid literal for int() with base 10: 'broken'"


def test_a_line_of_json() -> None:
    entry = record("two\nlines: %s", "é")
    entry.fields = {"port": 1}
    line = JsonFormatter().format(entry)
    assert "\n" not in line
    value = json.loads(line)
    assert value == {
        "time": value["time"],
        "level": "warning",
        "logger": "realizehit.test",
        "pid": entry.process,
        "message": "two\nlines: é",
        "port": 1,
    }


def test_an_exception_is_part_of_the_object() -> None:
    line = JsonFormatter().format(record("broken", exc_info=failure()))
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("ValueError: invalid literal for int() with base 10: 'broken'")


@pytest.mark.parametrize(("style", "kind"), [("text", TextFormatter), ("json", JsonFormatter)])
def test_configure(style: str, kind: type[logging.Formatter], monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(root, "handlers", handlers[:])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    try:
        configure(style, "error")
        configure(style, "error")
        (handler,) = root.handlers
        assert type(handler.formatter) is kind
        assert root.level == logging.ERROR
    finally:
        logging.captureWarnings(False)
        root.setLevel(level)
        logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_no_secret_reaches_a_line(formatter: logging.Formatter) -> None:
    try:
        int("redis://:hunter2@db")
    except ValueError:
        entry = record("%s", "GET /ws?sid=hunter2&token=hunter2", exc_info=sys.exc_info())
    entry.stack_info = "Authorization: Bearer hunter2"
    line = formatter.format(entry)
    assert "hunter2" not in line
    assert line.count("***") >= 4


def test_node_loggers_get_one_filter_and_keep_their_others() -> None:
    logger = logging.getLogger("uvicorn.error.realizehit")
    own, before = logging.Filter("uvicorn"), logger.filters[:]
    try:
        logger.filters[:] = [own]
        guard_own_loggers()
        guard_own_loggers()
        assert [type(there) for there in logger.filters] == [logging.Filter, HideSecrets, FewOfAKind]
        assert logger.filters[0] is own
    finally:
        logger.filters[:] = before


def test_lines_that_strangers_cause_are_few_and_counted() -> None:
    now = 0.0
    few = FewOfAKind(("Invalid",), 5.0, clock=lambda: now)

    def written() -> list[str]:
        lines = []
        for number in range(100):
            entry = record("Invalid HTTP request %d", number)
            if few.filter(entry):
                lines.append(entry.getMessage())
        return lines

    assert written() == ["Invalid HTTP request 0"]
    assert written() == []
    now = 5.0
    assert written() == ["Invalid HTTP request 0 (199 more like this since the last line)"]
    assert few.filter(record("something else"))
