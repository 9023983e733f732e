"""A payload to a frame: the engine keeps it in a connection's queue, `websockets` in a list."""

from __future__ import annotations

from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from benchmarks.engines import Bench

FRAMES = 256  # in a round


@pytest.mark.parametrize("size", [128, 1024])
@pytest.mark.parametrize("side", ["engine", "websockets"])
def test_text_frame(benchmark: Any, size: int, side: str) -> None:
    benchmark.group = f"{FRAMES} text frames of {size} bytes"
    payload = b"x" * size
    kept: list[bytes] = []

    def websockets() -> None:
        kept.extend(Frame(Opcode.TEXT, payload).serialize(mask=False) for _ in range(FRAMES))

    if side == "websockets":
        benchmark.pedantic(websockets, rounds=20, warmup_rounds=1)
        assert len(kept) == 21 * FRAMES
        assert all(len(frame) > size for frame in kept)
        return
    bench = Bench(max_queue_messages=32768, max_queue_bytes=1 << 30)
    bench.null_subscribers(1)
    send, handle = bench.engine.send, bench.handles[0]

    def engine() -> None:
        for _ in range(FRAMES):
            send(handle, payload)

    before = bench.engine.stats()["bytes_out"]
    bench.unflushed(lambda: benchmark.pedantic(engine, rounds=20, warmup_rounds=1))
    header = 4 if size > 125 else 2
    assert bench.engine.stats()["bytes_out"] - before == 21 * FRAMES * (size + header)
    bench.close()
