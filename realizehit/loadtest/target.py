"""Which server a load test measures: the one at the given addresses, or one that is started for it."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import re
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import hiredis
from redis.connection import parse_url

from realizehit.broker.url import redacted
from realizehit.common import children
from realizehit.common.causes import reason_of
from realizehit.common.masking import masked
from realizehit.errors import LoadTestError, SettingsError
from realizehit.loadtest import local
from realizehit.loadtest.plan import Publish
from realizehit.pattern import Pattern

REDIS_VARIABLE: Final = "REALIZEHIT_LOADTEST_REDIS"  # a URL may hold a password: it is no argument
STOP_TIMEOUT: Final = 15.0  # seconds for the server of the load test to end
BROKER_TIMEOUT: Final = 10.0  # seconds to connect and to log in
ADDRESS_TIMEOUT: Final = 3.0  # seconds for one of a name's addresses to answer
API_TIMEOUT: Final = 10.0  # seconds without progress until the API counts as gone
MAX_ANSWER: Final = 64 << 10  # bytes of the API's answer that are read
PORTS_PER_SOURCE: Final = 20_000  # connections from one source address; Linux has about 28,000 ports for them


@dataclass(frozen=True, slots=True)
class Address:
    """Where something listens.

    Attributes:
        host: numeric address.
        port: TCP port.
        path: of the URL.
        authority: host and port as they stood in the URL.
    """

    host: str
    port: int
    path: str
    authority: str


@dataclass(frozen=True, slots=True)
class Broker:
    """A Redis or Valkey to publish to: a Unix socket's path, or host and port; with who to log in as."""

    shown: str
    path: str | None = None
    host: str = ""
    port: int = 0
    login: tuple[str, ...] = ()

    @classmethod
    def parse(cls, url: str) -> Broker:
        """Read a broker's URL.

        Raises:
            SettingsError: it cannot be used; the text never shows the password.
        """
        shown = redacted(url)
        try:
            options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
        except ValueError:
            raise SettingsError(f"--redis {shown} is no redis:// or unix:// URL that can be read") from None
        if url.startswith("rediss:"):
            raise SettingsError(f"--redis {shown}: the load test does not speak TLS; publish with --publish api")
        name, password = options.get("username"), options.get("password")
        login = (name, password or "") if name else (password,) if password else ()
        if "path" in options:
            return cls(shown, path=options["path"], login=login)
        return cls(shown, host=options.get("host", "localhost"), port=options.get("port", 6379), login=login)

    def connect(self) -> int:
        """Connect and log in; return the descriptor, which is the caller's.

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


@dataclass(frozen=True, slots=True)
class Target:
    """What is measured, and how it is published to.

    Attributes:
        ws: the WebSocket server.
        api: the API server.
        broker: the broker, where it is published to directly.
        publish: how to publish.
        embedded: whether the server was started for the load test.
        pids: the server's processes, where they run on this machine.
        workers: how many of them serve.
        sources: source addresses to connect from; none for the system's choice.
        key: the API key to publish with; a secret.
        headers: further header lines of the opening handshakes; they may be secrets.
    """

    ws: Address
    api: Address
    broker: Broker | None
    publish: Publish
    embedded: bool = False
    pids: tuple[int, ...] = ()
    workers: int = 1
    sources: tuple[str, ...] = ()
    key: str | None = field(default=None, repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def url(self) -> str:
        """The WebSocket server's URL, without what in it may be a secret."""
        return masked(f"ws://{self.ws.authority}{self.ws.path}")

    @property
    def api_headers(self) -> tuple[tuple[str, str], ...]:
        """The header lines of a request to publish, besides those that every request has."""
        return () if self.key is None else (("Authorization", f"Bearer {self.key}"),)

    def try_publishing(self, pattern: Pattern) -> None:
        """Publish one message through the API, so that a key that is missing is told before anything else happens.

        Raises:
            LoadTestError: the API cannot be reached, or does not take it; the text says why.
        """
        name = f"the API at {masked(f'http://{self.api.authority}{self.api.path}')}"
        connection = http.client.HTTPConnection(self.api.host, self.api.port, timeout=API_TIMEOUT)
        headers = {"Host": self.api.authority, "Content-Type": "application/json", **dict(self.api_headers)}
        body = json.dumps({"pattern": dict(pattern), "payload": None}).encode()
        try:
            connection.request("POST", self.api.path, body, headers)
            answer = connection.getresponse()
            text = answer.read(MAX_ANSWER).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise LoadTestError(f"{name} cannot be reached: {reason_of(error)}") from error
        finally:
            connection.close()
        if answer.status == 200:
            return
        text = _detail(text) or answer.reason
        hint = "; give a key with REALIZEHIT_KEY or --key" if answer.status in (401, 403) and self.key is None else ""
        raise LoadTestError(f"{name} does not let the load test publish: {answer.status}, {text}{hint}")

    def why_refused(self) -> str:
        """Ask for one more connection, and return what the server says against it; empty where it says nothing."""
        connection = http.client.HTTPConnection(self.ws.host, self.ws.port, timeout=API_TIMEOUT)
        handshake = {
            "Host": self.ws.authority,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "cmVhbGl6ZWhpdCBsb2FkdA==",
            **dict(self.headers),
        }
        try:
            connection.request("GET", self.ws.path, headers=handshake)
            answer = connection.getresponse()
            return "" if answer.status == 101 else _detail(answer.read(MAX_ANSWER).decode("utf-8", "replace"))
        except (OSError, http.client.HTTPException):
            return ""
        finally:
            connection.close()


def _detail(answer: str) -> str:
    """Return what a problem document says, or the beginning of any other text."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        answer = str(json.loads(answer)["detail"])
    return answer[:300]


def find_target(
    url: str,
    *,
    api: str | None = None,
    redis: str | None = None,
    publish: Publish | None = None,
    key: str | None = None,
    headers: Sequence[str] = (),
) -> Target:
    """Look up the addresses of a server.

    Args:
        url: the WebSocket server's URL.
        api: the API's; the root of the same host and port where none is given.
        redis: the broker's, for publishing directly.
        publish: how to publish; ``redis`` where a broker is given, ``api`` otherwise.
        key: the API key to publish with.
        headers: header lines for the opening handshakes, ``Name: value``.

    Raises:
        SettingsError: an address cannot be used, or what is published to has none.
    """
    publish = publish or ("redis" if redis else "api")
    if publish == "redis" and not redis:
        raise SettingsError("--publish redis needs the broker's address: give --redis")
    ws = _place("--url", url, "ws", "/ws")
    parts = urlsplit(url)
    api_place = _place("--api", api or f"http://{parts.netloc}/", "http", "/")
    broker = Broker.parse(redis) if redis else None
    workers = local.listening(ws.port) if local.is_local(ws.host) else []
    pids = tuple({*workers, *local.parents(workers)})
    lines = tuple(_header(line) for line in headers)
    if key is not None and not _KEY.fullmatch(key):
        raise SettingsError("--key: there is a character in it that no API key has")
    return Target(ws, api_place, broker, publish, pids=pids, workers=len(workers) or 1, key=key, headers=lines)


@contextmanager
def embedded_target(*, redis: str | None = None, publish: Publish | None = None, workers: int = 1) -> Iterator[Target]:
    """Run a server for as long as the context lasts, over a Valkey of its own where no broker is given.

    Args:
        redis: the broker's URL.
        publish: how to publish; straight to the broker where it is not said.
        workers: processes of the server.

    Raises:
        LoadTestError: it did not start; the text says why.
    """
    environment = {**children.environment(), REDIS_VARIABLE: redis or ""}
    # A session of its own: Ctrl+C in the terminal is for the load test, which then ends the server.
    process = subprocess.Popen(  # noqa: S603 - this package's own module
        children.command("realizehit.loadtest.embedded", str(workers)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        told = json.loads(line) if line else {"error": f"it ended with status {process.wait(STOP_TIMEOUT)}"}
        if "error" in told:
            raise LoadTestError(f"the server for the load test did not start: {told['error']}")
        found = find_target(told["ws"], api=told["api"], redis=told["redis"], publish=publish or "redis")
        yield replace(found, embedded=True, pids=tuple({process.pid, *found.pids}))
    finally:
        process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def with_sources(target: Target, connections: int, given: tuple[str, ...] = ()) -> Target:
    """Choose source addresses: those given, or further loopback addresses where one has too few ports.

    Raises:
        SettingsError: one that was given is no address of this machine, or of another kind than the server's.
    """
    for address in given:
        _check_source(address, target.ws.host)
    if given:
        return replace(target, sources=given)
    if connections > PORTS_PER_SOURCE and target.ws.host.startswith("127."):
        count = -(-connections // PORTS_PER_SOURCE)
        return replace(target, sources=tuple(f"127.0.{n // 250}.{n % 250 + 1}" for n in range(1, count + 1)))
    return target


def _check_source(address: str, host: str) -> None:
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        raise SettingsError(f"--source-address {address!r} is no numeric IP address") from None
    if version != ipaddress.ip_address(host.partition("%")[0]).version:
        raise SettingsError(f"--source-address {address}: the server is at {host}, an address of the other version")
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            raise SettingsError(f"--source-address {address} cannot be used: {error.strerror}") from None


_KEY: Final = re.compile(r"[!-~]{1,1024}")
_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([ -~\x80-\xff]*)")
_OWN_HEADERS: Final = re.compile(
    r"host|upgrade|connection|sec-websocket-.*|content-length|transfer-encoding", re.IGNORECASE
)


def _header(line: str) -> tuple[str, str]:
    match = _HEADER.fullmatch(line)
    # What stands after the colon may be a secret.
    name = line.partition(":")[0]
    if match is None:
        raise SettingsError(f"--header {name!r} is no header; write 'Name: value', in the characters of Latin-1")
    if _OWN_HEADERS.fullmatch(name):
        raise SettingsError(f"--header {name!r} is one that the load test makes itself")
    return name, match[2].strip()


def _place(option: str, url: str, scheme: str, path: str) -> Address:
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
    return str(found[0][4][0])  # none answers: how, the load test finds itself


def _split(option: str, url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise SettingsError(f"{option} {masked(url)}: the host or the port cannot be read") from None
    if not parts.hostname or any(character <= " " for character in url):
        raise SettingsError(f"{option} {masked(url)}: there is no host in it, or a blank")
    return parts
