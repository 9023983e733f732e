"""The lines that are written to standard error together."""

from __future__ import annotations

import asyncio
import io
import logging
from select import PIPE_BUF

import pytest

from realizehit.logs.lines import TextFormatter
from realizehit.logs.output import Output


class Writes(io.RawIOBase):
    """A file that keeps what each system call would have written."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.arrived = asyncio.Event()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.texts.append(bytes(data).decode())  # type: ignore[call-overload]
        self.arrived.set()
        return len(self.texts[-1])


class Broken(Writes):
    """A full disk, until it has room again."""

    is_full = True

    def write(self, data: object) -> int:
        if self.is_full:
            raise OSError(28, "No space left on device")
        return super().write(data)


def output_to(file: io.RawIOBase) -> Output:
    output = Output(TextFormatter())
    output.setStream(io.TextIOWrapper(io.BufferedWriter(file), line_buffering=True))
    return output


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("realizehit.test", logging.INFO, __file__, 1, text, (), None)


async def test_lines_are_written_together_and_soon() -> None:
    output = output_to(file := Writes())
    for number in range(3):
        output.collect(f"{number}\n", 0)
    assert file.texts == []
    async with asyncio.timeout(20):
        await file.arrived.wait()
    assert file.texts == ["0\n1\n2\n"]
    file.arrived.clear()
    output.collect("again\n", 100)
    async with asyncio.timeout(20):
        await file.arrived.wait()
    assert file.texts[1:] == ["again\n"]


async def test_each_write_is_whole_lines_that_a_pipe_keeps_together() -> None:
    output = output_to(file := Writes())
    lines = [f"{number:099}\n" for number in range(200)]
    for line in lines:
        output.collect(line, 0)
    output.flush()
    assert "".join(file.texts) == "".join(lines)
    assert all(text.endswith("\n") and len(text) <= PIPE_BUF for text in file.texts)
    assert len(file.texts) == -(-len(lines) // (PIPE_BUF // 100))


async def test_a_long_line_is_written_alone() -> None:
    output = output_to(file := Writes())
    lines = ["short\n", "x" * 2 * PIPE_BUF + "\n", "short\n"]
    for line in lines:
        output.collect(line, 0)
    output.flush()
    assert file.texts == lines


async def test_log_records_keep_their_place_among_the_lines() -> None:
    output = output_to(file := Writes())
    output.collect("before\n", 0)
    output.handle(record("it happened"))
    output.collect("after\n", 0)
    logging.shutdown([lambda: output])  # as the interpreter does when it ends
    before, happened, after = file.texts
    assert (before, after) == ("before\n", "after\n")
    assert happened.endswith("it happened\n")


def test_lines_are_written_after_the_loop_of_the_timer_has_ended() -> None:
    output = output_to(file := Writes())

    async def collect(line: str, now: int, count: int) -> None:
        output.collect(line, now)
        async with asyncio.timeout(20):
            while len(file.texts) < count:
                file.arrived.clear()
                await file.arrived.wait()

    asyncio.run(collect("first\n", 0, 0))
    assert file.texts == []
    asyncio.run(collect("second\n", 1000, 2))
    assert file.texts == ["first\n", "second\n"]


async def test_a_full_disk_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    output = output_to(file := Broken())
    for _ in range(200):
        output.collect("x" * 99 + "\n", 0)
    output.flush()
    output.handle(record("it happened"))
    file.is_full = False  # what is left is written at its end
