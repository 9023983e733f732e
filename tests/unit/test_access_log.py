"""The lines of the access log: the same as those that log records would give."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realizehit.logs.access import AccessLog
from realizehit.logs.lines import HideSecrets, JsonFormatter, TextFormatter
from realizehit.logs.output import Output

FORM = '%s - "%s %s HTTP/%s" %d'
MOMENT = 1_800_000_000_987_654_321  # nanoseconds; its float is above the whole millisecond

TARGETS = [
    "/", "/api/", "/x?token=hunter2", "/x?a=1&sid=hunter2&b=2", "/cookie:hunter2", "/x?x=authorization=hunter2",
    "/eyJhbGciOiJIUzI1NiJ9.hunter2", "/redis://hunter2@db", '/"\'\\%0A', "/" + "long" * 100, "/|", "/.000Z",
    '/{"key":"hunter2"}', "/\x1b[2J", "/?" + "token=hunter2&" * 50,
]  # fmt: skip
CLIENTS = ["127.0.0.1:4711", "::1:80", "unix:0", "", 'fe80::1%e"0\x7f:80']

Set = tuple[logging.Logger, Output, io.StringIO]


@contextmanager
def own_logger(formatter: logging.Formatter) -> Iterator[Set]:
    """A logger whose lines go to an output of this program only."""
    logger = logging.Logger("uvicorn.access.test", logging.INFO)  # noqa: LOG001 - pytest adds handlers to the others
    logger.addFilter(HideSecrets())
    output, file = Output(formatter), io.StringIO()
    output.setStream(file)
    logger.addHandler(output)
    try:
        yield logger, output, file
    finally:
        output.close()


@pytest.fixture(params=[TextFormatter, JsonFormatter])
def own(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Set]:
    monkeypatch.setattr(time, "time", lambda: MOMENT / 1e9)
    monkeypatch.setattr(time, "time_ns", lambda: MOMENT)
    with own_logger(request.param()) as found:
        yield found


def written(file: io.StringIO) -> str:
    text = file.getvalue()
    file.seek(0)
    file.truncate()
    return text


async def both_ways(own: Set, client: str, target: str, status: int = 200) -> tuple[str, str]:
    logger, output, file = own
    logger.info(FORM, client, "GET", target, "1.1", status)
    wanted = written(file)
    log = AccessLog(logger, lambda: MOMENT)
    lines = []
    for _ in range(2):  # the second from what the first left
        log.note(client, "GET", target, "1.1", status)
        output.flush()
        lines.append(written(file))
    assert lines[0] == lines[1]
    return lines[0], wanted


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("target", TARGETS)
async def test_a_line_is_that_of_a_log_record(own: Set, client: str, target: str) -> None:
    line, wanted = await both_ways(own, client, target)
    assert line == wanted
    assert "hunter2" not in line
    assert line.count("\n") == 1


@given(target=st.text(st.characters(max_codepoint=127), max_size=300), status=st.integers(100, 599))
async def test_any_line_is_that_of_a_log_record(target: str, status: int) -> None:
    for formatter in (TextFormatter(), JsonFormatter()):
        with own_logger(formatter) as own:
            line, wanted = await both_ways(own, "127.0.0.1:80", target, status)
        stamp = 40  # characters, in which the time is; it differs
        assert line[stamp:] == wanted[stamp:]


async def test_no_record_is_made_for_a_line(own: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    logger, output, file = own
    moment = MOMENT
    log = AccessLog(logger, lambda: moment)
    log.note("127.0.0.1:1", "POST", "/", "1.1", 200)

    def refuse(*_: object) -> None:
        raise AssertionError("a log record")

    monkeypatch.setattr(logger, "makeRecord", refuse)
    moment += 1_000_000
    log.note("127.0.0.1:2", "POST", "/", "1.1", 400)
    log.info(FORM, "127.0.0.1:3", "POST", "/", "1.1", 200)
    output.flush()
    first, second, third = written(file).splitlines()
    assert ".987Z" in first
    assert ".988Z" in second
    assert [line.partition(" - ")[0].endswith(f"127.0.0.1:{n}") for n, line in enumerate((first, second, third), 1)]


class Seen(logging.Handler):
    """Another program's handler."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


class Dropped(logging.Filter):
    """Another program's filter, which keeps what it drops."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self.messages.append(record.getMessage())
        return False


@pytest.mark.parametrize("where", ["handler", "parent", "filter", "level"])
async def test_loggers_of_other_programs_work_as_usual(own: Set, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logger, output, file = own
    seen, dropped = Seen(), Dropped()
    if where == "handler":
        logger.addHandler(seen)
    elif where == "parent":
        logger.parent = logging.Logger("uvicorn.access")  # noqa: LOG001 - as above
        logger.parent.addHandler(seen)
    elif where == "filter":
        logger.addFilter(dropped)
    else:
        logger.setLevel(logging.WARNING)
    log = AccessLog(logger, lambda: MOMENT)
    log.note("127.0.0.1:1", "POST", "/", "1.1", 200)
    output.flush()
    assert [*seen.messages, *dropped.messages] == ([] if where == "level" else ['127.0.0.1:1 - "POST / HTTP/1.1" 200'])
    assert bool(written(file)) is (where in ("handler", "parent"))


async def test_a_change_of_the_handlers_counts_a_second_later(own: Set) -> None:
    logger, _, _ = own
    moment, seen = MOMENT, Seen()
    log = AccessLog(logger, lambda: moment)
    log.note("127.0.0.1:1", "GET", "/", "1.1", 200)
    logger.addHandler(seen)
    moment += 1_000_000_000
    log.note("127.0.0.1:2", "GET", "/", "1.1", 200)
    assert seen.messages == ['127.0.0.1:2 - "GET / HTTP/1.1" 200']


async def test_requests_without_handlers_are_not_logged(own: Set, capsys: pytest.CaptureFixture[str]) -> None:
    logger, output, _ = own
    logger.removeHandler(output)
    AccessLog(logger).note("127.0.0.1:1", "GET", "/", "1.1", 200)
    assert capsys.readouterr().err == ""


async def test_few_requests_are_remembered(own: Set) -> None:
    log = AccessLog(own[0], lambda: MOMENT)
    for number in range(3000):
        log.note("127.0.0.1:1", "GET", f"/{number}", "1.1", 200)
        log.note("127.0.0.1:1", "GET", f"/?{number}", "1.1", 200)
    assert len(log._rests) <= 1024
    assert not any("?" in target for _, target, _, _ in log._rests)
