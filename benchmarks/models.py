"""The parts of the engine in plain Python: short, correct, and as fast as Python allows."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from urllib.parse import quote


def text_of(value: object) -> str:
    """Write a filter's value as text (``docs/patterns.md``); floats only as ``repr`` writes them."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value if -(2**63) <= value < 2**64 else int(float(value)))
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    raise ValueError(f"{value!r} cannot be the value of a filter")


_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]+").fullmatch


def encoded(text: str) -> str:
    """Percent-encode a text; most texts do not need it."""
    return text if _UNRESERVED(text) else quote(text, safe="-._~")


def canonical(filters: Mapping[str, object]) -> bytes:
    """Turn filters into their channel."""
    if not 1 <= len(filters) <= 16:
        raise ValueError(f"a pattern has 1 to 16 filters, not {len(filters)}")
    parts = []
    for key, value in filters.items():
        if not isinstance(key, str):
            raise TypeError(f"{key!r} cannot be the key of a filter")
        if key == "*" or value == "*":
            raise ValueError("this model has no wildcards")
        left, right = encoded(key), encoded(text_of(value))
        if not left or not right:
            raise ValueError(f"{key!r} or its value is empty")
        if len(left) > 64 or len(right) > 256:
            raise ValueError(f"{key!r} or its value is too long")
        parts.append((left, right))
    parts.sort()
    channel = "|".join([f"{left}:{right}" for left, right in parts]).encode()
    if len(channel) > 1024:
        raise ValueError("the pattern is too long")
    return channel


def channel_id(channel: bytes) -> str:
    """Return the id of a channel."""
    return hashlib.md5(channel, usedforsecurity=False).hexdigest()[:8]


def text_frame(payload: bytes) -> bytes:
    """Build an unmasked text frame."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


class Registry:
    """Channels to subscribers and back, as a dict of sets each way; messages wait in a list per subscriber."""

    def __init__(self) -> None:
        self.channels: dict[bytes, set[int]] = {}
        self.subscriptions: dict[int, dict[str, bytes]] = {}
        self.queues: dict[int, list[bytes]] = {}

    def add(self, handle: int) -> None:
        self.subscriptions[handle] = {}
        self.queues[handle] = []

    def subscribe(self, handle: int, channel: bytes) -> bool:
        own = self.subscriptions[handle]
        number = channel_id(channel)
        if number in own:
            return False
        own[number] = channel
        self.channels.setdefault(channel, set()).add(handle)
        return True

    def unsubscribe(self, handle: int, channel: bytes) -> bool:
        if self.subscriptions[handle].pop(channel_id(channel), None) is None:
            return False
        subscribers = self.channels[channel]
        subscribers.discard(handle)
        if not subscribers:
            del self.channels[channel]
        return True

    def dispatch(self, channel: bytes, payload: bytes) -> int:
        """Queue a publication for its subscribers; return how many there are."""
        subscribers = self.channels.get(channel)
        if not subscribers:
            return 0
        payload.decode()
        frame = text_frame(channel_id(channel).encode() + b"?" + payload)
        queues = self.queues
        for handle in subscribers:
            queues[handle].append(frame)
        return len(subscribers)


def parse_action(text: bytes) -> tuple[str | int | None, str, object]:
    """Read an action with the standard library's JSON."""
    message = json.loads(text)
    if not isinstance(message, dict):
        raise TypeError("an action is an object")
    request_id, act = message.get("id"), message.get("act")
    if isinstance(request_id, bool) or not isinstance(request_id, str | int | None):
        raise TypeError("bad id")
    if isinstance(request_id, str) and len(request_id) > 128:
        raise ValueError("bad id")
    if not isinstance(act, str):
        raise TypeError("bad act")
    return request_id, act, message.get("pat")
