"""Facts about the engine that are counted exactly, on the build that Python imports first.

``python -m benchmarks.guard.facts NAME`` counts one of them and prints it as JSON; `count` does that in a process of
its own, which is how the guard runs them: some need a tracer's help, and one a build that is broken on purpose.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.engines import CHANNEL, MIXED, PAYLOAD, Bench, batch_of

SUBSCRIBERS = 200
MESSAGES = 50  # in a batch, whose frames join into one send
BATCHES = 3
EPOCH = "k3f09a2c"
ROOT = Path(__file__).parents[2]

Figures = dict[str, int]


def _flooded(subscribers: int, *, warm: bool = True, sockets: bool = True) -> Bench:
    """Return an engine after a first batch, so that its memory and its queues are warm."""
    bench = Bench(slice_seconds=60.0)
    (bench.socket_subscribers if sockets else bench.null_subscribers)(subscribers)
    if warm:
        bench.engine.dispatch(batch_of(MESSAGES))
        bench.drain()
    return bench


def frames() -> Figures:
    """Count the frames built for messages, and the sends that write them, by the engine's counters."""
    bench = _flooded(SUBSCRIBERS)
    before = bench.engine.stats()
    for _ in range(BATCHES):
        bench.engine.dispatch(batch_of(MESSAGES))
        bench.drain()
    after = bench.engine.stats()
    return {name: after[name] - before[name] for name in ("messages", "frames_built", "deliveries", "sends")}


def framings() -> Figures:
    """Count the frames built for messages with subscribers of two framings."""
    bench = Bench()
    bench.null_subscribers(SUBSCRIBERS, framings=MIXED)
    before = bench.engine.stats()
    bench.engine.dispatch(batch_of(MESSAGES))
    bench.settle()
    after = bench.engine.stats()
    return {name: after[name] - before[name] for name in ("messages", "frames_built", "deliveries")}


def _log(subscribers: int) -> Bench:
    """Return an engine with a log, whose subscribers are told positions."""
    bench = Bench(slice_seconds=60.0)
    bench.socket_subscribers(subscribers)
    bench.engine.log_open(CHANNEL)
    bench.engine.log_set(CHANNEL, EPOCH, 0)
    for handle in bench.handles:
        bench.engine.set_positions(handle, CHANNEL)
    return bench


def positions() -> Figures:
    """Count like `frames`, for subscribers that are told positions."""
    bench = _log(SUBSCRIBERS)
    before = bench.engine.stats()
    for n in range(BATCHES):
        bench.engine.dispatch(_logged(n * MESSAGES))
        bench.drain()
    after = bench.engine.stats()
    return {name: after[name] - before[name] for name in ("messages", "frames_built", "deliveries", "sends")}


def replays() -> Figures:
    """Count the frames built when many subscribers, who missed the same messages, are sent those of the ring."""
    bench = _log(1)
    bench.engine.dispatch(_logged(0))
    bench.drain()
    first = len(bench.handles)
    bench.socket_subscribers(SUBSCRIBERS)
    before = bench.engine.stats()
    for handle in bench.handles[first:]:
        bench.engine.set_positions(handle, CHANNEL, 0)
    bench.settle()
    bench.drain()
    after = bench.engine.stats()
    return {name: after[name] - before[name] for name in ("replayed", "frames_built", "sends")}


def conflation() -> Figures:
    """Count what 1,000 subscribers with a time of 100 ms get in ten seconds of 1,000 messages a second.

    The seconds are those of a clock that the engine is told, in steps of a millisecond.
    """
    bench = Bench(slice_seconds=60.0)
    bench.null_subscribers(1000)
    for handle in bench.handles:
        bench.engine.set_every(handle, CHANNEL, 100)
    (message,) = batch_of(1)
    now, wanted = 0.0, 0.0

    def tell_time() -> None:
        bench.engine.advance_windows(now)

    bench.engine.on_windows = tell_time
    before = bench.engine.stats()
    for millisecond in range(10_000):
        now = millisecond / 1000
        if now >= wanted:
            wanted = now + (bench.engine.advance_windows(now) or 0.01)
        bench.engine.dispatch([message])
        bench.settle()
    after = bench.engine.stats()
    return {name: after[name] - before[name] for name in ("messages", "frames_built", "deliveries", "conflated")}


def _logged(after: int) -> list[list[bytes]]:
    texts = (b"@o=%b.%d?%b" % (EPOCH.encode(), n, PAYLOAD) for n in range(after + 1, after + MESSAGES + 1))
    return [[b"message", CHANNEL, text] for text in texts]


def work() -> Figures:
    """Run the work of `system_calls`: a number of batches for a number of connections."""
    bench = _flooded(SUBSCRIBERS)
    for _ in range(BATCHES - 1):
        bench.engine.dispatch(batch_of(MESSAGES))
        bench.drain()
    return {}


def python_calls() -> Figures:
    """Count the functions that run during a dispatch, Python's and C's as far as Python knows them.

    Connections with a Python transport are counted as well, to show that a call would be seen.
    """
    figures = {}
    for subscribers, sockets in ((1, True), (1000, True), (1000, False)):
        bench = _flooded(subscribers, sockets=sockets)
        batch = batch_of(1)
        calls = 0

        def look(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(look)
        bench.engine.dispatch(batch)
        sys.setprofile(None)
        figures[f"{subscribers} subscribers" if sockets else "python transports"] = calls
        bench.close()
    return figures


def allocations() -> Figures:
    """Count calls of the allocator during a dispatch; Python's objects come from it as well. Needs the preload.

    A dispatch that finds no memory in the pools is counted as well, to show that an allocation would be seen.
    """
    calls = ctypes.CDLL(None).allocator_calls
    calls.restype = ctypes.c_long
    figures = {}
    for subscribers, warm in ((1, True), (1000, True), (1000, False)):
        bench = _flooded(subscribers, warm=warm)
        batch = batch_of(MESSAGES)
        dispatch = bench.engine.dispatch
        before = calls()
        dispatch(batch)
        figures[f"{subscribers} subscribers" if warm else "cold"] = calls() - before
        bench.close()
    return figures


FACTS: dict[str, Callable[[], Figures]] = {
    "frames": frames,
    "framings": framings,
    "positions": positions,
    "replays": replays,
    "conflation": conflation,
    "work": work,
    "python_calls": python_calls,
    "allocations": allocations,
}


# --- Running them -----------------------------------------------------------------------------------------------------


def count(name: str, *, package: Path | None = None, before: list[str] | None = None, **environment: str) -> Figures:
    """Count a fact in a new process.

    Args:
        name: of `FACTS`.
        package: where the realizehit to look at is; the installed one by default.
        before: words in front of the command, such as a tracer's.
        **environment: further variables.
    """
    places = [str(place) for place in (package, ROOT) if place is not None]
    command = [*(before or []), sys.executable, "-P", "-m", "benchmarks.guard.facts", name]
    result = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places), **environment},
    )  # fmt: skip
    if result.returncode:
        raise RuntimeError(f"counting {name} failed:\n{result.stderr[-2000:]}")
    said: dict[str, Any] = json.loads(result.stdout)
    if package is not None and not said["of"].startswith(str(package)):
        raise RuntimeError(f"looked at {said['of']}, not at what is in {package}")
    return dict(said["figures"])


def count_allocations(package: Path | None = None) -> Figures:
    """Count `allocations`, every object of Python's own allocator included."""
    from benchmarks.system.compiled import shared_library

    shim = shared_library(Path(__file__).with_name("counting.c"))
    return count("allocations", package=package, LD_PRELOAD=str(shim), PYTHONMALLOC="malloc")


def count_system_calls(package: Path | None = None) -> Figures:
    """Count the sends that the kernel saw, by strace."""
    if shutil.which("strace") is None:
        raise FileNotFoundError("strace")
    with tempfile.NamedTemporaryFile("r", suffix=".strace") as out:
        trace = ["strace", "-f", "-c", "-e", "trace=sendto,sendmsg,sendmmsg", "-o", out.name]
        count("work", package=package, before=trace)
        # 100.00    0.001203           2       600           sendto
        rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", out.read(), re.MULTILINE)
    return {name: int(calls) for calls, name in rows if name != "total"}


# --- Judging them -----------------------------------------------------------------------------------------------------


def complaints(package: Path | None = None) -> list[str]:
    """Count everything that this machine can count, and return the violations."""
    said = []
    seen = count("frames", package=package)
    if seen["frames_built"] != seen["messages"]:
        said.append(f"frames: {seen['frames_built']} were built for {seen['messages']} messages of one framing")
    if seen["sends"] != BATCHES * SUBSCRIBERS:
        said.append(f"sends: {seen['sends']} for {BATCHES} batches to {SUBSCRIBERS} connections")
    mixed = count("framings", package=package)
    if mixed["frames_built"] != 2 * mixed["messages"]:
        said.append(f"frames: {mixed['frames_built']} were built for {mixed['messages']} messages of two framings")
    for name, figures in (
        ("calls", count("python_calls", package=package)),
        ("allocations", count_allocations(package)),
    ):
        one, many = figures["1 subscribers"], figures["1000 subscribers"]
        if many > one:
            said.append(f"{name}: {one} for one subscriber, {many} for 1,000")
    return said


def main() -> None:
    from realizehit import _fanout

    print(json.dumps({"figures": FACTS[sys.argv[1]](), "of": _fanout.__file__}))


if __name__ == "__main__":
    main()
