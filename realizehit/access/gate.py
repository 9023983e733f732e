"""The gate: the one place that decides whether a connection, subscription or publication is allowed.

It joins the parts, each of which decides one question, and reloads the files that they share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from realizehit.access.client_gate import ClientGate
from realizehit.access.connected_clients import ConnectedClients
from realizehit.access.identity import IdentityHeaders
from realizehit.access.limits import AddressLimit
from realizehit.access.page_gate import PageGate
from realizehit.access.policy import CurrentPolicy, header_names
from realizehit.access.publisher_gate import PublisherGate
from realizehit.access.refusals import Refusals
from realizehit.access.shared_limits import SharedLimits
from realizehit.settings import Settings


class Gate:
    """Decides about connections, subscriptions and publications.

    Args:
        settings: the configuration.
        clock: seconds of a monotonic clock.
        connected: returns how many clients are connected to this process.
        shared: counts together with other workers; ``None`` where this process is the only one.

    Attributes:
        pages: which web pages may use the server.
        clients: which clients are let in.
        connected: who the connected clients are, and what they may subscribe to.
        publishers: who may publish.
        refusals: counts and logs what is refused.

    Raises:
        SettingsError: the configuration cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float],
        connected: Callable[[], int] = int,
        shared: SharedLimits | None = None,
    ) -> None:
        self._shared = shared
        self._own_connected = connected
        if shared is not None:
            connected = self._connected_to_all
        policy = CurrentPolicy(settings)
        self._policy = policy
        refusals = Refusals(clock)
        self.refusals: Final = refusals
        pages = PageGate(settings, refusals)
        self.pages: Final = pages
        headers = IdentityHeaders(header_names(settings)) if settings.identify else None
        others = None if shared is None else shared.addresses
        addresses = AddressLimit(settings.max_per_address, others) if settings.max_per_address else None
        self.clients: Final = ClientGate(
            settings,
            policy,
            pages,
            refusals,
            clock=clock,
            connected=connected,
            headers=headers,
            addresses=addresses,
            shared=shared is not None,
        )
        self.connected: Final = ConnectedClients(
            policy,
            refusals,
            clock=clock,
            addresses=addresses,
            header_keys=() if headers is None else headers.keys,
            expiry_warning=settings.expiry_warning,
            figures=settings.console,
        )
        self.publishers: Final = PublisherGate(
            policy, pages, refusals, insecure=settings.insecure_publish, clock=clock, shared=shared
        )

    def reload(self) -> None:
        """Read the files of grants, keys and tokens again; connections and their identities stay.

        Raises:
            SettingsError: a file is wrong, and nothing changes.
        """
        self._policy.reload()

    def tick(self) -> None:
        """Log refusals that were only counted so far, and share the counts; to be called regularly."""
        self.refusals.tick()
        if self._shared is not None:
            self._shared.tell(self._own_connected())

    def _connected_to_all(self) -> int:
        return self._shared.connected(self._own_connected()) if self._shared is not None else 0
