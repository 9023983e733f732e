"""The shapes that a bridge listens for, and the globs by which it does.

Several shapes may have one glob. A glob matches each publication that matches a subscription of its shapes, and their
projections; it may match others, about which the projection decides.
"""

from __future__ import annotations

import re
from typing import Final

from realizehit.broker.shapes.registry import MOST_SHAPES, is_shape

_ANY_VALUE: Final = re.compile(rb":[=*]")


def glob_of(shape: bytes) -> bytes:
    """Return a glob that matches each publication that matches a subscription of a shape, and may match others."""
    filters = shape.split(b"|")
    if b"*:*" not in filters:
        return _ANY_VALUE.sub(b":*", shape)
    keys = [filter_.partition(b":")[0] for filter_ in filters if filter_ != b"*:*"]
    return b"*" + b"".join([b"%b:*" % key for key in keys]) if keys else b"*:*"


class Globs:
    """What one connection listens for.

    Attributes:
        members: of the registry, in the order in which they came; those that are no shapes have no glob.
    """

    def __init__(self) -> None:
        self.members: dict[bytes, None] = {}
        self._shapes: dict[bytes, tuple[bytes, ...]] = {}  # by glob

    def shapes_of(self, glob: bytes) -> tuple[bytes, ...]:
        """Return the shapes that a glob stands for."""
        return self._shapes.get(glob, ())

    def add(self, member: bytes) -> bytes | None:
        """Add a member of the registry, up to `MOST_SHAPES`; return the glob to subscribe to, if it needs another."""
        if member in self.members or len(self.members) >= MOST_SHAPES:
            return None
        self.members[member] = None
        if not is_shape(member):
            return None
        glob = glob_of(member)
        before = self._shapes.get(glob, ())
        self._shapes[glob] = (*before, member)
        return None if before else glob

    def remove(self, member: bytes) -> bytes | None:
        """Remove a member; return the glob to unsubscribe from, if it stands for no other shape."""
        self.members.pop(member, None)
        glob = glob_of(member)
        before = self._shapes.get(glob, ())
        if member not in before:
            return None
        left = tuple(other for other in before if other != member)
        if left:
            self._shapes[glob] = left
            return None
        del self._shapes[glob]
        return glob

    def clear(self) -> None:
        """Forget everything."""
        self.members.clear()
        self._shapes.clear()
