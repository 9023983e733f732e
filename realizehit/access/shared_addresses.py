"""How many connections each address has at each worker of a server: a table in a file that all workers map.

An address has one of the `WINDOW` rows that its hash names, with a count for each worker. Only that worker writes the
count. A row is free while all its counts are zero; it stays that of its address until another address needs it, which
gets it under a lock. A worker that enters a row without the lock looks once more whose row it is, and the one with the
lock whether the row is still free: one of the two learns of the other. Where no row is free, or another worker holds
the lock, a worker counts that address by itself, and tries again with the next connection.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

ROWS: Final = 1 << 17  # addresses that there is room for, at most
WINDOW: Final = 16  # rows that an address may have
KNOWN: Final = 4096  # addresses whose row is remembered while they have no connection

_MARK: Final = 16  # bytes that tell the address of a row
_COUNT: Final = 4  # bytes of a count

Locked = Callable[[int, int], AbstractContextManager[bool]]
"""Locks a part of the file, given its offset and size; tells whether it could."""


def size_of(workers: int) -> int:
    """Return the bytes of a table; those that were never used take no room on a disk."""
    return ROWS * (_MARK + workers * _COUNT)


class SharedAddresses:
    """The table, as one worker uses it.

    Args:
        mapped: the file.
        start: offset of the table in it.
        locked: locks a part of the file.
        workers: how many the server has.
        number: of this worker; the parent has none and counts nothing.

    Cost: for an address that a worker has, or had a moment ago, a few loads and stores; for another one a lock.
    """

    def __init__(self, mapped: mmap.mmap, start: int, locked: Locked, workers: int, number: int | None) -> None:
        self._map = mapped
        self._marks = start
        self._counts = start + ROWS * _MARK
        self._locked = locked
        self._row = struct.Struct(f"={workers}I")
        self._words = memoryview(mapped).cast("I")  # through which a count is never seen half written
        self._own = (number or 0) * _COUNT  # offset of this worker's count in a row
        self._number = number or 0
        self._rows: dict[str, int] = {}  # offsets of the counts of the addresses that this worker has
        self._known: dict[str, tuple[bytes, int | None]] = {}  # marks and rows of those it was asked about lately

    def others(self, address: str) -> int:
        """Return how many connections the other workers have from an address."""
        offset = self._rows.get(address)
        if offset is None:
            mark, row = self._seek(address)
            if row is None:
                return 0
            count = self._sum_of_others(self._counts + row * self._row.size)
            # Another address may have got the row meanwhile.
            return count if self._mark(row) == mark else 0
        return self._sum_of_others(offset)

    def tell(self, address: str, own: int) -> None:
        """Have the others know how many connections this worker has from an address."""
        offset = self._rows.get(address) if own else self._rows.pop(address, None)
        if offset is not None:
            self._words[(offset + self._own) // _COUNT] = own
        elif own:
            self._take(address, own)

    def close(self) -> None:
        """Let go of the file."""
        self._words.release()

    def forget(self, number: int) -> None:
        """Learn that a worker is gone."""
        end = self._counts + ROWS * self._row.size
        for byte in range(_COUNT):
            first = self._counts + number * _COUNT + byte
            self._map[first : end : self._row.size] = bytes(ROWS)

    def _take(self, address: str, own: int) -> None:
        """Take a row for an address, or share that of another worker."""
        mark, row = self._seek(address)
        if row is None or not self._enter(row, mark, own):
            row = self._claim(mark, own)
        if row is not None:
            self._rows[address] = self._counts + row * self._row.size

    def _seek(self, address: str) -> tuple[bytes, int | None]:
        """Return the mark of an address, and its row, if it has one."""
        known = self._known.get(address)
        if known is not None and known[1] is not None and self._mark(known[1]) == known[0]:
            return known
        mark = _mark_of(address) if known is None else known[0]
        if len(self._known) >= KNOWN:
            self._known.clear()
        known = self._known[address] = mark, self._find(mark)
        return known

    def _enter(self, row: int, mark: bytes, own: int) -> bool:
        """Put a count into the row of an address; tell whether it is still that of the address."""
        offset = self._counts + row * self._row.size + self._own
        self._words[offset // _COUNT] = own
        if self._mark(row) == mark:
            return True
        self._words[offset // _COUNT] = 0
        return False

    def _claim(self, mark: bytes, own: int) -> int | None:
        """Give an address a row, and put a count into it; ``None`` where there is none."""
        first = _first_row(mark)
        with self._locked(self._marks + first * _MARK, WINDOW * _MARK) as held:
            if not held:
                return None
            row = self._find(mark)
            if row is not None:
                return row if self._enter(row, mark, own) else None
            for row in range(first, first + WINDOW):
                before = self._mark(row)
                if not self._is_free(row):
                    continue
                self._set_mark(row, mark)
                if self._is_free(row):
                    return row if self._enter(row, mark, own) else None
                self._set_mark(row, before)  # a connection of its address came at this very moment
        return None

    def _find(self, mark: bytes) -> int | None:
        """Return the row of an address that somebody took for it; it may be free by now."""
        first = _first_row(mark)
        start = self._marks + first * _MARK
        window = self._map[start : start + WINDOW * _MARK]
        at = window.find(mark)
        while at % _MARK and at >= 0:
            at = window.find(mark, at + 1)
        return None if at < 0 else first + at // _MARK

    def _sum_of_others(self, offset: int) -> int:
        counts = self._row_at(offset)
        return sum(counts) - counts[self._number]

    def _mark(self, row: int) -> bytes:
        return self._map[self._marks + row * _MARK : self._marks + (row + 1) * _MARK]

    def _set_mark(self, row: int, mark: bytes) -> None:
        self._map[self._marks + row * _MARK : self._marks + (row + 1) * _MARK] = mark

    def _is_free(self, row: int) -> bool:
        return not any(self._row_at(self._counts + row * self._row.size))

    def _row_at(self, offset: int) -> list[int]:
        first = offset // _COUNT
        return self._words[first : first + self._row.size // _COUNT].tolist()


def _mark_of(address: str) -> bytes:
    return hashlib.blake2b(address.encode(), digest_size=_MARK).digest()


def _first_row(mark: bytes) -> int:
    return int.from_bytes(mark[:8]) % (ROWS // WINDOW) * WINDOW
