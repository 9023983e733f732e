"""A bounded memory of recent results."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Results by key, of which the least recently used are forgotten.

    It keeps two generations: results that were stored or used lately, and older ones. When the younger generation is
    full, it becomes the older one, whose results are forgotten. So each operation takes constant time.

    Args:
        most: results that are kept at most, 2 or more; at least the last half of them that were used are there.
    """

    def __init__(self, most: int) -> None:
        self._half: Final = most // 2
        self._young: dict[Key, Value] = {}
        self._old: dict[Key, Value] = {}

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def get(self, key: Key) -> Value | None:
        """Return the result of a key; ``None`` where it is not known, or not any more."""
        value = self._young.get(key)
        if value is None:
            value = self._old.pop(key, None)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: Key, value: Value) -> None:
        """Store a result."""
        if len(self._young) >= self._half:
            self._old, self._young = self._young, {}
        self._young[key] = value
