"""The settings object and its options.

The fields of `Settings` are the single source of the command line's flags, the variables' names, the file's keys and
what ``check-config`` shows. Nothing here opens, binds or connects.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from realizehit.common.masking import masked
from realizehit.errors import SettingsError

Role = Literal["all", "ws", "api"]
LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_NO_HOST: Final = re.compile(r"://|[\s@\[\]]|\A\*\Z|\A[^:]*:[^:]*\Z")
_PREFIX: Final = re.compile(r"/[A-Za-z0-9._~/-]*", re.ASCII)

RELAY_FROM: Final = 4
"""From so many workers on, a relay costs no more under load than a subscription for each worker."""


def _option(
    default: Any, help: str, *, env: str | None = None, unit: str = "", secret: bool = False, flag: str | None = None
) -> Any:
    """Declare one option.

    Args:
        default: the value if none is given.
        help: one line.
        env: its variable; by default a name made from the field's name.
        unit: the unit of its value.
        secret: whether the value must never be shown.
        flag: the flag's name if it differs from the field's; empty for an option without a flag, because its value
            must not appear in a command line.
    """
    metadata = {"help": help, "env": env, "unit": unit, "secret": secret, "flag": flag}
    return field(default=default, repr=not secret, metadata=metadata)


_LEAST: Final = {
    "handshake_timeout": 0.05,
    "heartbeat_interval": 0.05,
    "heartbeat_timeout": 0.05,
    "subscribe_timeout": 0.01,
    "publish_timeout": 0.01,
    "idempotency_window": 0.05,
    "request_timeout": 0.05,
    "keep_alive": 0.05,
}  # seconds

_UNLIMITED: Final = ("max_connections", "max_per_address", "max_handshakes", "max_actions", "max_channels")
"""Limits that may be 0, which means no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a server. Durations are in seconds, sizes in bytes.

    Raises:
        SettingsError: a value is out of its range; the text names the option.
    """

    role: Role = _option("all", "what this server does: serve WebSocket clients, the publish API, or both")
    host: str = _option("127.0.0.1", "address to listen on; loopback only until you say otherwise", env="SERVER_HOST")
    port: int = _option(8080, "port for both the WebSocket and the API server; 0 picks a free one", env="SERVER_PORT")
    ws_port: int | None = _option(None, "port for the WebSocket server alone", env="SERVER_WS_PORT")
    api_port: int | None = _option(None, "port for the API server alone", env="SERVER_API_PORT")
    prefix: str = _option("/", "path that the API's routes stand under", env="SERVER_API_PREFIX")
    redis: str | None = _option(
        None,
        "broker: redis://, rediss:// or unix:// of a Redis 6.2+ or Valkey, redis+sentinel:// with its sentinels, "
        "redis+cluster:// with some machines of a cluster (Redis 7 or Valkey), memory:// for a single process; "
        "without it an embedded Valkey is started",
        env="REDIS_URI",
        secret=True,
    )
    workers: int = _option(1, "processes to run, sharing the port")
    relay: Literal["auto", "on", "off"] = _option(
        "auto", f"one subscription at the broker for all workers; auto: from {RELAY_FROM} workers on"
    )
    log_format: LogFormat = _option("text", "how log lines are written")
    log_level: LogLevel = _option("info", "least severe log lines to write")
    access_log: bool = _option(False, "log every HTTP request")
    tracing: bool = _option(
        False, "pass the traceparent of publications on to subscribers that ask for it, and make OpenTelemetry spans"
    )
    console: bool = _option(
        False, "serve the page /console to browsers on this machine, and publish the figures of this server"
    )
    endpoint: str | None = _option(None, "public address of the server, printed at start", env="ENDPOINT")
    endpoint_ws: str | None = _option(
        None, "public address of the WebSocket server, printed at start", env="ENDPOINT_WS"
    )
    endpoint_api: str | None = _option(None, "public address of the API, printed at start", env="ENDPOINT_API")

    drain_seconds: float = _option(10.0, "time over which clients are sent away on SIGTERM", unit="s")
    handshake_timeout: float = _option(10.0, "time for a client to send its opening handshake", unit="s")
    heartbeat_interval: float = _option(25.0, "time between the server's pings", unit="s")
    heartbeat_timeout: float = _option(20.0, "time for the answer to a ping", unit="s")
    wildcards: bool = _option(True, "serve subscriptions with wildcards, and publish to them")
    bridge: bool = _option(
        False, "have one server publish to wildcards for all publishers, also those that know nothing of wildcards"
    )
    subscribe_timeout: float = _option(5.0, "time to wait for the broker before a sub answers 'unavailable'", unit="s")
    publish_timeout: float = _option(5.0, "time to wait for the broker before a publish answers 503", unit="s")

    idempotency_window: float = _option(
        120.0,
        "time for which an idempotency key is remembered: messages with the same key are published once",
        unit="s",
    )

    history: str | None = _option(
        None, "TOML file of the patterns that have history, written to the broker for all servers"
    )
    history_memory: int = _option(
        64 << 20, "bytes of recent messages kept by each process for clients that come back", unit="bytes"
    )

    presence: str | None = _option(
        None, "TOML file of the patterns that have presence: who is subscribed; the same for all servers"
    )

    compress: bool = _option(False, "compress messages (permessage-deflate) for WebSocket clients that offer it")
    max_message_bytes: int = _option(16 * 1024, "largest message a client may send", unit="bytes")
    max_subscriptions: int = _option(1024, "subscriptions a connection may hold")
    max_queue_bytes: int = _option(
        1 << 20, "bytes that may wait for a client; past it for longer than --slow-grace it is closed", unit="bytes"
    )
    max_queue_messages: int = _option(4096, "messages that may wait for a client, likewise")
    slow_grace: float = _option(
        30.0, "time for which more may wait for a client that keeps reading, up to a batch more; 0 for none", unit="s"
    )
    max_payload_bytes: int = _option(1 << 20, "largest payload that may be published", unit="bytes")
    max_batch_bytes: int = _option(4 << 20, "largest body of a batch", unit="bytes")
    max_batch_messages: int = _option(10_000, "messages in one batch")

    unix_socket: str | None = _option(None, "a Unix socket to listen on as well, for a proxy on this machine; a path")
    identify: tuple[str, ...] = _option((), "identity key and the header that a trusted proxy says it in: user=X-User")
    trusted_proxies: tuple[str, ...] = _option((), "networks, or unix, whose identity headers are believed")
    jwt_key_file: str | None = _option(
        None, "public key in PEM, JWKS or secret of JWTs (a file; REALIZEHIT_JWT_SECRET for a secret)"
    )
    jwt_secret: str | None = _option(None, "the JWT secret itself, instead of a file", secret=True, flag="")
    jwt_algorithms: tuple[str, ...] = _option((), "algorithm that a JWT may use, such as HS256", flag="--jwt-algorithm")
    jwt_claims: tuple[str, ...] = _option((), "identity key and the claim that holds it: user=sub", flag="--jwt-claim")
    jwt_audience: str | None = _option(None, "audience (aud) that a token must be for")
    jwt_issuer: str | None = _option(None, "issuer (iss) that a token must be from")
    jwt_leeway: float = _option(5.0, "time by which clocks may differ", unit="s")
    expiry_warning: float = _option(30.0, "time before a token's end at which its client is told", unit="s")
    grants: str | None = _option(None, "TOML file that says what may be subscribed to; without it everything may")
    keys: str | None = _option(None, "TOML file of the API keys; without it only this machine may publish")
    insecure_publish: bool = _option(False, "let everybody publish, without a key")
    allow_origin: tuple[str, ...] = _option((), "origin of further web pages that may use the server; * for any")
    tls_cert: str | None = _option(None, "certificate chain in PEM (a file); everything is then served over TLS")
    tls_key: str | None = _option(None, "private key of the certificate in PEM (a file)")

    max_connections: int = _option(0, "clients connected at once, 0 for any number")
    max_per_address: int = _option(0, "connections of one address, 0 for any number; trusted proxies are not counted")
    max_handshakes: int = _option(0, "opening handshakes per second, 0 for any number")
    max_actions: int = _option(100, "actions per second of a connection, 0 for any number; every frame counts as one")
    max_channels: int = _option(0, "channels with a subscriber at once, 0 for any number")
    max_shapes: int = _option(
        64, "shapes of wildcard subscriptions of the whole deployment; each costs publishers a PUBLISH more"
    )
    max_head_bytes: int = _option(16 * 1024, "largest head of a request, its line and headers", unit="bytes")
    request_timeout: float = _option(30.0, "time for an HTTP request to arrive whole", unit="s")
    keep_alive: float = _option(
        75.0, "time that an HTTP connection may be idle; longer than a load balancer keeps its own", unit="s"
    )

    def __post_init__(self) -> None:
        for name in ("port", "ws_port", "api_port"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 65535:
                raise SettingsError(f"{names_of(name)}: {value} is not a port; use 0 to 65535")
        _check_places(self.host, self.prefix)
        if not self.prefix.endswith("/"):
            object.__setattr__(self, "prefix", self.prefix + "/")
        _check_processes(self)
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if option.metadata["unit"] == "s" and not 0 <= value <= 86_400:
                raise SettingsError(f"{names_of(option.name)}: {value} is out of range; use 0 to 86400 seconds")
            fewest = 0 if option.name in _UNLIMITED else 1
            if option.name.startswith("max_") and not fewest <= value <= 1 << 30:
                raise SettingsError(f"{names_of(option.name)}: {value} is out of range; use {fewest} to {1 << 30}")
            if isinstance(value, list):  # as JSON has it, on the way to a worker
                object.__setattr__(self, option.name, tuple(value))
        if not 0 <= self.history_memory <= 1 << 40:
            raise SettingsError(
                f"{names_of('history_memory')}: {self.history_memory} is out of range; use 0 to {1 << 40}"
            )
        if self.max_queue_messages > 65_535:
            raise SettingsError(f"{names_of('max_queue_messages')}: {self.max_queue_messages} is over 65535")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise SettingsError(f"{names_of(name)}: {getattr(self, name)} is below {least} seconds")

    @property
    def uses_tls(self) -> bool:
        """Whether this server terminates TLS."""
        return self.tls_cert is not None or self.tls_key is not None

    @property
    def uses_relay(self) -> bool:
        """Whether the workers subscribe through a relay."""
        if self.workers == 1 or self.role == "api":
            return False
        return self.relay == "on" or (self.relay == "auto" and self.workers >= RELAY_FROM)

    @property
    def ws_listen(self) -> tuple[str, int]:
        """Host and port of the WebSocket server."""
        return self.host, self.port if self.ws_port is None else self.ws_port

    @property
    def api_listen(self) -> tuple[str, int]:
        """Host and port of the API server; see `one_port`."""
        return self.host, self.port if self.api_port is None else self.api_port

    @property
    def one_port(self) -> bool:
        """Whether the WebSocket and the API server share a port; two ports that the system picks differ."""
        return self.ws_listen == self.api_listen and 0 not in (self.ws_port, self.api_port)

    @property
    def listens(self) -> tuple[tuple[str, int], ...]:
        """Host and port of the WebSocket and the API server, or the one that they share."""
        if self.role == "all" and not self.one_port:
            return self.ws_listen, self.api_listen
        return (self.ws_listen if self.role == "ws" else self.api_listen,)


def _check_processes(settings: Settings) -> None:
    in_memory = settings.redis is not None and settings.redis.startswith("memory:")
    if settings.workers < 1 or settings.workers > 1024:
        raise SettingsError(f"{names_of('workers')}: {settings.workers} is out of range; use 1 to 1024")
    if settings.workers > 1 and in_memory:
        raise SettingsError(f"{names_of('redis')}: memory:// lives in one process and cannot serve several workers")
    if settings.bridge and not settings.wildcards:
        raise SettingsError(f"{names_of('bridge')}: there is nothing to bridge without wildcards (--no-wildcards)")
    if settings.bridge and in_memory:
        raise SettingsError(f"{names_of('bridge')}: memory:// has no other publishers, so it needs no bridge")
    if settings.bridge and settings.redis is not None and "+cluster" in settings.redis.partition(":")[0]:
        raise SettingsError(
            f"{names_of('bridge')}: there is no bridge in a cluster, since nobody can subscribe to patterns of channels"
        )


def _check_places(host: str, prefix: str) -> None:
    if _NO_HOST.search(host):
        text = shown("host", host)
        raise SettingsError(f"{names_of('host')}: {text} is not an address; write a host alone, and its port as --port")
    if not _PREFIX.fullmatch(prefix):
        text = shown("prefix", prefix)
        raise SettingsError(f"{names_of('prefix')}: {text} is not a path; use / and then letters, digits, . _ ~ - /")


OPTIONS: Final = dataclasses.fields(Settings)

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "Listening": (
        "role", "host", "port", "ws_port", "api_port", "prefix", "unix_socket",
        "endpoint", "endpoint_ws", "endpoint_api",
    ),
    "Broker": ("redis", "wildcards", "bridge", "subscribe_timeout", "publish_timeout", "idempotency_window"),
    "History and presence": ("history", "history_memory", "presence"),
    "Processes": ("workers", "relay", "drain_seconds"),
    "Access": ("keys", "insecure_publish", "grants", "allow_origin"),
    "Identities": (
        "identify", "trusted_proxies", "jwt_key_file", "jwt_secret", "jwt_algorithms", "jwt_claims", "jwt_audience",
        "jwt_issuer", "jwt_leeway", "expiry_warning",
    ),
    "TLS": ("tls_cert", "tls_key"),
    "Limits": (
        "max_connections", "max_per_address", "max_handshakes", "max_actions", "max_subscriptions", "max_channels",
        "max_shapes", "max_message_bytes", "max_queue_bytes", "max_queue_messages", "slow_grace", "max_payload_bytes",
        "max_batch_bytes", "max_batch_messages", "max_head_bytes",
    ),
    "Connections": (
        "handshake_timeout", "request_timeout", "keep_alive", "heartbeat_interval", "heartbeat_timeout", "compress",
    ),
    "Logging and console": ("log_format", "log_level", "access_log", "tracing", "console"),
}  # fmt: skip
"""The options by topic, as ``--help`` shows them."""


def flag_of(name: str) -> str:
    """Return the command line's flag of an option: ``--ws-port``; empty if it has none."""
    flag = next(option for option in OPTIONS if option.name == name).metadata["flag"]
    return "--" + name.replace("_", "-") if flag is None else str(flag)


def variable_of(name: str) -> str:
    """Return the environment variable of an option: ``SERVER_WS_PORT``, ``REALIZEHIT_WORKERS``."""
    option = next(option for option in OPTIONS if option.name == name)
    return option.metadata["env"] or f"REALIZEHIT_{name.upper()}"


def names_of(name: str) -> str:
    """Return the flag and the variable of an option, for error messages."""
    return f"{flag_of(name)} ({variable_of(name)})" if flag_of(name) else variable_of(name)


_KINDS: Final[dict[type, str]] = {str: "a text", list: "a list", tuple: "a list", dict: "a table"}

_LONGEST_SHOWN: Final = 100  # characters of a value in an error


def shown(name: str, value: Any) -> str:
    """Return a value as an error may show it; for a secret only the kind of its value."""
    if next(option for option in OPTIONS if option.name == name).metadata["secret"]:
        return _KINDS.get(type(value), f"a {type(value).__name__}")
    text = masked(repr(value))
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."
