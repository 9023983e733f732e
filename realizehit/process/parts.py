"""A node's engine and bus, as its settings want them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from realizehit import _fanout
from realizehit.access.limits import STRIKES
from realizehit.broker.base import Bus
from realizehit.broker.link_settings import LinkSettings
from realizehit.broker.open import open_bus
from realizehit.common.seldom import REMINDER
from realizehit.process.drain import CLOSE_TIMEOUT
from realizehit.settings import Settings

STALL: Final = 5.0  # seconds without a byte taken, after which a client over its limits is closed
BURSTS: Final = 16  # batches that may wait while clients are over their limits; of all clients together
RELAY_BACKOFF: Final = 0.5  # seconds between attempts to reach the relay, at most


def make_engine(
    settings: Settings, loop: asyncio.AbstractEventLoop, on_error: Callable[[Exception], None], *, epoll: bool
) -> _fanout.Engine:
    """Make the engine.

    Args:
        settings: its bounds and times.
        loop: the node's.
        on_error: told of callbacks that fail.
        epoll: whether it owns the sockets of clients.
    """
    return _fanout.Engine(
        loop.call_soon,
        on_error,
        max_queue_bytes=settings.max_queue_bytes,
        max_queue_messages=settings.max_queue_messages,
        grace=settings.slow_grace,
        stall=STALL,
        # What one request publishes fits behind what may wait already, also where a transport's framing is longer.
        burst_bytes=settings.max_queue_bytes + 2 * settings.max_batch_bytes,
        burst_messages=settings.max_queue_messages + settings.max_batch_messages,
        burst_total=BURSTS * settings.max_batch_bytes,
        max_message=settings.max_message_bytes,
        input_rate=settings.max_actions,
        input_burst=2 * settings.max_subscriptions,  # a client that reconnects subscribes to everything at once
        input_strikes=STRIKES,
        heartbeat_interval=settings.heartbeat_interval,
        heartbeat_timeout=settings.heartbeat_timeout,
        close_timeout=CLOSE_TIMEOUT,
        head_timeout=settings.handshake_timeout,
        max_head=settings.max_head_bytes,
        ring_bytes=settings.history_memory,
        loop_fd=_waits_on(loop),
        epoll=epoll,
    )


def make_bus(settings: Settings, broker_url: str, relay_url: str | None) -> Bus:
    """Make the bus.

    Args:
        settings: what it publishes and registers.
        broker_url: the broker.
        relay_url: where to subscribe instead; ``None`` to subscribe at the broker.

    Raises:
        SettingsError: the URL cannot be used.
    """
    return open_bus(
        broker_url,
        subscribe_url=relay_url,
        publish_timeout=settings.publish_timeout,
        idempotency_window=settings.idempotency_window,
        # A server without an API publishes nothing but its figures, which match no wildcard.
        project=settings.wildcards and settings.role != "ws",
        bridge=settings.bridge,
        max_shapes=settings.max_shapes if settings.wildcards else None,
        # A relay is a neighbour: there is no crowd to be gentle with when it takes workers again. What it tells of
        # the broker is not told by each of the workers too.
        link=LinkSettings(backoff_most=RELAY_BACKOFF, quiet_for=REMINDER) if relay_url else None,
    )


def make_fleet_bus(broker_url: str) -> Bus:
    """Make the bus that receives the questions of other processes of the deployment."""
    return open_bus(
        broker_url,
        client_name="realizehit-fleet",
        project=False,
        follow_rules=False,
        link=LinkSettings(quiet_for=REMINDER),  # that the broker is away is told by the node's own link
    )


def _waits_on(loop: asyncio.AbstractEventLoop) -> int:
    """Return the descriptor that uvloop waits on, which shows whether anything waits for it; -1 for other loops."""
    backend = getattr(loop, "_get_backend_id", None)
    return -1 if backend is None else int(backend())
