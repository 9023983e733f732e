"""The echo server that conformance suites are pointed at: started as they start it, against the library's client."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.interop.echo_server import MAX_MESSAGE
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
PIECE = (1 << 20) + 1  # bytes or characters of a fragment


@contextmanager
def echoing(*options: str) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "tests.interop.echo_server", "--port", str(port), *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"echoing at ws://127.0.0.1:{port}/\n"
            yield f"ws://127.0.0.1:{port}/"
        finally:
            process.terminate()


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--no-epoll"], ["--compress"]], ids=" ".join)
async def test_the_largest_messages_come_back(options: list[str]) -> None:
    text = "aé€😀" * (MAX_MESSAGE // 10) + "x" * (MAX_MESSAGE % 10)
    assert len(text.encode()) == MAX_MESSAGE
    binary = bytes(range(256)) * (MAX_MESSAGE // 256)
    compression = "deflate" if "--compress" in options else None
    with echoing(*options) as url:
        async with connect(url, max_size=MAX_MESSAGE, compression=compression, proxy=None) as ws:
            for message in (text, binary, "", b""):
                await ws.send(message)
                assert await ws.recv() == message
                # Compressed, an empty last fragment has one byte, which the library counts.
                whole = message[:-1] if compression else message
                pieces = [whole[start : start + PIECE] for start in range(0, len(whole), PIECE)]
                await ws.send(pieces or [whole, whole])
                assert await ws.recv() == whole
