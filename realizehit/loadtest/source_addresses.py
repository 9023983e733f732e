"""The addresses that a load test connects from, so many that the kernel need not search for a free port.

A connection's source port must be free for its pair of addresses. The kernel tries one port after the other, so the
more of them are taken, the longer `connect` takes: near the end a core does nothing else.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import replace
from pathlib import Path
from typing import Final

from realizehit.errors import SettingsError
from realizehit.loadtest.target import Target

SHARE: Final = 4  # a source address is planned for one of so many parts of its ports
CROWDED: Final = 0.5  # from this share of its ports on, the search for a free one takes noticeable time

_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL: Final = 28_232  # ports of a Linux that nobody has changed


def ports() -> int:
    """Return how many ports an address of this machine has for connections to one server."""
    try:
        first, last = map(int, _RANGE.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return _USUAL
    return last - first + 1


def used_share(target: Target, connections: int) -> float:
    """Return the share of its ports that each source address uses for a number of connections."""
    return connections / (ports() * max(1, len(target.sources)))


def with_sources(target: Target, connections: int, given: tuple[str, ...] = ()) -> Target:
    """Choose source addresses: the given ones, or several loopback addresses if a quarter of one's ports is too few.

    Raises:
        SettingsError: a given address is not one of this machine, or of another IP version than the server's.
    """
    for address in given:
        _check(address, target.ws.host)
    if given:
        return replace(target, sources=given)
    each = max(1, ports() // SHARE)
    if connections > each and target.ws.host.startswith("127."):
        count = -(-connections // each)
        return replace(target, sources=tuple(f"127.0.{n // 250}.{n % 250 + 1}" for n in range(1, count + 1)))
    return target


def _check(address: str, host: str) -> None:
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        raise SettingsError(f"--source-address {address!r} is not a numeric IP address") from None
    if version != ipaddress.ip_address(host.partition("%")[0]).version:
        raise SettingsError(f"--source-address {address}: the server is at {host}, an address of the other version")
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            raise SettingsError(f"--source-address {address} cannot be used: {error.strerror}") from None
