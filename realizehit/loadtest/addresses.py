"""URLs of servers to measure: checked, and their names looked up once for all connections."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from realizehit.common.masking import masked
from realizehit.errors import SettingsError

ADDRESS_TIMEOUT: Final = 3.0  # seconds for one of a name's addresses to answer


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server.

    Attributes:
        host: numeric address.
        port: TCP port.
        path: of the URL.
        authority: host and port as written in the URL.
    """

    host: str
    port: int
    path: str
    authority: str


def address_of(option: str, url: str, scheme: str, path: str) -> Address:
    """Look up the address of a URL.

    Args:
        option: the command's option, for errors.
        url: what the user wrote.
        scheme: the scheme that it must have.
        path: the path if the URL has none.

    Raises:
        SettingsError: the URL cannot be used, or its host has no address.
    """
    parts = _split(option, url)
    if parts.scheme == scheme + "s":
        raise SettingsError(f"{option} {masked(url)}: the load test does not speak TLS; give the address behind it")
    if parts.scheme != scheme:
        raise SettingsError(f"{option} {masked(url)} does not begin with {scheme}://")
    assert parts.hostname is not None
    port = parts.port or 80
    try:
        host = _address(parts.hostname, port)
    except OSError as error:
        raise SettingsError(f"{option} {masked(url)}: {parts.hostname} has no address: {error.strerror}") from None
    target = (parts.path or path) + (f"?{parts.query}" if parts.query else "")
    return Address(host, port, target, parts.netloc.rpartition("@")[2])


def _address(name: str, port: int) -> str:
    """Look up a name; of several addresses take the first that answers (localhost is ``::1`` and ``127.0.0.1``)."""
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    for family, kind, proto, _, address in found if len(found) > 1 else []:
        with contextlib.suppress(OSError), socket.socket(family, kind, proto) as probe:
            probe.settimeout(ADDRESS_TIMEOUT)
            probe.connect(address)
            return str(address[0])
    return str(found[0][4][0])  # none answers; the load test will report how


def _split(option: str, url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise SettingsError(f"{option} {masked(url)}: the host or the port cannot be read") from None
    if not parts.hostname or any(character <= " " for character in url):
        raise SettingsError(f"{option} {masked(url)}: it has no host, or contains a blank")
    return parts
