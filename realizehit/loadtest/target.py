"""Which server a load test measures, and what it connects from."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from realizehit.common.causes import reason_of
from realizehit.common.masking import masked
from realizehit.errors import LoadTestError, SettingsError
from realizehit.loadtest import proc_usage
from realizehit.loadtest.addresses import Address, address_of
from realizehit.loadtest.broker import Broker
from realizehit.loadtest.plan import Publish
from realizehit.pattern import Pattern

API_TIMEOUT: Final = 10.0  # seconds without progress until the API counts as gone
MAX_ANSWER: Final = 64 << 10  # bytes of the API's answer that are read


@dataclass(frozen=True, slots=True)
class Target:
    """The server to measure, and how to publish to it.

    Attributes:
        ws: the WebSocket server.
        api: the API server.
        broker: the broker, if messages are published to it directly.
        publish: how to publish.
        embedded: whether the server was started for the load test.
        pids: the server's processes, if they run on this machine.
        workers: how many of them serve.
        sources: source addresses to connect from; empty for the system's choice.
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
        """The WebSocket server's URL, with secrets masked."""
        return masked(f"ws://{self.ws.authority}{self.ws.path}")

    @property
    def api_headers(self) -> tuple[tuple[str, str], ...]:
        """The header lines of a request to publish, besides those that every request has."""
        return () if self.key is None else (("Authorization", f"Bearer {self.key}"),)

    def try_publishing(self, pattern: Pattern) -> None:
        """Publish one message through the API, so that a missing key is reported before anything else happens.

        Raises:
            LoadTestError: the API cannot be reached, or refuses the message; the text says why.
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
        """Open one more connection, and return why the server refuses it; an empty text if it does not say."""
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
    """Return the detail of a problem document, or the beginning of any other text."""
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
        api: the API's URL; ``None`` for the root of the same host and port.
        redis: the broker's URL, for publishing directly.
        publish: how to publish; ``None`` for ``redis`` if there is a broker, otherwise ``api``.
        key: the API key to publish with.
        headers: header lines for the opening handshakes, ``Name: value``.

    Raises:
        SettingsError: an address cannot be used, or the broker's is missing.
    """
    publish = publish or ("redis" if redis else "api")
    if publish == "redis" and not redis:
        raise SettingsError("--publish redis needs the broker's address: give --redis")
    ws = address_of("--url", url, "ws", "/ws")
    parts = urlsplit(url)
    api_place = address_of("--api", api or f"http://{parts.netloc}/", "http", "/")
    broker = Broker.parse(redis) if redis else None
    workers = proc_usage.listening(ws.port) if proc_usage.is_local(ws.host) else []
    pids = tuple({*workers, *proc_usage.parents(workers)})
    lines = tuple(_header(line) for line in headers)
    if key is not None and not _KEY.fullmatch(key):
        raise SettingsError("--key: it contains a character that no API key has")
    return Target(ws, api_place, broker, publish, pids=pids, workers=len(workers) or 1, key=key, headers=lines)


_KEY: Final = re.compile(r"[!-~]{1,1024}")
_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([ -~\x80-\xff]*)")
_OWN_HEADERS: Final = re.compile(
    r"host|upgrade|connection|sec-websocket-.*|content-length|transfer-encoding", re.IGNORECASE
)


def _header(line: str) -> tuple[str, str]:
    match = _HEADER.fullmatch(line)
    # The value may be a secret, so errors show the name alone.
    name = line.partition(":")[0]
    if match is None:
        raise SettingsError(f"--header {name!r} is not a header; write 'Name: value', in the characters of Latin-1")
    if _OWN_HEADERS.fullmatch(name):
        raise SettingsError(f"--header {name!r} is one that the load test sets itself")
    return name, match[2].strip()
