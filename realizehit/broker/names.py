"""What realizehit's own keys and channels are called at a broker, and the command that publishes there.

In a cluster the keys that one script touches must be in one slot, and channels are published by ``SPUBLISH`` to the
machine that has the slot of their name. So the registry of shapes, the rules and the channel of announcements have one
hash tag there.
"""

from __future__ import annotations

from typing import Final

import msgspec


class Names(msgspec.Struct, frozen=True):
    """The names for one kind of broker.

    Attributes:
        shapes: the sorted set of shapes. See `realizehit.broker.shapes.registry` for this and the next three.
        bridge: a hash about the bridge.
        bridged: the set of shapes that the bridge listens for.
        registrations: the hash that has since when each shape is registered.
        rules: the rules of history.
        control: the channel of announcements.
        sharded: whether the broker is a cluster, where channels have slots.
    """

    shapes: str
    bridge: str
    bridged: str
    registrations: str
    rules: str
    control: bytes
    sharded: bool = False

    def script(self, text: str) -> str:
        """Return a script that was written for a single broker, as this kind of broker runs it."""
        return text.replace("'PUBLISH'", "'SPUBLISH'") if self.sharded else text


def _names(prefix: str, *, sharded: bool) -> Names:
    return Names(
        shapes=f"{prefix}:shapes",
        bridge=f"{prefix}:bridge",
        bridged=f"{prefix}:bridged",
        registrations=f"{prefix}:log:shapes",
        rules=f"{prefix}:history",
        control=f"{prefix}:control".encode(),
        sharded=sharded,
    )


SINGLE: Final = _names("realizehit", sharded=False)
"""For one Redis or Valkey."""

CLUSTER: Final = _names("{realizehit}", sharded=True)
"""For a cluster."""


CLOSING_BRACE: Final = ord("}")
"""A number, since that is found in bytes in a third of the time that a text takes."""


def key_of_channel(prefix: bytes, channel: bytes, rest: bytes = b"") -> bytes:
    """Return the name of a key that has the slot of a channel: the channel is its hash tag.

    A channel with a hash tag of its own gives its tag to the name. Channels of patterns have no braces. A channel with
    ``}`` and without a tag has a slot that no other name can have for sure; a cluster refuses a script for it.
    """
    if CLOSING_BRACE in channel:
        start = channel.find(b"{")
        if start >= 0 and channel.find(b"}", start + 1) > start + 1:
            return b"%b:%b%b" % (prefix, channel, rest)
    return b"%b{%b}%b" % (prefix, channel, rest)
