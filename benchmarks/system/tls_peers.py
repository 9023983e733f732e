"""The two ends that a server's TLS is measured with: a client, and nginx to compare with."""

from __future__ import annotations

import contextlib
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
UNDER_WAY = 32  # handshakes

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
    """Makes handshakes with one port, many at a time, and ends each connection when its tickets have come."""

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
            RuntimeError: a handshake was not of that kind, or stopped.
        """
        if resume and self._session is None:
            self._session = self._make(1, None)
        self._make(count, self._session if resume else None)

    def _make(self, count: int, session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        """Make handshakes, and return the session of the last one."""
        waiter = select.epoll()
        under_way: dict[int, ssl.SSLSocket] = {}
        shaken: set[int] = set()
        last: ssl.SSLSession | None = None
        while count or under_way:
            while count and len(under_way) < UNDER_WAY:
                sock = self._begin(session)
                under_way[sock.fileno()] = sock
                waiter.register(sock, select.EPOLLIN)
                count -= 1
            ready = waiter.poll(TIMEOUT)
            if not ready:
                raise RuntimeError(f"{len(under_way)} handshakes stopped for {TIMEOUT:g} s")
            for fd, _ in ready:
                sock = under_way[fd]
                if fd not in shaken:
                    if _shake(sock):
                        shaken.add(fd)
                    continue
                _read_tickets(sock)
                last = sock.session
                if sock.session_reused != (session is not None):
                    raise RuntimeError(f"a handshake was {'' if session is None else 'not '}resumed")
                shaken.remove(fd)
                del under_way[fd]
                sock.close()
        waiter.close()
        return last

    def _begin(self, session: ssl.SSLSession | None) -> ssl.SSLSocket:
        sock = self._context.wrap_socket(
            socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT),
            server_hostname="127.0.0.1",
            session=session,
            do_handshake_on_connect=False,
        )
        sock.setblocking(False)
        _shake(sock)
        return sock


def _shake(sock: ssl.SSLSocket) -> bool:
    """Do what can be done of a handshake without waiting; tell whether it is complete."""
    try:
        sock.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _read_tickets(sock: ssl.SSLSocket) -> None:
    """Read what comes after a handshake of TLS 1.3: the server's tickets, and nothing else."""
    with contextlib.suppress(ssl.SSLWantReadError):
        if not sock.recv(1):
            raise RuntimeError("the server closed the connection")
    if sock.session is None or not sock.session.has_ticket:
        raise RuntimeError("no session ticket came")
