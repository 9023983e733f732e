"""The broker that a load test publishes to directly."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from typing import Any, Final

import hiredis
from redis.connection import parse_url

from realizehit.broker.url import redacted
from realizehit.common.causes import reason_of
from realizehit.errors import LoadTestError, SettingsError

BROKER_TIMEOUT: Final = 10.0  # seconds to connect and to log in


@dataclass(frozen=True, slots=True)
class Broker:
    """A Redis or Valkey to publish to: a Unix socket's path, or host and port, and the login."""

    shown: str
    path: str | None = None
    host: str = ""
    port: int = 0
    login: tuple[str, ...] = ()

    @classmethod
    def parse(cls, url: str) -> Broker:
        """Read a broker's URL.

        Raises:
            SettingsError: the URL cannot be used; the text never shows the password.
        """
        shown = redacted(url)
        try:
            options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
        except ValueError:
            raise SettingsError(f"--redis {shown} is not a valid redis:// or unix:// URL") from None
        if url.startswith("rediss:"):
            raise SettingsError(f"--redis {shown}: the load test does not speak TLS; publish with --publish api")
        name, password = options.get("username"), options.get("password")
        login = (name, password or "") if name else (password,) if password else ()
        if "path" in options:
            return cls(shown, path=options["path"], login=login)
        return cls(shown, host=options.get("host", "localhost"), port=options.get("port", 6379), login=login)

    def connect(self) -> int:
        """Connect and log in; return the descriptor, which the caller closes.

        Raises:
            LoadTestError: the broker cannot be reached, or refuses the login.
        """
        try:
            with contextlib.ExitStack() as stack:
                if self.path is not None:
                    connection = stack.enter_context(socket.socket(socket.AF_UNIX))
                    connection.settimeout(BROKER_TIMEOUT)
                    connection.connect(self.path)
                else:
                    connection = stack.enter_context(
                        socket.create_connection((self.host, self.port), timeout=BROKER_TIMEOUT)
                    )
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self.login:
                    self._log_in(connection)
                connection.setblocking(False)
                return connection.detach()
        except OSError as error:
            raise LoadTestError(f"broker {self.shown} cannot be reached: {reason_of(error)}") from error

    def _log_in(self, connection: socket.socket) -> None:
        connection.sendall(hiredis.pack_command(("AUTH", *self.login)))  # type: ignore[arg-type]
        reader = hiredis.Reader()
        while (reply := reader.gets()) is False:
            data = connection.recv(4096)
            if not data:
                raise LoadTestError(f"broker {self.shown} ended the connection at the login")
            reader.feed(data)
        if isinstance(reply, hiredis.ReplyError):
            raise LoadTestError(f"broker {self.shown} refuses the login: {str(reply).partition(' ')[0]}")
