"""Allocations that fail, one at a time: runs of engine calls in which the N-th gets no memory, for each N.

``python -m tests.fuzz.allocations [--all] [--every K]``: the allocations of the extension itself, or with ``--all``
those of Python's objects as well, of which every K-th is tried. Each run is a process of its own.

What must hold: nothing crashes; a call that gets no memory raises `MemoryError` or ends the connection that it was for;
afterwards the gauges equal what the registry says, everybody else is served, and at the end nothing is alive or open.

It needs Linux, glibc and a compiler.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from realizehit import _fanout
from tests.fuzz.engine_calls import Case, Ended, Run
from tests.fuzz.targets import cases

NEVER = 77  # exit status of a run in which so many allocations did not happen


def region() -> tuple[int, int]:
    """Return where the extension's code lies."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if _fanout.__file__ in line]
    bounds = [[int(end, 16) for end in line[0].split("-")] for line in lines]
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def is_poverty(error: BaseException) -> bool:
    """Whether an error says that there was no memory, or is what CPython 3.11 makes of having none for a frame."""
    return isinstance(error, MemoryError) or str(error) == "error return without exception set"


class Poor(Run):
    """A run in which memory may be lacking."""

    def inside(self) -> None:
        depth = self.depth
        try:
            super().inside()
        except (MemoryError, SystemError) as error:
            if not is_poverty(error):
                raise
            self.depth = depth

    def raise_errors(self) -> None:
        for error in self.loop.errors:
            if not is_poverty(error):
                raise error


def run(data: bytes, after: int, bounds: tuple[int, int]) -> int:
    """Run a case with one allocation failing; return the process's exit status."""
    library = ctypes.CDLL(None)
    arm = library.failing_malloc_arm
    arm.argtypes = [ctypes.c_long, ctypes.c_size_t, ctypes.c_size_t]
    arm.restype = ctypes.c_long
    before, files = _fanout.debug_counts(), open_files()
    it: Poor | None = None
    arm(after, *bounds)
    try:
        it = Poor(Case(data))
        while True:
            try:
                it.step()
            except (MemoryError, SystemError) as error:
                if not is_poverty(error):
                    raise
                it.depth = 0
    except (Ended, MemoryError):
        pass
    try:
        left = arm(-1, 0, 0)
    except (MemoryError, ctypes.ArgumentError):
        left = arm(-1, 0, 0)
    if it is not None:
        it.depth = 3
        it.loop.run()
        it.engine.flush()
        it.check()
        if bounds != (0, 0):
            # Only the engine was short of memory, so what the run wrote down is whole.
            assert +it.vacant <= +it.begun
        handles, counts = it.handles, it.gone
        it.engine.close()
        it.loop.run()
        it.check()
        assert it.engine.stats()["closing"] == 0
        if bounds != (0, 0):
            assert all(counts[handle] == (handle not in it.spliced) for handle in set(handles))
            assert it.vacant == +it.begun
        for peer in it.peers.values():
            peer.close()
        it.loop.errors.clear()
        it.engine.on_vacant = None
        it.wires.clear()
        it.loop.soon.clear()
        del it
    gc.collect()
    assert _fanout.debug_counts() == before, (before, _fanout.debug_counts())
    if bounds != (0, 0):
        assert open_files() == files
    return NEVER if left >= 0 else 0


def watched(everything: bool, every: int, most: int) -> int:
    """Run in the process that has the library; return how many runs broke."""
    bounds = (0, 0) if everything else region()
    broken = total = 0
    for path in cases("engine_calls"):
        data = path.read_bytes()
        for after in range(0, most, every):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    status = run(data, after, bounds)
                except BaseException:  # noqa: BLE001 - the status tells
                    traceback.print_exc()
                os._exit(status)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            total += 1
            if status == NEVER:
                break
            if status:
                broken += 1
                print(f"{path.name}: broken with {status} where allocation {after} fails", flush=True)
    print(f"{total} runs, {broken} broken")
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.allocations")
    parser.add_argument("--all", action="store_true", help="fail allocations of Python's objects too")
    parser.add_argument("--every", type=int, default=1, help="try every K-th allocation (1)")
    parser.add_argument("--most", type=int, default=1_000_000, help="try no later one than this")
    parser.add_argument("--watched", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watched:
        return watched(arguments.all, arguments.every, arguments.most)
    with tempfile.TemporaryDirectory(prefix="rh-") as directory:
        library = Path(directory) / "failing_malloc.so"
        source = Path(__file__).with_name("failing_malloc.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
        env = os.environ | {"LD_PRELOAD": str(library), "PYTHONMALLOC": "malloc"}
        command = [sys.executable, "-m", "tests.fuzz.allocations", "--watched", *sys.argv[1:]]
        return subprocess.run(command, env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
