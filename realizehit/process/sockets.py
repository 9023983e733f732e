"""Where a server listens: bound sockets, its certificate, and the addresses that it is then reached at."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import stat
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final

from realizehit.common.causes import reason_of
from realizehit.errors import SettingsError
from realizehit.settings import Settings

PATIENCE: Final = 3.0
"""Seconds that a server with workers waits for an address that is in use. Where the server before it was killed, that
one's workers leave at once, which takes a moment all the same."""

_TRIES: Final = 20  # of ports that the system chooses, until one is free at all addresses
_NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)  # such as ::1 without IPv6
_PAUSE: Final = 0.05  # seconds between two looks at an address that is in use


def bind(host: str, port: int, *, reuse_port: bool = False, patience: float = 0.0) -> socket.socket:
    """Return a socket that is bound to the first address of a host and does not listen yet.

    Args:
        host: a name or an address.
        port: 0 for one that is free.
        reuse_port: whether other processes listen there too.
        patience: seconds to wait while another process listens there.

    Raises:
        SettingsError: the address cannot be had; the text says why.
    """
    try:
        return _bind(addresses_of(host)[0], port, reuse_port=reuse_port, v6only=False, patience=patience)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}:{port}: {reason_of(error)}") from None


def bind_all(host: str, port: int, *, reuse_port: bool = False, patience: float = 0.0) -> list[socket.socket]:
    """Return sockets for all addresses of a host that this machine has, bound to one port; none listens yet.

    Raises:
        SettingsError: an address cannot be had, or this machine has none of them; the text says why.

    See `bind` for the arguments.
    """
    try:
        addresses = addresses_of(host)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}:{port}: {reason_of(error)}") from None
    for _ in range(_TRIES if port == 0 else 1):
        sockets: list[socket.socket] = []
        missing: OSError | None = None
        for address in addresses:
            number = sockets[0].getsockname()[1] if sockets else port
            try:
                v6only = len(addresses) > 1  # else "::" would take the port of 0.0.0.0 too
                sockets.append(_bind(address, number, reuse_port=reuse_port, v6only=v6only, patience=patience))
            except OSError as error:
                if error.errno in _NOT_HERE:
                    missing = error
                    continue
                for sock in sockets:
                    sock.close()
                if port == 0 and sockets and error.errno == errno.EADDRINUSE:
                    break  # the port that was free at one address is not so at another; the system knows more
                which = f" ({address})" if len(addresses) > 1 else ""
                raise SettingsError(f"cannot listen on {host}:{port}{which}: {error.strerror}") from None
        else:
            if not sockets:
                raise SettingsError(f"cannot listen on {host}:{port}: {missing.strerror if missing else 'no address'}")
            return sockets
    raise SettingsError(f"cannot listen on {host}: no port is free at all of {', '.join(addresses)}")


def addresses_of(host: str) -> list[str]:
    """Return the addresses of a name, each once; an address stands for itself.

    Raises:
        OSError: the name does not exist.
    """
    if host.lower().rstrip(".") == "localhost":
        # What browsers take it for, whatever the system's files say.
        return ["127.0.0.1", "::1"]
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def place_of(sock: socket.socket) -> str:
    """Return where a socket is bound, ``127.0.0.1:8080`` or ``[::1]:8080``."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(address: str, port: int, *, reuse_port: bool, v6only: bool, patience: float) -> socket.socket:
    family, kind, proto, _, place = socket.getaddrinfo(
        address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICHOST
    )[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if v6only and family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _until_free(lambda: sock.bind(place), patience)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _until_free(take: Callable[[], None], patience: float) -> None:
    """Take an address, and wait for it so many seconds while it is in use."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return take()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                raise
        time.sleep(_PAUSE)


@contextlib.contextmanager
def unix_socket(path: str | None, *, patience: float = 0.0) -> Generator[socket.socket | None]:
    """Hold a bound Unix socket that does not listen yet, for the owner and the group; its file is gone in the end.

    A file that a killed server left is replaced; one that a process listens on is not.

    Args:
        path: where it is.
        patience: seconds to wait while somebody else listens there.

    Yields:
        The socket; ``None`` without a path.

    Raises:
        SettingsError: the path cannot be had; the text says why.
    """
    if path is None:
        yield None
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            _until_free(lambda: _make_room(path), patience)
            before = os.umask(0o117)
            try:
                sock.bind(path)
            finally:
                os.umask(before)
        except OSError as error:  # also where the path is too long
            raise SettingsError(f"--unix-socket: cannot listen on {path}: {error.strerror or error}") from None
        sock.setblocking(False)
        own = Path(path).stat().st_ino
        try:
            yield sock
        finally:
            with contextlib.suppress(OSError):
                if Path(path).stat().st_ino == own:  # not another server's by now
                    Path(path).unlink()


def _make_room(path: str) -> None:
    """Remove a socket that no process listens on."""
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(0, "a file that is not a socket has this name")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
    raise OSError(errno.EADDRINUSE, "somebody listens there")


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Load a server's certificate, where it has one; versions of TLS before 1.2 are not spoken.

    Raises:
        SettingsError: the certificate or its key is missing or cannot be used.
    """
    if not settings.uses_tls:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise SettingsError("--tls-cert and --tls-key go together; one of them is missing")
    for option, path in (("--tls-cert", settings.tls_cert), ("--tls-key", settings.tls_key)):
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise SettingsError(f"{option}: {path} cannot be read: {error.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except OSError as error:  # an SSLError is one too
        texts = {
            "KEY_VALUES_MISMATCH": f"the key in {settings.tls_key} is not that of the certificate",
            "PEM_LIB": f"there is no certificate in PEM in {settings.tls_cert}, or no key in {settings.tls_key}",
        }
        reason = getattr(error, "reason", None) or ("PEM_LIB" if "PEM lib" in str(error) else "")
        text = texts.get(reason, str(error))
        raise SettingsError(f"--tls-cert, --tls-key: the certificate cannot be used: {text}") from None
    return context


def ws_url(settings: Settings, port: int) -> str:
    """Return the address for WebSocket clients of a server that listens on that port."""
    return f"{'wss' if settings.uses_tls else 'ws'}://{_in_url(settings.host)}:{port}/ws"


def api_url(settings: Settings, port: int) -> str:
    """Return the address for publishers of a server that listens on that port."""
    return f"{'https' if settings.uses_tls else 'http'}://{_in_url(settings.host)}:{port}{settings.prefix}"


def reachable(host: str) -> str:
    """Return the host at which a server that listens on ``host`` is reached from this machine."""
    return "127.0.0.1" if host in ("", "0.0.0.0", "::") else host  # noqa: S104 - compared, not bound


def _in_url(host: str) -> str:
    host = reachable(host)
    return f"[{host}]" if ":" in host else host
