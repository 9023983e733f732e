"""The two ends that a server's TLS is measured with: a client, and nginx to compare with."""

from __future__ import annotations

import select
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.system.place import cpu_clock, cpu_seconds, pin

TIMEOUT = 20.0  # seconds, for every wait

CONFIGURATION = """\
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {chain};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        return 204;
    }}
}}
"""


class Nginx:
    """An nginx of one process that ends TLS.

    Args:
        directory: for its files.
        core: where it is kept.
        chain, key: certificate chain and private key in PEM.

    Raises:
        RuntimeError: it is not installed, or does not start.
    """

    def __init__(self, directory: Path, core: int, chain: Path, key: Path) -> None:
        command = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        if command is None:
            raise RuntimeError("nginx is not installed, and there is nothing to compare with")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        directory.mkdir()
        configuration = directory / "nginx.conf"
        text = CONFIGURATION.format(directory=directory, port=self.port, chain=chain, key=key)
        configuration.write_text(text, encoding="utf-8")
        self._process = subprocess.Popen(
            [command, "-p", str(directory), "-c", str(configuration)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._wait()
            pin(core, self._process.pid)
            self._clock = cpu_clock(self._process.pid)
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError(f"nginx did not start; exit status {self._process.poll()}")

    @property
    def cpu(self) -> float:
        """CPU seconds used so far."""
        return cpu_seconds(self._clock)

    def close(self) -> None:
        """End it, and wait for its end."""
        self._process.terminate()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class TlsClient:
    """Makes connections to one port, one after the other, and ends each when its tickets have come."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._port = port
        self._context = context
        self._session: ssl.SSLSession | None = None

    def connect(self, count: int, *, resume: bool) -> None:
        """Make a number of handshakes.

        Args:
            count: how many.
            resume: whether to resume the session of the first connection ever, or to begin a new one each time.

        Raises:
            RuntimeError: a handshake was not of that kind.
        """
        if resume and self._session is None:
            self._session = self._handshake(None)
        for _ in range(count):
            self._handshake(self._session if resume else None)

    def _handshake(self, session: ssl.SSLSession | None) -> ssl.SSLSession:
        with (
            socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT) as plain,
            self._context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as sock,
        ):
            if sock.session_reused != (session is not None):
                raise RuntimeError(f"a handshake was {'' if session is None else 'not '}resumed")
            sock.setblocking(False)
            waiter = select.poll()
            waiter.register(sock, select.POLLIN)
            fresh = False
            while not fresh:  # the tickets come after the handshake
                if not waiter.poll(TIMEOUT * 1000):
                    raise RuntimeError(f"no session ticket came in {TIMEOUT:g} s")
                try:
                    if not sock.recv(1):
                        raise RuntimeError("the server closed the connection")
                except ssl.SSLWantReadError:
                    pass
                current = sock.session
                fresh = current is not None and current.has_ticket and (session is None or current != session)
            assert current is not None
            return current
