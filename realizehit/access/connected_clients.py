"""Who the connected clients are, until when, and what each may subscribe to.

Nothing is kept for a connection without an identity, an end or a counted address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from realizehit.access.expiry import Deadlines, monotonic_end
from realizehit.access.identity import NOBODY, Identity
from realizehit.access.limits import AddressLimit
from realizehit.access.policy import CurrentPolicy
from realizehit.access.refusals import Refusals, shown_channel
from realizehit.access.tokens import Token
from realizehit.errors import AccessDenied, ErrorCode
from realizehit.pattern import is_presence, is_reserved


class Opening(NamedTuple):
    """What is known of a connection that was let in.

    Attributes:
        identity: who the client is; `NOBODY` where it is not identified.
        end: until when, in seconds of the gate's clock; ``None`` without an end.
        address: where it comes from, if connections of that address are counted.
        local: whether it comes from this machine and may see the server's figures.
        proof: the mark of the key that verified its token; ``None`` without a token.
    """

    identity: Identity = NOBODY
    end: float | None = None
    address: str | None = None
    local: bool = False
    proof: bytes | None = None


class ConnectedClients:
    """The clients of a node by their connection, which is the engine's handle.

    Args:
        policy: has the rules and verifies tokens.
        refusals: counts and logs what is refused.
        clock: seconds of a monotonic clock.
        addresses: counts the connections of each address; ``None`` where they have no limit.
        header_keys: the identity keys that come from headers and not from a token.
        expiry_warning: seconds before a token's end at which its client is warned.
        figures: whether clients on this machine may subscribe to the server's figures.
    """

    def __init__(
        self,
        policy: CurrentPolicy,
        refusals: Refusals,
        *,
        clock: Callable[[], float],
        addresses: AddressLimit | None,
        header_keys: tuple[str, ...],
        expiry_warning: float,
        figures: bool,
    ) -> None:
        self._policy = policy
        self._refusals = refusals
        self._clock = clock
        self._addresses = addresses
        self._header_keys = header_keys
        self._deadlines = Deadlines(expiry_warning)
        self._identities: dict[int, Identity] = {}
        self._proofs: dict[int, bytes] = {}  # the marks are shared objects
        self._counted: dict[int, str] = {}
        self._local: set[int] | None = set() if figures else None

    def on_connected(self, conn: int, opening: Opening) -> None:
        """Remember a connection that was let in."""
        if opening.identity is not NOBODY:  # the only one that is empty
            self._identities[conn] = opening.identity
        if opening.local and self._local is not None:
            self._local.add(conn)
        if opening.proof is not None:
            self._proofs[conn] = opening.proof
        if opening.end is not None:
            self._deadlines.set(conn, opening.end, self._clock())
        if opening.address is not None and self._addresses is not None:
            self._addresses.add(opening.address)
            self._counted[conn] = opening.address

    def on_disconnected(self, conn: int) -> None:
        """Forget a connection."""
        self._identities.pop(conn, None)
        self._proofs.pop(conn, None)
        if self._local is not None:
            self._local.discard(conn)
        self._deadlines.clear(conn)
        address = self._counted.pop(conn, None)
        if address is not None and self._addresses is not None:
            self._addresses.leave(address)

    def identity(self, conn: int) -> Identity:
        """Return who a client is."""
        return self._identities.get(conn, NOBODY)

    def identified(self) -> list[tuple[int, Identity]]:
        """Return the connections of identified clients, with their identities."""
        return list(self._identities.items())

    # Tokens

    @property
    def take_tokens(self) -> bool:
        """Whether clients can have a token."""
        return self._policy.tokens is not None

    def authenticate(self, conn: int, text: str) -> bool:
        """Accept a client's token, its first one or a newer one.

        Returns:
            Whether the client has another identity from now on.

        Raises:
            AccessDenied: the token is not valid; the client keeps its identity.
        """
        try:
            token = self._verify(text)
        except AccessDenied as error:
            self._refusals.denied(error, None)
            raise
        before = self.identity(conn)
        # What a proxy's headers said stays. No key comes from both headers and tokens.
        from_headers = {key: before[key] for key in self._header_keys if key in before}
        identity = Identity({**from_headers, **token.identity})
        if identity:
            self._identities[conn] = identity
        else:
            self._identities.pop(conn, None)
        self._proofs[conn] = token.proof
        now = self._clock()
        self._deadlines.set(conn, monotonic_end(token.expires, now), now)
        return identity is not before

    def _verify(self, text: str) -> Token:
        if self._policy.tokens is None:
            raise AccessDenied("this server takes no tokens", ErrorCode.NOT_AUTHENTICATED, "bad_token")
        return self._policy.tokens.verify(text)

    def due(self) -> tuple[list[tuple[int, float]], list[int]]:
        """Return the connections to warn of their token's end, with the seconds left, and those to end now."""
        warned, ended = self._deadlines.due(self._clock())
        self._refusals.counts["expired"] += len(ended)
        return warned, ended

    def has_revoked_key(self, conn: int) -> bool:
        """Whether the key that verified a client's token is not configured any more."""
        proof = self._proofs.get(conn)
        return proof is not None and (self._policy.tokens is None or not self._policy.tokens.knows(proof))

    # Subscriptions

    @property
    def are_restricted(self) -> bool:
        """Whether there are subscriptions that some client may not have."""
        return self._policy.rules is not None

    @property
    def are_free(self) -> bool:
        """Whether `may_subscribe` is true for all clients and channels, and remains so."""
        return self._local is None and self._policy.rules is None

    def may_subscribe(self, conn: int, channel: bytes) -> bool:
        """Whether a client may have a subscription, with or without wildcards.

        With a console, the server's own channels are for clients on this machine only, whatever the rules say. Joins
        and leaves of a pattern are for those who may have the pattern with one filter more.
        """
        if self._local is not None and is_reserved(channel) and not is_presence(channel):
            return conn in self._local
        rules = self._policy.rules
        return rules is None or rules.allows(channel, self._identities.get(conn, NOBODY))

    def not_granted(self, channel: bytes) -> None:
        """Count and log a subscription that a client may not have."""
        self._refusals.count("not_granted", detail=f"a client asked for {shown_channel(channel)}")
