"""From a URL to a bus."""

from __future__ import annotations

from realizehit.broker.base import Bus
from realizehit.broker.cluster.address import SCHEMES as CLUSTER_SCHEMES
from realizehit.broker.cluster.bus import ClusterBus
from realizehit.broker.idempotency import WINDOW
from realizehit.broker.link_settings import LinkSettings
from realizehit.broker.memory import MemoryBus
from realizehit.broker.redis import RedisBus
from realizehit.broker.sentinel import SCHEMES as SENTINEL_SCHEMES
from realizehit.broker.url import SCHEMES, redacted
from realizehit.errors import SettingsError

__all__ = ["open_bus", "redacted"]


def open_bus(
    url: str,
    *,
    subscribe_url: str | None = None,
    publish_timeout: float = 5.0,
    client_name: str = "realizehit",
    link: LinkSettings | None = None,
    project: bool = True,
    max_shapes: int | None = None,
    bridge: bool = False,
    idempotency_window: float = WINDOW,
    follow_rules: bool = True,
) -> Bus:
    """Make the bus for a broker's URL. Nothing is connected before its ``start``.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://`` of a Redis or Valkey, ``redis+sentinel://`` or
            ``rediss+sentinel://`` where sentinels look after it, ``redis+cluster://`` or ``rediss+cluster://`` for a
            cluster, or ``memory://`` with an optional name.
        subscribe_url: where to subscribe, when that is another place than the broker itself, such as a relay.
        publish_timeout: seconds until a publish fails.
        client_name: how the subscriber connection is called in the broker's ``CLIENT LIST``.
        link: times of the subscriber connection.
        project: whether what is published through this bus reaches wildcard subscriptions too. The broker's user needs
            further rights for that, see docs/access.md.
        max_shapes: how many shapes of wildcard subscriptions the broker's registry may hold; ``None`` for a bus that
            registers none.
        bridge: whether this process becomes the bridge of its deployment if no other one is. Not for ``memory://``
            and clusters.
        idempotency_window: seconds for which idempotency keys are remembered.
        follow_rules: whether to know the rules of history while nothing is published.

    Raises:
        SettingsError: the URL cannot be used; the text never holds a password.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "memory":
        return MemoryBus(rest, project=project, max_shapes=max_shapes, idempotency_window=idempotency_window)
    if separator and scheme in SCHEMES + SENTINEL_SCHEMES:
        return RedisBus(
            url,
            subscribe_url=subscribe_url,
            publish_timeout=publish_timeout,
            client_name=client_name,
            link=link,
            project=project,
            max_shapes=max_shapes,
            bridge=bridge,
            idempotency_window=idempotency_window,
            follow_rules=follow_rules,
        )
    if separator and scheme in CLUSTER_SCHEMES:
        if bridge:
            raise SettingsError(
                f"broker URL {redacted(url)}: there is no bridge (--bridge) in a cluster, since nobody can "
                "subscribe to patterns of channels there"
            )
        return ClusterBus(
            url,
            subscribe_url=subscribe_url,
            publish_timeout=publish_timeout,
            client_name=client_name,
            link=link,
            project=project,
            max_shapes=max_shapes,
            idempotency_window=idempotency_window,
            follow_rules=follow_rules,
        )
    known = ", ".join(f"{name}://" for name in ("memory", *SCHEMES, *SENTINEL_SCHEMES, *CLUSTER_SCHEMES))
    raise SettingsError(f"broker URL {redacted(url)!r}: unknown scheme; use one of {known}")
