"""Private directories for sockets: each owner has one, closed to other users, cleared away when the owner is gone.

Each owner holds a lock on its directory for as long as it lives. The kernel drops the lock with the process, however
that ended. So a directory whose lock is free has lost its owner, and the next process to come clears it away. The lock
is on the directory itself, which also keeps systemd-tmpfiles from ageing its contents away under a long-lived server.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from realizehit.broker.guardian import SOCKET, kill_valkey
from realizehit.errors import EmbeddedUnavailable

logger: Final = logging.getLogger(__name__)

MAX_SOCKET_PATH: Final = 103  # bytes; macOS has room for 104 with the closing NUL, Linux for 108
PIDFILE: Final = "v.pid"
CLEAR_TIMEOUT: Final = 2.0  # seconds for a leftover Valkey to shut down
LOCK_TIMEOUT: Final = 15.0  # seconds to wait for other processes that start or clear at the same moment

_ROOM: Final = len("/" + "tmpabcdefgh" + "/relay.sock")  # bytes behind the base directory's name, at most
_SHUTDOWN: Final = b"*2\r\n$8\r\nSHUTDOWN\r\n$6\r\nNOSAVE\r\n"


@contextlib.contextmanager
def private_directory(base: Path | None = None) -> Iterator[Path]:
    """Have a directory that only this user can enter, and that is cleared away also if this process is killed.

    Args:
        base: where it goes; by default ``realizehit-<uid>`` in the system's temporary directory, or in ``/tmp`` where
            the path of that is too long for sockets.

    Raises:
        EmbeddedUnavailable: the base directory is not this user's own, or cannot be had.
    """
    base = base or _default_base()
    _claim_base(base)
    with _locked(base / "lock"):
        _clear_leftovers(base)
        directory = Path(tempfile.mkdtemp(dir=base))
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def _default_base() -> Path:
    """Return the base in the system's temporary directory; in /tmp where sockets there would have too long a path."""
    name = f"realizehit-{os.geteuid()}"
    try:
        base = Path(tempfile.gettempdir()) / name
    except OSError:  # it tries to write in each place that it knows
        raise EmbeddedUnavailable("there is no directory for temporary files: set TMPDIR to one of your own") from None
    return base if len(os.fsencode(base)) + _ROOM <= MAX_SOCKET_PATH else Path("/tmp") / name  # noqa: S108 - see _claim_base


def _claim_base(base: Path) -> None:
    """Make the base directory, or check that no other user can write to it."""
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = base.lstat()
    except OSError as error:
        raise EmbeddedUnavailable(f"{base} cannot be made: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise EmbeddedUnavailable(f"{base} is not a directory: remove it, or set TMPDIR")
    if found.st_uid != os.geteuid():
        raise EmbeddedUnavailable(f"{base} belongs to user {found.st_uid}: set TMPDIR to a directory of your own")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise EmbeddedUnavailable(f"{base} is open to other users: chmod 700 it, or set TMPDIR")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of the base directory, so that a new directory is not taken for a leftover."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while not _try_lock(lock):
            if time.monotonic() > deadline:
                raise EmbeddedUnavailable(f"{path} has been locked by another process for {LOCK_TIMEOUT:g} seconds")
            time.sleep(0.02)
        yield
    finally:
        os.close(lock)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear_leftovers(base: Path) -> None:
    """Stop and remove what owners left that were killed or crashed."""
    for directory in base.iterdir():
        try:
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # the lock file, or a directory whose owner is just removing it
        try:
            if _try_lock(lock):
                _shut_down(directory)
                shutil.rmtree(directory, ignore_errors=True)
        finally:
            os.close(lock)


def _shut_down(directory: Path) -> None:
    """End a leftover Valkey: kill it, or ask it to end where it is out of reach, and wait until it did."""
    if kill_valkey(str(directory)):
        return
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(CLEAR_TIMEOUT)
        try:
            connection.connect(str(directory / SOCKET))
        except OSError:
            return
        try:
            connection.sendall(_SHUTDOWN)
            answer = connection.recv(256)  # nothing but the end of the connection, where it obeys
        except ConnectionError:
            answer = b""
        except OSError as error:
            answer = str(error).encode()
        if answer:
            with contextlib.suppress(OSError):
                pid = (directory / PIDFILE).read_text(encoding="ascii").strip()
                logger.warning("a leftover Valkey, process %s, does not shut down: end it with kill -9", pid)
