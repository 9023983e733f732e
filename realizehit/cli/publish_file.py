"""``realizehit publish --file``: a file of NDJSON, a block of lines at a time."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import msgspec

from realizehit.cli.publish import Target, counted
from realizehit.client.messages import Message, PublishOutcome, PublishResult, RawJSON
from realizehit.errors import BrokerUnavailable, Disconnected, ResponseTimeout, ServerUnavailable
from realizehit.pattern import Pattern

BLOCK_LINES: Final = 2000  # that are published at once
BLOCK_BYTES: Final = 1 << 20  # likewise; one line may be longer

_AWAY: Final = (BrokerUnavailable, Disconnected, ResponseTimeout, ServerUnavailable)


class _Body(msgspec.Struct):
    pattern: dict[str, str | int | float | bool]
    payload: msgspec.Raw


class _Line(NamedTuple):
    """One line: its number, its length in bytes, and what to publish, or what is wrong with it."""

    number: int
    size: int
    message: Message | None = None
    error: str = ""


async def publish_file(target: Target, file: Path, pattern: Pattern | None, *, as_json: bool) -> int:
    """Publish the lines of a file in their order.

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
            for block in _blocks(_read(stream, pattern)):
                outcomes = await publisher.publish_many([line.message for line in block if line.message])
                left = iter(outcomes)
                for line in block:
                    good = _tell(line, next(left) if line.message else None, as_json)
                    published += good
                    failed += not good
                progress.advance(sum(line.size for line in block))
                if outcomes and isinstance(outcomes[-1], _AWAY):
                    click.echo(f"stopped after line {block[-1].number}", err=True)
                    break
    if not as_json:
        click.echo(f"published {counted(published, 'message')}" + (f", {failed} failed" if failed else ""))
    return 1 if failed else 0


def _read(stream: Iterable[bytes], pattern: Pattern | None) -> Iterator[_Line]:
    """Yield what stands in a file, line by line; blank lines are left out."""
    decoder = msgspec.json.Decoder(_Body)
    for number, line in enumerate(stream, 1):
        text = line.strip()
        if not text:
            continue
        if pattern is not None:
            yield _Line(number, len(line), (pattern, RawJSON(text)))
            continue
        try:
            body = decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            yield _Line(number, len(line), error=f'it is no {{"pattern": {{...}}, "payload": ...}}: {error}')
        else:
            yield _Line(number, len(line), (body.pattern, RawJSON(bytes(body.payload))))


def _blocks(lines: Iterable[_Line]) -> Iterator[list[_Line]]:
    block: list[_Line] = []
    size = 0
    for line in lines:
        block.append(line)
        size += line.size
        if len(block) == BLOCK_LINES or size >= BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _tell(line: _Line, outcome: PublishOutcome | None, as_json: bool) -> bool:
    """Say what became of a line; return whether it was published."""
    if isinstance(outcome, PublishResult):
        if as_json:
            click.echo(json.dumps({"line": line.number, "id": outcome.id, "nodes": outcome.nodes}))
        return True
    text, code = (line.error, "bad-request") if outcome is None else (str(outcome), outcome.code)
    if as_json:
        click.echo(json.dumps({"line": line.number, "error": text, "code": code}))
    else:
        click.echo(f"line {line.number}: {text}", err=True)
    return False


class _Progress:
    """A bar on standard error, where that is a terminal; of bytes, since nobody has counted the lines."""

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
