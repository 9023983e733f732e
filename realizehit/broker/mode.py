"""Whether a broker is a machine of a cluster, by its answer to ``HELLO``."""

from __future__ import annotations

from typing import Any

from realizehit.errors import BrokerRefused


def wrong_mode(mode: Any, *, sharded: bool) -> BrokerRefused | None:
    """Return the error if a broker is of the other kind than its URL says.

    Args:
        mode: the field ``mode`` of its answer; anything but ``cluster`` and ``standalone`` says nothing.
        sharded: whether the URL is that of a cluster.
    """
    if mode == b"cluster" and not sharded:
        return BrokerRefused("it is a machine of a cluster; use redis+cluster:// instead of redis://")
    if mode == b"standalone" and sharded:
        return BrokerRefused("it is no cluster; use redis:// instead of redis+cluster://")
    return None


def mode_of(greeting: Any) -> Any:
    """Return the field ``mode`` of an answer to ``HELLO``, in RESP2 or RESP3; None if it has none."""
    if isinstance(greeting, list):
        greeting = dict(zip(greeting[::2], greeting[1::2], strict=False))
    return greeting.get(b"mode") if isinstance(greeting, dict) else None
