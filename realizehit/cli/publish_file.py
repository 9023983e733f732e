"""``realizehit publish --file``: a file of NDJSON in blocks of lines, and a pipe's lines as they arrive."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import select
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import msgspec

from realizehit.cli.error_text import describe_error
from realizehit.cli.publish_target import Target
from realizehit.cli.text import counted, without_bom
from realizehit.client.messages import Message, PublishOutcome, PublishResult, RawJSON
from realizehit.common.surrogates import Hidden
from realizehit.errors import BrokerUnavailable, Disconnected, ErrorCode, Rejected, ResponseTimeout, Unavailable
from realizehit.pattern import Pattern

BLOCK_LINES: Final = 2000  # that are published at once
BLOCK_BYTES: Final = 1 << 20  # that are published at once; one line may be longer
CHUNK: Final = 1 << 18  # bytes that are read at once

_REFUSALS: Final = (401, 403, 404, 405, 429)  # of a whole request; a message that is refused has no status
_AWAY: Final = (BrokerUnavailable, Disconnected, ResponseTimeout, Unavailable)


class _Body(msgspec.Struct):
    pattern: dict[str, str | int | float | bool]
    payload: msgspec.Raw
    key: str | None = None


class _Line(NamedTuple):
    """One line: its number, its length in bytes, and what to publish, or what is wrong with it."""

    number: int
    size: int
    message: Message | None = None
    error: str = ""


async def publish_file(target: Target, file: Path, pattern: Pattern | None, *, as_json: bool) -> int:
    """Publish the lines of a file in their order; those of a pipe or a terminal as they come.

    Args:
        target: where to.
        file: its path; ``-`` for standard input.
        pattern: for each line, which is a payload then; ``None`` where each line names its own.
        as_json: whether to print an object for each line.

    Returns:
        The exit status: 1 where a line failed.
    """
    published = failed = 0
    try:
        stream = click.open_file(str(file), "rb")
    except OSError as error:
        raise click.FileError(str(file), error.strerror) from None
    with stream, _Progress(file) as progress:
        async with target.open() as publisher:
            async for block in _blocks(_Source(stream.fileno()), pattern):
                outcomes = await publisher.publish_many([line.message for line in block if line.message])
                left = iter(outcomes)
                for line in block:
                    good = _tell(line, next(left) if line.message else None, as_json)
                    published += good
                    failed += not good
                progress.advance(sum(line.size for line in block))
                if outcomes and _is_hopeless(outcomes[-1]):
                    click.echo(f"stopped after line {block[-1].number}", err=True)
                    break
    if not as_json:
        click.echo(f"published {counted(published, 'message')}" + (f", {failed} failed" if failed else ""))
    return 1 if failed else 0


async def _blocks(source: _Source, pattern: Pattern | None) -> AsyncIterator[list[_Line]]:
    """Yield what is to be published at once: as much as a block holds, or what is there when nothing more is.

    While one is published the next one comes in, so that a slow input is published line by line and a fast one in
    blocks.
    """
    read = _reader(pattern)
    block: list[_Line] = []
    size = 0
    while not source.ended:
        lines = await source.lines(wait=not block)
        for line in map(read, lines):
            if line is None:
                continue
            block.append(line)
            size += line.size
            if len(block) == BLOCK_LINES or size >= BLOCK_BYTES:
                yield block
                block, size = [], 0
        if block and not lines:
            yield block
            block, size = [], 0
    if block:
        yield block


def _reader(pattern: Pattern | None) -> Callable[[bytes], _Line | None]:
    """Return a function that reads one line after another; it returns ``None`` for a blank line, and counts it."""
    decoder = msgspec.json.Decoder(_Body)
    numbers = itertools.count(1)

    def read(line: bytes) -> _Line | None:
        number, size = next(numbers), len(line) + 1
        text = (without_bom(line) if number == 1 else line).strip()
        if not text:
            return None
        if pattern is not None:
            return _Line(number, size, (pattern, RawJSON(text)))
        hidden = None
        try:
            try:
                body = decoder.decode(text)
            except msgspec.DecodeError:
                hidden = Hidden(text)  # the library refuses lone surrogates
                body = decoder.decode(hidden.text)
        except (msgspec.DecodeError, ValueError) as error:
            return _Line(number, size, error=f'it is no {{"pattern": {{...}}, "payload": ...}}: {error}')
        payload = bytes(body.payload)
        if hidden is None:
            return _Line(number, size, (body.pattern, RawJSON(payload), body.key))
        if any(hidden.holds_one(str(part)) for pair in body.pattern.items() for part in pair):
            return _Line(number, size, error="a key or value of the pattern holds a lone surrogate")
        return _Line(number, size, (body.pattern, RawJSON(hidden.restore(payload)), body.key))

    return read


class _Source:
    """A file, pipe or terminal as lines; made in the loop that reads it.

    Attributes:
        ended: whether everything was read.
    """

    def __init__(self, fd: int) -> None:
        self.ended = False
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._rest: list[bytes] = []  # of a line whose end has not come

    async def lines(self, *, wait: bool) -> list[bytes]:
        """Return the lines that have arrived whole, without their ends; none where only a part of one has.

        Args:
            wait: whether to wait where nothing is there.
        """
        if not self._poll.poll(0):  # of a regular file there always is
            if not wait:
                return []
            await self._readable()
        chunk = os.read(self._fd, CHUNK)
        if not chunk:
            self.ended = True
            return [b"".join(self._rest)] if self._rest else []
        *whole, rest = chunk.split(b"\n")
        if whole:
            whole[0] = b"".join([*self._rest, whole[0]])
            self._rest = []
        if rest:
            self._rest.append(rest)
        return whole

    async def _readable(self) -> None:
        readable = asyncio.Event()
        self._loop.add_reader(self._fd, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(self._fd)


def _is_hopeless(outcome: PublishOutcome) -> bool:
    """Whether the following lines would fail too: the server is away, or takes nothing from this client."""
    return isinstance(outcome, _AWAY) or (isinstance(outcome, Rejected) and outcome.status in _REFUSALS)


def _tell(line: _Line, outcome: PublishOutcome | None, as_json: bool) -> bool:
    """Print the result of a line; return whether it was published."""
    if isinstance(outcome, PublishResult):
        if as_json:
            more: dict[str, Any] = {"duplicate": True} if outcome.duplicate else {}
            more |= {"at": outcome.at} if outcome.at else {}
            click.echo(json.dumps({"line": line.number, "id": outcome.id, "nodes": outcome.nodes, **more}))
        return True
    text, code = (line.error, str(ErrorCode.BAD_REQUEST)) if outcome is None else (str(outcome), outcome.code)
    if as_json:
        click.echo(json.dumps({"line": line.number, "error": text, "code": code}))
    else:
        click.echo(f"line {line.number}: {describe_error(outcome) if outcome else f'{text}  ({code})'}", err=True)
    return False


class _Progress:
    """A bar on standard error, where that is a terminal; of bytes, since the number of lines is not known."""

    def __init__(self, file: Path) -> None:
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("publishing", total=file.stat().st_size if file.is_file() else None)

    def advance(self, size: int) -> None:
        if self._bar is not None:
            self._bar.advance(self._task, size)

    def __enter__(self) -> _Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()
