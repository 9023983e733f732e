"""What the workers of one server count together: the rates of keys, connected clients, and connections of each address.

It is in a file that all of them map.

A count that is a little too low for a moment is no harm, so nobody waits here: where another worker holds the lock of a
rate at this very moment, this worker goes on without the lock after a few attempts.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from realizehit.access.limits import Bucket
from realizehit.access.shared_addresses import SharedAddresses, size_of

BUCKETS: Final = 4096  # rates that there is room for; a worker counts by itself for those beyond
ATTEMPTS: Final = 8  # to get a lock that another worker holds

_BUCKET: Final = struct.Struct("=16sdd")  # which rate it is, the tokens left, and when that was
_NONE: Final = bytes(16)


class SharedLimits:
    """The counts of one server.

    Args:
        path: of the file, which is made where it is missing; its directory must be closed to other users.
        workers: how many the server has.
        number: of this worker; ``None`` for the parent, which counts nothing.

    Attributes:
        addresses: the connections of each address.
    """

    def __init__(self, path: Path, workers: int, number: int | None = None) -> None:
        self._number = number
        self._counts = struct.Struct(f"={workers}Q")
        buckets = self._counts.size + BUCKETS * _BUCKET.size
        size = buckets + size_of(workers)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, size)
        self._map = mmap.mmap(self._file, size)
        # Written through these views, a number is never seen half written, as those of `struct` are.
        self._numbers = memoryview(self._map).cast("d")
        self._clients = memoryview(self._map)[: self._counts.size].cast("Q")
        self.addresses: Final = SharedAddresses(self._map, buckets, self._locked, workers, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self.addresses.close()
        self._numbers.release()
        self._clients.release()
        self._map.close()
        os.close(self._file)

    # Connected clients

    def connected(self, own: int) -> int:
        """Return how many clients all workers have, of which this one has ``own``."""
        self.tell(own)
        return sum(self._clients)

    def tell(self, own: int) -> None:
        """Have the others know how many clients this worker has."""
        if self._number is not None:
            self._clients[self._number] = own

    def forget(self, number: int) -> None:
        """Learn that a worker is gone."""
        self.addresses.forget(number)
        self._clients[number] = 0

    # Rates

    def bucket(self, name: str, rate: float, burst: float, now: float) -> Bucket:
        """Return the bucket of a rate, which is the same for all workers.

        Args:
            name: whose rate it is.
            rate: tokens per second.
            burst: tokens that it holds at most.
            now: seconds of a monotonic clock that is the same for all processes of this machine.
        """
        mark = hashlib.blake2b(f"{rate} {burst} {name}".encode(), digest_size=16).digest()
        with self._locked(0, self._counts.size):  # one worker at a time takes a place
            for place in range(BUCKETS):
                offset = self._counts.size + (int.from_bytes(mark[:4]) + place) % BUCKETS * _BUCKET.size
                known = _BUCKET.unpack_from(self._map, offset)[0]
                if known == _NONE:
                    _BUCKET.pack_into(self._map, offset, mark, burst, now)
                if known in (_NONE, mark):
                    return _SharedBucket(self, offset, rate, burst, now)
        return Bucket(rate, burst, now)

    def change(self, offset: int, rate: float, burst: float, now: float, amount: float) -> float:
        """Take tokens out of a bucket, and return how many are left; see `Bucket`."""
        with self._locked(offset, _BUCKET.size):
            at = (offset + _BUCKET.size) // self._numbers.itemsize - 2
            left, then = self._numbers[at], self._numbers[at + 1]
            left = min(burst, left + max(0.0, now - then) * rate) - amount
            self._numbers[at] = left
            self._numbers[at + 1] = max(now, then)
            return left

    @contextlib.contextmanager
    def _locked(self, offset: int, size: int) -> Iterator[bool]:
        held = False
        for _ in range(ATTEMPTS):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, size, offset)
            except OSError:
                continue
            held = True
            break
        try:
            yield held
        finally:
            if held:
                fcntl.lockf(self._file, fcntl.LOCK_UN, size, offset)


class _SharedBucket(Bucket):
    """A bucket whose tokens are in the shared file."""

    __slots__ = ("_limits", "_offset")

    def __init__(self, limits: SharedLimits, offset: int, rate: float, burst: float, now: float) -> None:
        super().__init__(rate, burst, now)
        self._limits = limits
        self._offset = offset

    def wait(self, now: float, wanted: float = 1.0) -> float:
        self._then = now
        left = self._limits.change(self._offset, self._rate, self._burst, now, 0.0)
        return 0.0 if left >= wanted else (wanted - left) / self._rate

    def take(self, amount: float = 1.0) -> None:
        self._limits.change(self._offset, self._rate, self._burst, self._then, amount)
