"""Where a server listens: bound sockets, its certificate, and the addresses that it is then reached at."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import stat
from collections.abc import Generator
from pathlib import Path

from realizehit.causes import reason_of
from realizehit.errors import SettingsError
from realizehit.settings import Settings


def bind(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """Return a bound socket that does not listen yet.

    Raises:
        SettingsError: the address cannot be had; the text says why.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}:{port}: {reason_of(error)}") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return sock


@contextlib.contextmanager
def unix_socket(path: str | None) -> Generator[socket.socket | None]:
    """Hold a bound Unix socket that does not listen yet, for the owner and the group; its file is gone in the end.

    A file that a killed server left is replaced; one that somebody listens on is not.

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
            _make_room(path)
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
    """Remove a socket that nobody listens on."""
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(0, "there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
    raise FileExistsError(0, "somebody listens there")


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
