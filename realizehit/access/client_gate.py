"""Which clients are let in: opening requests of every transport, and later requests of a polling session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Final

from realizehit.access.bearer import TOKEN_HEADER, client_token
from realizehit.access.claimants import Claimant
from realizehit.access.connected_clients import Opening
from realizehit.access.expiry import monotonic_end
from realizehit.access.identity import NOBODY, Identity, IdentityHeaders
from realizehit.access.limits import AddressLimit, Bucket
from realizehit.access.local import LOCAL_HEADERS, is_local_client
from realizehit.access.page_gate import PageGate
from realizehit.access.peers import UNKNOWN, Networks
from realizehit.access.policy import CurrentPolicy
from realizehit.access.refusals import Refusals
from realizehit.errors import AccessDenied, ErrorCode
from realizehit.settings import Settings

RETRY_AFTER: Final = 5.0  # seconds after which a client that met a full server may try again

_OTHER_CLAIMANT: Final = (
    "this session was opened by somebody else: each of its requests must come from the same origin and carry the same "
    "identity and the same token as the first one"
)
_ANONYMOUS: Final = Opening()
_NONE: Final[frozenset[bytes]] = frozenset()


class ClientGate:
    """Decides about connections and opening requests.

    Args:
        settings: the limits, and whom to trust.
        policy: verifies tokens.
        pages: checks which web page sends a request.
        refusals: counts and logs what is refused.
        clock: seconds of a monotonic clock.
        connected: returns how many clients are connected.
        headers: read the identity that a trusted proxy sets; ``None`` where no header is configured.
        addresses: bounds the connections of each address; ``None`` for no limit.
        shared: whether `connected` counts the clients of other processes too.

    Attributes:
        addresses: as given.
        ignored_headers: opening requests with identity headers from peers that are no trusted proxies.
    """

    def __init__(
        self,
        settings: Settings,
        policy: CurrentPolicy,
        pages: PageGate,
        refusals: Refusals,
        *,
        clock: Callable[[], float],
        connected: Callable[[], int],
        headers: IdentityHeaders | None,
        addresses: AddressLimit | None,
        shared: bool = False,
    ) -> None:
        self._max_connections = settings.max_connections
        self._figures = settings.console
        self._trusted = Networks(settings.trusted_proxies)
        self._policy = policy
        self._pages = pages
        self._refusals = refusals
        self._clock = clock
        self._connected = connected
        self._counts_others = shared and settings.max_connections > 0
        self._headers = headers
        self.addresses: Final = addresses
        rate = settings.max_handshakes
        self._handshakes = Bucket(rate, rate, clock()) if rate else None
        self._has_limits = bool(self._max_connections) or addresses is not None or self._handshakes is not None
        self.ignored_headers = 0

    @property
    def decides_by_head(self) -> bool:
        """Whether `is_admitted` decides about an opening request over TCP, apart from the number of clients here.

        That is so unless a setting asks for a look at each client: at its address, its identity or its token, or at the
        number of clients of other processes.
        """
        return (
            not self._counts_others
            and self.addresses is None
            and self._handshakes is None
            and self._headers is None
            and self._policy.tokens is None
            and not self._trusted
            and not self._figures
        )

    @property
    def watched(self) -> tuple[bytes, ...]:
        """The headers, by lower-case name, that `open_usual` reads."""
        names = list(() if self._headers is None else self._headers.names)
        if self._policy.tokens is not None:
            names.append(TOKEN_HEADER)
        if self._figures:
            names.extend(LOCAL_HEADERS)
        return tuple(dict.fromkeys(names))

    @property
    def needs_peer(self) -> bool:
        """Whether `open_usual` looks at where a client comes from."""
        return self.addresses is not None or self._headers is not None or self._figures or bool(self._trusted)

    def trusts(self, peer: str) -> bool:
        """Whether a peer is a trusted proxy."""
        return peer in self._trusted

    def is_admitted(self, headers: Mapping[bytes, bytes], *, trusted: bool = False) -> bool:
        """Whether a page, or a program, may connect; nothing is counted.

        It is all that is decided where `decides_by_head` is true; elsewhere `open_usual` decides about each client.

        Args:
            headers: values by lower-case name.
            trusted: whether it comes from a trusted proxy, which may ask for any ``Host``; else from wherever it may.
        """
        if trusted and not self._trusted:
            return False
        try:
            self._pages.check_origin(headers)
            if not trusted:
                self._pages.check_host(UNKNOWN, headers)
        except AccessDenied:
            return False
        return True

    # Connections before their first request

    def count_connection(self, peer: str) -> str | None:
        """Count a new connection against the limit of its address.

        Returns:
            Its address, for `release_connection`; ``None`` where it is not counted.

        Raises:
            AccessDenied: the address has as many connections as it may.
        """
        if self.addresses is None or peer in self._trusted:
            return None
        if not self.addresses.enter(peer):
            error = _address_full()
            self._refusals.denied(error, peer)
            raise error
        return peer

    def release_connection(self, address: str | None) -> None:
        """Stop counting a connection: it ended, or a client on it is counted from now on."""
        if address is not None and self.addresses is not None:
            self.addresses.leave(address)

    # Opening requests

    def open(
        self,
        peer: str,
        headers: Mapping[bytes, bytes],
        repeated: frozenset[bytes],
        query: bytes,
        *,
        counted: bool = False,
    ) -> Opening:
        """Decide about an opening request.

        Args:
            peer: where the TCP connection comes from, see `realizehit.access.peers.peer_of`.
            headers: values by lower-case name.
            repeated: the names that came more than once.
            query: the part of the target behind the question mark.
            counted: whether `count_connection` has counted the connection and it is still open.

        Raises:
            AccessDenied: the client is not let in.
        """
        try:
            return self._open(peer, headers, repeated, query, counted=counted)
        except AccessDenied as error:
            self._refusals.denied(error, peer, headers)
            raise

    def open_usual(self, peer: str, headers: Mapping[bytes, bytes], query: bytes) -> Opening:
        """Decide about a client for whose kind of request, and peer, `is_admitted` is true, as `open` does.

        The caller counts and logs refusals, since the request's other headers are not here.

        Args:
            peer: where the TCP connection comes from; anything unless `needs_peer`.
            headers: those of the request that are `watched`, each of which came once.
            query: the part of the target behind the question mark.

        Raises:
            AccessDenied: the client is not let in.
        """
        address = self._check_limits(peer, counted=False) if self._has_limits else None
        return self._opening(address, peer, headers, _NONE, query)

    def _open(
        self, peer: str, headers: Mapping[bytes, bytes], repeated: frozenset[bytes], query: bytes, *, counted: bool
    ) -> Opening:
        address = self._check_limits(peer, counted=counted)
        self._pages.check_origin(headers)
        self._pages.check_host(peer, headers)
        return self._opening(address, peer, headers, repeated, query)

    def _opening(
        self,
        address: str | None,
        peer: str,
        headers: Mapping[bytes, bytes],
        repeated: frozenset[bytes],
        query: bytes,
    ) -> Opening:
        """Return what is known of a client whose page may connect."""
        identity = NOBODY
        if self._headers is not None:
            if peer in self._trusted:
                identity = self._headers.read(headers, repeated)
            elif self._headers.present(headers):
                self.ignored_headers += 1
        end = None
        proof = None
        if self._policy.tokens is not None:
            text = client_token(headers, query)
            if text is not None:
                token = self._policy.tokens.verify(text)
                identity = token.identity if identity is NOBODY else Identity({**identity, **token.identity})
                end = monotonic_end(token.expires, self._clock())
                proof = token.proof
        local = self._figures and is_local_client(peer, headers)
        if identity is NOBODY and end is None and address is None and not local:
            return _ANONYMOUS
        return Opening(identity, end, address, local, proof)

    def _check_limits(self, peer: str, *, counted: bool) -> str | None:
        """Return the address that the client counts under, if any; refuse the client if a limit is reached."""
        if self._max_connections and self._connected() >= self._max_connections:
            raise _busy("the server has as many clients as it may", "too_many_connections")
        address = None
        if self.addresses is not None and peer not in self._trusted:
            if self.addresses.is_full(peer, besides=counted):
                raise _address_full()
            address = peer
        if self._handshakes is not None:
            if self._handshakes.wait(self._clock()):
                raise _busy("too many clients are connecting at once", "too_many_handshakes")
            self._handshakes.take()
        return address

    def _proxy_identity(self, peer: str, headers: Mapping[bytes, bytes], repeated: frozenset[bytes]) -> Identity:
        """Return the identity that a trusted proxy set in headers; headers of other peers are ignored."""
        if self._headers is None or peer not in self._trusted:
            return NOBODY
        return self._headers.read(headers, repeated)

    # Later requests of a session

    def claimant(self, peer: str, headers: Mapping[bytes, bytes], repeated: frozenset[bytes], query: bytes) -> Claimant:
        """Return who sends a request of a polling session; parameters as for `open`.

        Raises:
            AccessDenied: the identity headers of a trusted proxy are malformed.
        """
        page, own = self._pages.origins.page_of(headers)
        text = None if self._policy.tokens is None else client_token(headers, query)
        # The digest: no token is kept in memory, and comparing digests takes a time that tells nothing of the token.
        token = None if text is None else sha256(text.encode("latin-1")).digest()
        return Claimant(page, own, self._proxy_identity(peer, headers, repeated), token)

    def check_claimant(
        self,
        claimant: Claimant | None,
        peer: str,
        headers: Mapping[bytes, bytes],
        repeated: frozenset[bytes],
        query: bytes,
    ) -> None:
        """Refuse a request of a session that somebody else opened.

        Args:
            claimant: who opened it; ``None`` for an unknown session, where only the page is checked.
            peer: where the request comes from; this and what follows is as for `open`.
            headers: of the request.
            repeated: the names that came more than once.
            query: the part of the target behind the question mark.

        Raises:
            AccessDenied: the page, the identity or the token is another one, or the page may not use the server.
        """
        try:
            self._pages.check_origin(headers)
            self._pages.check_host(peer, headers)
            if claimant is not None:
                self._check_same(claimant, self.claimant(peer, headers, repeated, query))
        except AccessDenied as error:
            self._refusals.denied(error, peer, headers)
            raise

    def _check_same(self, claimant: Claimant, other: Claimant) -> None:
        if not claimant.is_same(other):
            raise AccessDenied(_OTHER_CLAIMANT, ErrorCode.FORBIDDEN, "session")


def _address_full() -> AccessDenied:
    return _busy("this address has as many connections as it may", "too_many_per_address")


def _busy(text: str, reason: str) -> AccessDenied:
    return AccessDenied(text, ErrorCode.TOO_MANY_CONNECTIONS, reason, RETRY_AFTER)
