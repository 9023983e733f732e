"""Counts and logs refusals: which peer and host, why, and which setting would allow the request.

When a WebSocket is refused, a browser shows only "closed with 1006", so the cause must be in the server's log.
Everybody can cause these lines, so they are bounded: one line per reason and interval, and a count of the others. Text
from requests is escaped and cut short, and secrets are masked.
"""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable, Mapping
from typing import Final

from realizehit.access.peers import UNIX, UNKNOWN, is_loopback
from realizehit.common.masking import masked
from realizehit.common.seldom import LOG_INTERVAL, Seldom, more
from realizehit.errors import AccessDenied

logger: Final = logging.getLogger(__name__)

LONGEST: Final = 200  # characters shown of a value from a request

REASONS: Final = (
    "too_many_connections", "too_many_per_address", "too_many_handshakes", "origin", "host", "bad_identity",
    "bad_token", "not_granted", "too_many_actions", "too_many_subscriptions", "too_many_channels", "too_many_shapes",
    "message_too_large", "expired", "key_replaced", "no_longer_granted", "protected", "bad_key", "key_not_granted",
    "key_rate", "payload_too_large", "head_too_large", "late_head", "late_request", "unread_answer", "no_room",
    "session", "bad_handshake", "malformed",
)  # fmt: skip
"""Why a request was refused or a connection ended, as metrics call it; every limit has its own reason."""

_NGINX_HOST: Final = "let the proxy pass the Host on that it was asked for (nginx: proxy_set_header Host $http_host)"
_NGINX_UPGRADE: Final = (
    "a proxy must pass the upgrade on (nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
    'proxy_set_header Connection "upgrade")'
)

_NOT_LOGGED: Final = frozenset(("no_room",))
"""Reasons whose log line is written elsewhere."""

_ADVICE: Final = {
    "too_many_connections": "raise --max-connections, or start more workers or servers",
    "too_many_per_address": "raise --max-per-address, or name this address in --trusted-proxies if it is a proxy's",
    "too_many_handshakes": "raise --max-handshakes",
    "too_many_actions": "raise --max-actions if clients need more actions per second",
    "too_many_subscriptions": "raise --max-subscriptions",
    "too_many_channels": "raise --max-channels",
    "too_many_shapes": "raise --max-shapes on every server; each shape costs publishers a PUBLISH more",
    "message_too_large": "raise --max-message-bytes",
    "payload_too_large": "raise --max-payload-bytes, or --max-batch-bytes for a batch",
    "head_too_large": "raise --max-head-bytes",
    "late_head": "raise --handshake-timeout if clients are that slow",
    "late_request": "raise --request-timeout if clients are that slow",
    "unread_answer": "raise --request-timeout if clients read that slowly",
    "bad_identity": "the proxy must set each header of --identify once, to a value that a pattern can have",
    "bad_token": "compare --jwt-algorithm, --jwt-audience, --jwt-issuer, --jwt-leeway and the key with the issuer's",
    "not_granted": "add a grant to the file of --grants; 'realizehit can' explains each decision",
    "protected": "make a key with 'realizehit gen-key' and name its file with --keys, or set --insecure-publish",
    "bad_key": "the file of --keys has the keys that may publish; 'realizehit gen-key' makes one",
    "key_not_granted": "add the pattern to the grants of this key in the file of --keys",
    "key_rate": "raise the rate of this key in the file of --keys",
    "session": "the client, and a proxy, must send the same Origin, identity headers and token with each request",
    "bad_handshake": f"clients connect to /ws by WebSocket; {_NGINX_UPGRADE}",
    "malformed": "nothing to set: this is not HTTP, or it is TLS and the server has none (--tls-cert)",
    "console": "the console is for browsers on the server's own machine; from elsewhere use a tunnel (ssh -L)",
    "invalid": "nothing to set: the response tells the publisher what is wrong",
}


class Refusals:
    """Counts refusals by reason for the metrics, and logs them.

    Args:
        clock: seconds of a monotonic clock.

    Attributes:
        counts: how many there were, by reason; one of `REASONS` each.
        log: writes the lines.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.counts: Final = dict.fromkeys(REASONS, 0)
        self.log: Final = RefusalLog(clock)

    def count(
        self,
        reason: str,
        *,
        peer: str | None = None,
        headers: Mapping[bytes, bytes] | None = None,
        detail: str = "",
    ) -> None:
        """Count and log a refusal.

        Args:
            reason: one of `REASONS`.
            peer: where the connection comes from, where that is known.
            headers: of the request, likewise.
            detail: what was wrong.
        """
        self.counts[reason] += 1
        self.log.note(reason, peer=peer, headers=headers, detail=detail)

    def denied(self, error: AccessDenied, peer: str | None, headers: Mapping[bytes, bytes] | None = None) -> None:
        """Count and log a refusal by its error."""
        self.count(error.reason, peer=peer, headers=headers, detail=str(error))

    def tick(self) -> None:
        """Log the refusals that were only counted so far; to be called regularly."""
        self.log.tick()


class RefusalLog:
    """Writes at most one line per reason and interval, with the number of lines that were left out.

    Args:
        clock: seconds of a monotonic clock.
        interval: seconds between two lines for the same reason.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, interval: float = LOG_INTERVAL) -> None:
        self._seldom = Seldom(interval, clock)

    def note(
        self, reason: str, *, peer: str | None = None, headers: Mapping[bytes, bytes] | None = None, detail: str = ""
    ) -> None:
        """Log a refusal.

        Args:
            reason: one of `REASONS`, or another fixed name.
            peer: where the connection comes from, see `realizehit.access.peers`; ``None`` if unknown.
            headers: of the request, by lower-case name; ``None`` without a request.
            detail: what was wrong.

        Cost: one line for the first refusal of an interval; the others are counted only.
        """
        if reason in _NOT_LOGGED:
            return
        left_out = self._seldom.passes(reason)
        if left_out is not None:
            text = describe(reason, peer=peer, headers=headers, detail=detail)
            logger.warning(
                "refused: %s%s", text, more(left_out), extra={"fields": _fields(reason, peer, headers, left_out)}
            )

    def tick(self) -> None:
        """Log how many lines were left out, where no later line has told it; to be called regularly."""
        for reason, left_out in self._seldom.overdue():
            text = "refused: %s, %d more since the last line; %s"
            fields = {"reason": reason, "left_out": left_out}
            logger.warning(text, reason, left_out, _ADVICE.get(reason, _SEE), extra={"fields": fields})


_SEE: Final = "docs/access.md explains the reason"


def describe(reason: str, *, peer: str | None, headers: Mapping[bytes, bytes] | None, detail: str = "") -> str:
    """Return the text of a line: the reason, the peer and hosts, what was wrong, and what to set."""
    headers = headers or {}
    who = [] if peer is None else [f"peer {_peer(peer)}"]
    who += [
        f"{name.decode().title()} {shown(headers[name])}"
        for name in (b"host", b"origin", b"sec-fetch-site", b"x-forwarded-host")
        if name in headers and (name != b"sec-fetch-site" or b"origin" not in headers)
    ]
    what = f"{reason}; {', '.join(who)}" if who else reason
    if detail and reason != "host":  # the advice has the detail already
        # With the colon, the rest of the line would be masked as a secret.
        text = masked(detail[: 2 * LONGEST].replace("Authorization:", "Authorization"))
        what += f"; {text.encode('ascii', 'backslashreplace').decode()}"
    return f"{what}; {_advice(reason, peer, headers)}"


def _fields(
    reason: str, peer: str | None, headers: Mapping[bytes, bytes] | None, left_out: int
) -> dict[str, str | int]:
    """Return the fields of a log line in JSON."""
    fields: dict[str, str | int] = {"reason": reason, "left_out": left_out}
    if peer is not None:
        fields["peer"] = _peer(peer)
    for name in (b"host", b"origin"):
        if headers is not None and name in headers:
            fields[name.decode()] = shown(headers[name])[1:-1]
    return fields


def shown(value: bytes) -> str:
    """Return a header's value for a log: quoted, escaped, cut short, secrets masked."""
    text = masked(value[: 4 * LONGEST].decode("latin-1"))
    return ascii(text if len(text) <= LONGEST else text[:LONGEST] + "...")


def shown_channel(channel: bytes) -> str:
    """Return a channel for a log: cut short."""
    text = channel.decode("ascii")
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def _peer(peer: str) -> str:
    return {UNIX: "a Unix socket", UNKNOWN: "unknown"}.get(peer, peer[:LONGEST])


def _advice(reason: str, peer: str | None, headers: Mapping[bytes, bytes]) -> str:
    if reason == "origin":
        return _origin_advice(peer, headers)
    if reason == "host":
        return _host_advice(peer, headers)
    return _ADVICE.get(reason, _SEE)


def _origin_advice(peer: str | None, headers: Mapping[bytes, bytes]) -> str:
    origin = headers.get(b"origin")
    if origin is None:
        return "the page of another site, which the browser does not name; only --allow-origin '*' allows it"
    if origin == b"null":
        return "--allow-origin null allows every page without an origin, such as sandboxed frames of anybody"
    named = f"set --allow-origin {_argument(origin)} if this page may use the server"
    if peer is None or not (is_loopback(peer) or b"x-forwarded-for" in headers or b"forwarded" in headers):
        return f"{named}, or, if it is the server's own page behind a proxy, {_NGINX_HOST}"
    return (
        f"{named}; if it is the server's own page behind a proxy, {_NGINX_HOST}, and name the proxy with "
        f"--trusted-proxies {_network(peer)}"
    )


def _host_advice(peer: str | None, headers: Mapping[bytes, bytes]) -> str:
    host = headers.get(b"host", b"")
    return (
        "the server listens on loopback only and does not know this Host: set --endpoint "
        f"{_argument(b'wss://' + host)} if that is its public name, or name the proxy before it with --trusted-proxies "
        f"{_network(peer)}, or its pages with --allow-origin {_argument(b'https://' + host)}"
    )


def _network(peer: str | None) -> str:
    return "ADDRESS" if peer in (None, UNKNOWN) else str(peer)


def _argument(value: bytes) -> str:
    return shlex.quote(shown(value)[1:-1])
