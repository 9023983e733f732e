"""Where ``realizehit publish`` sends messages: an API server or a broker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from realizehit.cli.endpoints import api_endpoint
from realizehit.cli.tls import tls_context

if TYPE_CHECKING:
    from realizehit.client.api import APIClient
    from realizehit.client.publisher import Publisher


class Target(NamedTuple):
    """Where to publish: at the broker if ``redis`` is given, otherwise at the API server."""

    url: str
    redis: str | None
    timeout: float
    key: str | None = None
    ca: Path | None = None
    insecure: bool = False
    wildcards: bool = True

    def open(self) -> APIClient | Publisher:
        """Make the client; it connects when it is used.

        Raises:
            SettingsError: the address cannot be used.
        """
        if self.redis is not None:
            from realizehit.client.publisher import Publisher

            return Publisher(self.redis, timeout=self.timeout, wildcards=self.wildcards)
        from realizehit.client.api import APIClient

        url = api_endpoint(self.url)
        context = tls_context(url, self.ca, self.insecure)
        options: dict[str, Any] = {} if context is None else {"verify": context}
        return APIClient(url, timeout=self.timeout, key=self.key, **options)
