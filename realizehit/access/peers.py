"""Where a connection comes from: an address, or a Unix socket of this machine."""

from __future__ import annotations

from asyncio import BaseTransport
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from socket import AF_UNIX
from typing import Any, Final

from realizehit.access.recent import Recent
from realizehit.errors import SettingsError

UNIX: Final = "unix"
"""The peer of a connection over a Unix socket."""

UNKNOWN: Final = ""
"""The peer of a connection whose address is unknown; it is neither local nor trusted.

A TCP connection that was already reset has no peer name any more, but what it sent can still be read.
"""

_LONGEST: Final = 100  # characters of an address, with the name of an interface
_DECIDED: Final = 4096  # addresses that a set of networks remembers
_PAIRS: Final = (tuple, list)
_USUAL_LOOPBACK: Final = frozenset(("127.0.0.1", "::1", UNIX))


def peer_of(address: Any) -> str:
    """Return the host of an address of a socket or an ASGI scope; `UNKNOWN` if there is none."""
    return str(address[0]) if address and isinstance(address, _PAIRS) else UNKNOWN


def peer_of_transport(transport: BaseTransport) -> str:
    """Return where a connection comes from: the host of its peer, or `UNIX`."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family == AF_UNIX:
        return UNIX
    return peer_of(transport.get_extra_info("peername"))


def _address(host: str) -> IPv4Address | IPv6Address | None:
    return _short_address(host) if len(host) <= _LONGEST else None  # so that the cache is bounded in bytes


@lru_cache(maxsize=4096)
def _short_address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host.partition("%")[0])  # a link-local address names its interface
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(peer: str) -> bool:
    """Whether a peer is on this machine: a loopback address or a Unix socket."""
    if peer in _USUAL_LOOPBACK:
        return True
    address = _address(peer)
    return address is not None and address.is_loopback


class Networks:
    """A set of networks, possibly with Unix sockets.

    Args:
        texts: CIDRs, single addresses, or ``unix``.

    Raises:
        SettingsError: a text is neither a network nor `unix`.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        self._unix = False
        self._decided: Recent[str, bool] = Recent(_DECIDED)
        for text in texts:
            if text == UNIX:
                self._unix = True
                continue
            try:
                self._networks.append(ip_network(text))
            except ValueError as error:
                shown = f"{text!r} is neither a network such as 10.0.0.0/8 nor unix"
                raise SettingsError(f"--trusted-proxies: {shown}: {error}") from None

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)

    def __contains__(self, peer: str) -> bool:
        if not self._networks:
            return self._unix and peer == UNIX
        decided = self._decided.get(peer)
        if decided is None:
            decided = self._has(peer)
            if len(peer) <= _LONGEST:
                self._decided.put(peer, decided)
        return decided

    def _has(self, peer: str) -> bool:
        if peer == UNIX:
            return self._unix
        address = _address(peer)
        return address is not None and any(address in network for network in self._networks)
