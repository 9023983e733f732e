"""Who is connected as whom, and whether they may: the one place that transports, sessions and the API ask.

Nothing is kept for a connection that has no identity, no end and no counted address.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Final, NamedTuple

from realizehit.access.claimants import Claimant
from realizehit.access.expiry import Deadlines
from realizehit.access.hosts import Hosts, is_own_name
from realizehit.access.identity import NOBODY, Identity, IdentityHeaders
from realizehit.access.keys import Key
from realizehit.access.limits import AddressLimit, Bucket
from realizehit.access.local import is_forwarded, is_local_host, is_local_page, speaks_for_itself
from realizehit.access.origins import Origins
from realizehit.access.peers import UNIX, Networks, is_loopback
from realizehit.access.policy import header_names, load_policy
from realizehit.access.refusals import LONGEST, RefusalLog
from realizehit.access.tokens import Token
from realizehit.errors import AccessDenied, ErrorCode
from realizehit.pattern import is_reserved
from realizehit.settings import Settings

RETRY_AFTER: Final = 5.0  # seconds, where a server is full

REASONS: Final = (
    "too_many_connections", "too_many_per_address", "too_many_handshakes", "origin", "host", "bad_identity",
    "bad_token", "not_granted", "too_many_actions", "too_many_subscriptions", "too_many_channels",
    "too_many_shapes",
    "message_too_large", "expired", "key_replaced", "no_longer_granted", "protected", "bad_key", "key_not_granted",
    "key_rate", "payload_too_large", "head_too_large", "late_head", "late_request", "unread_answer", "no_room",
    "session", "bad_handshake", "malformed",
)  # fmt: skip
"""Why somebody was refused, or put out, as metrics call it; each limit that can be reached is one of them."""

_TOKEN: Final = re.compile(rb"(?:^|&)token=([^&]*)")
_BEARER: Final = re.compile(rb"bearer +([!-~]+)", re.IGNORECASE)  # RFC 6750, section 2.1
_PROTECTED: Final = (
    "no API key is configured, so only this machine may do this; make a key with 'realizehit gen-key NAME', put its "
    "lines into a file and name that with --keys (or let everybody in with --insecure-publish)"
)
_NOT_YOURS: Final = (
    "this is not the session of who asks: each of its requests comes from the same origin and carries the same "
    "identity and the same token as the one that opened it"
)


class Opening(NamedTuple):
    """A connection that was let in.

    Attributes:
        identity: who it is; `NOBODY` where nothing says so.
        end: until when, on the gate's clock; ``None`` for ever.
        address: where from, where that is counted.
        local: whether it comes from this machine, where that matters.
        proof: the mark of the key that its token was checked with; ``None`` without a token.
    """

    identity: Identity = NOBODY
    end: float | None = None
    address: str | None = None
    local: bool = False
    proof: bytes | None = None


_ANONYMOUS: Final = Opening()


class Gate:
    """Decides about connections, subscriptions and publications.

    Args:
        settings: what was configured.
        clock: seconds of a clock that never goes back.
        connected: how many clients there are.

    Attributes:
        refusals: how often somebody was refused, by reason.
        ignored_headers: opening requests with identity headers from peers that are no trusted proxies.
        addresses: bounds the connections of each address, likewise.
        origins: decides about web pages.
        log: tells the server's owner what is refused.

    Raises:
        SettingsError: something that was configured cannot be used.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float], connected: Callable[[], int] = int) -> None:
        self._settings = settings
        self._clock = clock
        self._connected = connected
        self._policy = load_policy(settings)
        self._headers = IdentityHeaders(header_names(settings)) if settings.identify else None
        self._trusted = Networks(settings.trusted_proxies)
        self.origins: Final = Origins(settings.allow_origin)
        self._hosts = _hosts(settings, self.origins)
        self.addresses: Final = AddressLimit(settings.max_per_address) if settings.max_per_address else None
        rate = settings.max_handshakes
        self._handshakes = Bucket(rate, rate, clock()) if rate else None
        self._identities: dict[int, Identity] = {}
        self._proofs: dict[int, bytes] = {}  # by which key's token each is who it is; the marks are shared
        self._counted: dict[int, str] = {}
        # Clients on this machine, for whom the console's figures are.
        self._local: set[int] | None = set() if settings.console else None
        self._deadlines = Deadlines(settings.expiry_warning)
        self._buckets: dict[str, tuple[float, Bucket]] = {}
        self.refusals: Final = dict.fromkeys(REASONS, 0)
        self.ignored_headers = 0
        self.log: Final = RefusalLog(clock)

    def count(
        self,
        reason: str,
        *,
        peer: str | None = None,
        headers: Mapping[bytes, bytes] | None = None,
        detail: str = "",
    ) -> None:
        """Count and log a refusal that was decided elsewhere, such as a limit that a request passed.

        Args:
            reason: one of `REASONS`.
            peer: where the connection comes from, where that is known.
            headers: of the request, likewise.
            detail: what was wrong.
        """
        self.refusals[reason] += 1
        self.log.note(reason, peer=peer, headers=headers, detail=detail)

    def _denied(self, error: AccessDenied, peer: str | None, headers: Mapping[bytes, bytes] | None = None) -> None:
        self.count(error.reason, peer=peer, headers=headers, detail=str(error))

    # Connections

    def open(
        self,
        peer: str,
        headers: Mapping[bytes, bytes],
        repeated: frozenset[bytes],
        query: bytes,
        *,
        counted: bool = False,
    ) -> Opening:
        """Decide about an opening request, of whatever transport.

        Args:
            peer: where the TCP connection comes from, see `peer_of`.
            headers: values by lower-case name.
            repeated: the names that came more than once.
            query: the target from its question mark on.
            counted: whether `arrive` has counted the connection, and it is not over yet.

        Raises:
            AccessDenied: it is not let in.
        """
        try:
            return self._open(peer, headers, repeated, query, counted=counted)
        except AccessDenied as error:
            self._denied(error, peer, headers)
            raise

    def _open(
        self, peer: str, headers: Mapping[bytes, bytes], repeated: frozenset[bytes], query: bytes, *, counted: bool
    ) -> Opening:
        most = self._settings.max_connections
        if most and self._connected() >= most:
            raise _busy("the server has as many clients as it may", "too_many_connections")
        address = None
        if self.addresses is not None and peer not in self._trusted:
            if self.addresses.is_full(peer, besides=counted):
                raise _busy("this address has as many connections as it may", "too_many_per_address")
            address = peer
        if self._handshakes is not None:
            if self._handshakes.wait(self._clock()):
                raise _busy("too many clients are connecting at once", "too_many_handshakes")
            self._handshakes.take()
        self.check_origin(headers)
        self._check_host(peer, headers)
        values: Mapping[str, str] = self._said_by_proxy(peer, headers, repeated)
        end = None
        proof = None
        if not values and self._headers is not None and peer not in self._trusted and self._headers.present(headers):
            self.ignored_headers += 1
        if self._policy.tokens is not None:
            text = _token_of(headers, query)
            if text is not None:
                token = self._policy.tokens.verify(text)
                values = {**values, **token.identity}
                end = self._end_of(token.expires)
                proof = token.proof
        local = self._local is not None and speaks_for_itself(peer, headers) and is_local_page(headers)
        # As for the page that shows them: a name that was made to point here may come without an Origin, too.
        local = local and is_local_host(headers.get(b"host", b"localhost"))
        if not values and end is None and address is None and not local:
            return _ANONYMOUS
        return Opening(Identity(values), end, address, local, proof)

    def _said_by_proxy(self, peer: str, headers: Mapping[bytes, bytes], repeated: frozenset[bytes]) -> Identity:
        """Return the identity that a trusted proxy says in headers; nobody's from others."""
        if self._headers is None or peer not in self._trusted:
            return NOBODY
        return self._headers.read(headers, repeated)

    # Sessions of several requests

    def claimant(self, peer: str, headers: Mapping[bytes, bytes], repeated: frozenset[bytes], query: bytes) -> Claimant:
        """Say who sends a request of a session, its first one or another; parameters as for `open`.

        Raises:
            AccessDenied: a trusted proxy says something that is no identity.
        """
        page, own = self.origins.page_of(headers)
        text = None if self._policy.tokens is None else _token_of(headers, query)
        # The digest, so that a token is not kept, nor compared in a time that depends on what it holds.
        token = None if text is None else sha256(text.encode("latin-1")).digest()
        return Claimant(page, own, self._said_by_proxy(peer, headers, repeated), token)

    def check_claimant(
        self,
        claimant: Claimant | None,
        peer: str,
        headers: Mapping[bytes, bytes],
        repeated: frozenset[bytes],
        query: bytes,
    ) -> None:
        """Refuse a request of a session that somebody else has opened.

        Args:
            claimant: who opened it; ``None`` where there is no such session, so that only the page is looked at.
            peer: where the request comes from; this and what follows is as for `open`.
            headers: of the request.
            repeated: the names that came more than once.
            query: the target from its question mark on.

        Raises:
            AccessDenied: it comes from another page, identity or token, or from a page that may not use the server.
        """
        try:
            self.check_origin(headers)
            self._check_host(peer, headers)
            if claimant is not None:
                self._check_same(claimant, self.claimant(peer, headers, repeated, query))
        except AccessDenied as error:
            self._denied(error, peer, headers)
            raise

    def _check_same(self, claimant: Claimant, other: Claimant) -> None:
        if not claimant.is_same(other):
            raise AccessDenied(_NOT_YOURS, ErrorCode.FORBIDDEN, "session")

    def check_origin(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuse a web page that is neither this server's nor allowed.

        Raises:
            AccessDenied: ``forbidden``.
        """
        if not self.origins.admits(headers):
            text = "web pages of this origin may not use the server; --allow-origin names those that may"
            raise AccessDenied(text, ErrorCode.FORBIDDEN, "origin")

    def check_use(self, peer: str, headers: Mapping[bytes, bytes], *, figures: bool = False) -> None:
        """Decide about a request that neither connects nor publishes.

        Args:
            peer: where the TCP connection comes from.
            headers: values by lower-case name.
            figures: whether it is for what tells how the server does: that is for its own pages and those that are
                named; ``--allow-origin '*'`` names nobody. Monitors ask under any name.

        Raises:
            AccessDenied: it comes from a page that has no business here.
        """
        try:
            if not figures:
                self.check_origin(headers)
                return
            # Whoever follows a link is where the browser is; no page gets at what is shown then.
            followed = b"origin" not in headers and headers.get(b"sec-fetch-mode") == b"navigate"
            if not followed and not self.origins.knows(headers):
                text = "pages of this origin may not see the server's figures; --allow-origin names those that may"
                raise AccessDenied(text, ErrorCode.FORBIDDEN, "origin")  # noqa: TRY301
        except AccessDenied as error:
            self._denied(error, peer, headers)
            raise

    def _check_host(self, peer: str, headers: Mapping[bytes, bytes]) -> None:
        """Refuse a page whose name was made to point to this machine; it is nobody's that may use the server."""
        if self._hosts is None or peer in self._trusted or peer == UNIX:  # no browser opens a Unix socket
            return
        host, origin = headers.get(b"host"), headers.get(b"origin")
        if host is None or self._hosts.knows(host) or (origin is not None and self.origins.listed(origin)):
            return
        text = (
            "the server listens on this machine alone and does not know this Host: name its public address with "
            "--endpoint, or its pages with --allow-origin, or the proxy before it with --trusted-proxies"
        )
        raise AccessDenied(text, ErrorCode.FORBIDDEN, "host")

    def arrive(self, peer: str) -> str | None:
        """Count a connection before its first request.

        Returns:
            Its address, for `depart`; ``None`` where it is not counted.

        Raises:
            AccessDenied: the address has as many as it may.
        """
        if self.addresses is None or peer in self._trusted:
            return None
        if not self.addresses.enter(peer):
            error = _busy("this address has as many connections as it may", "too_many_per_address")
            self._denied(error, peer)
            raise error
        return peer

    def depart(self, address: str | None) -> None:
        """Take out a connection that `arrive` counted: it has ended, or is counted under its handle."""
        if address is not None and self.addresses is not None:
            self.addresses.leave(address)

    def on_connected(self, conn: int, opening: Opening) -> None:
        """Remember a connection that was let in, under its handle."""
        if opening.identity:
            self._identities[conn] = opening.identity
        if opening.local and self._local is not None:
            self._local.add(conn)
        if opening.proof is not None:
            self._proofs[conn] = opening.proof
        if opening.end is not None:
            self._deadlines.set(conn, opening.end, self._clock())
        if opening.address is not None and self.addresses is not None:
            self.addresses.add(opening.address)
            self._counted[conn] = opening.address

    def left(self, conn: int) -> None:
        """Forget a connection."""
        self._identities.pop(conn, None)
        self._proofs.pop(conn, None)
        if self._local is not None:
            self._local.discard(conn)
        self._deadlines.clear(conn)
        address = self._counted.pop(conn, None)
        self.depart(address)

    def identity(self, conn: int) -> Identity:
        """Return who a connection is."""
        return self._identities.get(conn, NOBODY)

    def authenticate(self, conn: int, text: str) -> bool:
        """Take a token for a connection, its first or a newer one.

        Returns:
            Whether the connection is somebody else from now on.

        Raises:
            AccessDenied: the token proves nothing; the connection stays who it was.
        """
        try:
            token = self._verify(text)
        except AccessDenied as error:
            self._denied(error, None)
            raise
        before = self.identity(conn)
        # What headers said stays; the keys of the two sources are never the same.
        said = {} if self._headers is None else {key: before[key] for key in self._headers.keys if key in before}
        identity = Identity({**said, **token.identity})
        if identity:
            self._identities[conn] = identity
        else:
            self._identities.pop(conn, None)
        self._proofs[conn] = token.proof
        self._deadlines.set(conn, self._end_of(token.expires), self._clock())
        return identity is not before

    def _verify(self, text: str) -> Token:
        if self._policy.tokens is None:
            raise AccessDenied("this server takes no tokens", ErrorCode.NOT_AUTHENTICATED, "bad_token")
        return self._policy.tokens.verify(text)

    def due(self) -> tuple[list[tuple[int, float]], list[int]]:
        """Return the connections to warn that they end, with the seconds left, and those that end now."""
        warned, ended = self._deadlines.due(self._clock())
        self.refusals["expired"] += len(ended)
        return warned, ended

    def is_disproved(self, conn: int) -> bool:
        """Whether the key is gone that a connection's token was checked with."""
        proof = self._proofs.get(conn)
        return proof is not None and (self._policy.tokens is None or not self._policy.tokens.knows(proof))

    @property
    def takes_tokens(self) -> bool:
        """Whether a connection can have a token."""
        return self._policy.tokens is not None

    def _end_of(self, expires: float) -> float:
        # Kept on the clock that never goes back: setting the machine's time moves no end.
        return self._clock() + expires - time.time()

    # Subscriptions

    @property
    def restricts(self) -> bool:
        """Whether anything is not allowed to somebody."""
        return self._policy.rules is not None

    def may_subscribe(self, conn: int, channel: bytes) -> bool:
        """Whether a connection may have a subscription; one to the node's own figures is for this machine alone."""
        if self._local is not None and is_reserved(channel):
            return conn in self._local
        rules = self._policy.rules
        return rules is None or rules.allows(channel, self._identities.get(conn, NOBODY))

    def not_granted(self, channel: bytes) -> None:
        """Count and log a subscription that a connection may not have."""
        self.count("not_granted", detail=f"a client asked for {_shown_channel(channel)}")

    # Publications

    def publisher(self, peer: str, headers: Mapping[bytes, bytes]) -> Key | None:
        """Decide who publishes, or uses what only publishers may.

        Args:
            peer: where the TCP connection comes from.
            headers: values by lower-case name.

        Returns:
            The key that was presented, which has paid for one message; ``None`` where none is needed.

        Raises:
            AccessDenied: there is no key, a wrong one, or one that has sent enough for now.
        """
        # The usual case, without a step that it does not need: this is done for each publication.
        if (
            self._policy.keys is None
            and b"origin" not in headers
            and b"sec-fetch-site" not in headers
            and is_loopback(peer)
            and (self._settings.insecure_publish or not is_forwarded(headers))
        ):
            return None
        try:
            return self._publisher(peer, headers)
        except AccessDenied as error:
            self._denied(error, peer, headers)
            raise

    def _publisher(self, peer: str, headers: Mapping[bytes, bytes]) -> Key | None:
        self.check_origin(headers)
        keys = self._policy.keys
        if keys is None:
            if not self._settings.insecure_publish and not self._is_local(peer, headers):
                raise AccessDenied(_PROTECTED, ErrorCode.FORBIDDEN, "protected")
            return None
        match = _BEARER.fullmatch(headers.get(b"authorization", b"").strip(b" \t"))
        key = keys.find(match[1]) if match else None
        if key is None:
            what = "the API key is not known" if match else "an API key is needed: send Authorization: Bearer KEY"
            raise AccessDenied(what, ErrorCode.NOT_AUTHENTICATED, "bad_key")
        if key.rate:
            now = self._clock()
            bucket = self._bucket(key, now)
            wait = bucket.wait(now)
            if wait:
                raise _too_fast(key, wait)
            bucket.take()  # before the body is here: requests side by side count too, and so do those that are wrong
        return key

    def pay(self, key: Key, messages: int) -> None:
        """Count messages of a key's request beyond the first one, which it has paid for, before they are published.

        Raises:
            AccessDenied: others of the key came meanwhile and left it nothing to pay with.
        """
        if not key.rate or messages <= 0:
            return
        now = self._clock()
        bucket = self._bucket(key, now)
        wait = bucket.wait(now, 0.0)
        if wait:
            error = _too_fast(key, wait)
            self._denied(error, None)
            raise error
        bucket.take(messages)

    def publishes(self, key: Key, channels: list[bytes]) -> list[AccessDenied | None]:
        """Say for each message whether a key may publish it."""
        if key.grants is None:
            return [None] * len(channels)
        text = f"the key {key.name} may not publish to this pattern"
        denied = AccessDenied(text, ErrorCode.FORBIDDEN, "key_not_granted")
        answers = [None if key.grants.allows(channel, NOBODY) else denied for channel in channels]
        refused = [channel for channel, answer in zip(channels, answers, strict=True) if answer is not None]
        if refused:
            self.refusals["key_not_granted"] += len(refused) - 1
            self.count("key_not_granted", detail=f"{text}: {_shown_channel(refused[0])}")
        return answers

    def _is_local(self, peer: str, headers: Mapping[bytes, bytes]) -> bool:
        if not speaks_for_itself(peer, headers):
            return False
        origin = headers.get(b"origin")
        return is_local_page(headers) or (origin is not None and self.origins.listed(origin))

    def _bucket(self, key: Key, now: float) -> Bucket:
        known = self._buckets.get(key.name)
        if known is None or known[0] != key.rate:
            known = self._buckets[key.name] = (key.rate, Bucket(key.rate, max(1.0, key.rate), now))
        return known[1]

    # Changes

    def reload(self) -> None:
        """Read the files anew; connections and their identities stay.

        Raises:
            SettingsError: something is wrong, and everything stays as it was.
        """
        self._policy = load_policy(self._settings, self._policy)

    def tick(self) -> None:
        """Log what is left to say of refusals; to be called now and then."""
        self.log.tick()


def _hosts(settings: Settings, origins: Origins) -> Hosts | None:
    """Return the names of a server; ``None`` where it may be asked for under any, as one that others reach."""
    if "*" in settings.allow_origin or not is_own_name(settings.host):
        return None
    endpoints = (settings.endpoint, settings.endpoint_ws, settings.endpoint_api)
    return Hosts([*origins.hosts, *(endpoint for endpoint in endpoints if endpoint)])


def _token_of(headers: Mapping[bytes, bytes], query: bytes) -> str | None:
    match = _BEARER.fullmatch(headers.get(b"authorization", b"")) or _TOKEN.search(query)
    return match[1].decode("latin-1") if match else None


def _shown_channel(channel: bytes) -> str:
    text = channel.decode("ascii")
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def _too_fast(key: Key, wait: float) -> AccessDenied:
    text = f"the key {key.name} may publish {key.rate:g} messages per second"
    return AccessDenied(text, ErrorCode.RATE_LIMITED, "key_rate", wait)


def _busy(text: str, reason: str) -> AccessDenied:
    return AccessDenied(text, ErrorCode.TOO_MANY_CONNECTIONS, reason, RETRY_AFTER)
