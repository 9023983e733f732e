"""The address of a cluster: some of its machines, and what its URL says of all of them."""

from __future__ import annotations

from typing import Final, TypeAlias

from realizehit.broker.hosts import hosts_of
from realizehit.broker.url import Address, redacted
from realizehit.errors import SettingsError

SCHEMES: Final = ("redis+cluster", "rediss+cluster")
PORT: Final = 6379  # of a machine whose address has none

Place: TypeAlias = tuple[str, int]
"""Host and port of a machine."""

_MOST_NODES: Final = 4096  # addresses that are kept; a cluster has at most about a thousand machines


def place_text(place: Place) -> str:
    """Return a place as text, such as ``10.0.0.1:6379``."""
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class ClusterAddress:
    """A cluster, ``redis+cluster://user:password@h1:7000,h2:7001,[::1]:7002?options``.

    The URL names some machines of the cluster, which tell of the others. User, password and options are for all of
    them; the options are those of `Address`. With ``rediss+cluster://`` all of them speak TLS.

    Raises:
        SettingsError: the URL cannot be used; the text names what is wrong and never a password.

    Attributes:
        seeds: the machines that the URL names.
    """

    def __init__(self, url: str) -> None:
        self._shown = redacted(url)
        scheme, _, rest = url.partition("://")
        if scheme not in SCHEMES:
            raise SettingsError(f"broker URL {self._shown}: use one of {', '.join(f'{name}://' for name in SCHEMES)}")
        rest, mark, query = rest.partition("?")
        login, at, rest = rest.rpartition("@")
        hosts, _, database = rest.partition("/")
        if database not in ("", "0"):
            raise SettingsError(f"broker URL {self._shown}: a cluster has no database but 0")
        # Its host is not used: each machine has an address of its own.
        self._base = Address(f"{scheme.partition('+')[0]}://{login}{at}cluster/0{mark}{query}", shown=self._shown)
        if self._base.database:
            raise SettingsError(f"broker URL {self._shown}: a cluster has no database but 0")
        self.seeds: Final[list[Place]] = hosts_of(hosts, self._shown, port=PORT, of="a machine of a cluster")
        self._nodes: dict[Place, Address] = {}

    def __str__(self) -> str:
        return self._shown

    def node(self, host: str, port: int) -> Address:
        """Return the address of one machine, with the login and the options of the URL."""
        node = self._nodes.get((host, port))
        if node is None:
            if len(self._nodes) >= _MOST_NODES:
                self._nodes.clear()
            node = self._nodes[host, port] = self._base.at(host, port)
        return node

    def login(self) -> list[str]:
        """Return the arguments of AUTH, empty if the URL has no credentials."""
        return self._base.login()

    def scrub(self, text: str) -> str:
        """Return a text without the passwords of this address; see `Address.scrub`."""
        return self._base.scrub(text)
