"""Who may publish, what, and how fast."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from realizehit.access.bearer import bearer_token
from realizehit.access.identity import NOBODY
from realizehit.access.keys import Key
from realizehit.access.limits import Bucket
from realizehit.access.local import is_local_program, is_local_publisher
from realizehit.access.page_gate import PageGate
from realizehit.access.policy import CurrentPolicy
from realizehit.access.refusals import Refusals, shown_channel
from realizehit.access.shared_limits import SharedLimits
from realizehit.errors import AccessDenied, ErrorCode

_PROTECTED: Final = (
    "no API key is configured, so only this machine may do this; make a key with 'realizehit gen-key NAME', put its "
    "lines into a file and name that with --keys (or let everybody in with --insecure-publish)"
)

_ADMIN_PROTECTED: Final = (
    "no API key is configured, so only programs on this machine may do this; make a key with 'realizehit gen-key "
    "NAME', add admin = true to its lines in a file, and name that with --keys"
)


class PublisherGate:
    """Decides about publications.

    Args:
        policy: has the API keys.
        pages: checks which web page sends a request.
        refusals: counts and logs what is refused.
        insecure: whether everybody may publish without a key.
        clock: seconds of a monotonic clock, the same for all processes of this machine.
        shared: counts the rates of keys together with other workers; ``None`` where this process is the only one.
    """

    def __init__(
        self,
        policy: CurrentPolicy,
        pages: PageGate,
        refusals: Refusals,
        *,
        insecure: bool,
        clock: Callable[[], float],
        shared: SharedLimits | None = None,
    ) -> None:
        self._policy = policy
        self._pages = pages
        self._refusals = refusals
        self._insecure = insecure
        self._clock = clock
        self._new_bucket = _own_bucket if shared is None else shared.bucket
        self._buckets: dict[str, tuple[float, Bucket]] = {}  # by the key's name: its rate, and what is left of it

    def authenticate(self, peer: str, headers: Mapping[bytes, bytes]) -> Key | None:
        """Decide about a request to publish, or to use something that only publishers may use.

        Args:
            peer: where the TCP connection comes from.
            headers: values by lower-case name.

        Returns:
            The key of the request, already charged for one message; ``None`` where no key is needed.

        Raises:
            AccessDenied: the key is missing, unknown or over its rate.
        """
        # The shortest way for the most frequent case: this is called for each publication.
        if self._policy.keys is None and is_local_program(peer, headers):
            return None
        try:
            return self._authenticate(peer, headers)
        except AccessDenied as error:
            self._refusals.denied(error, peer, headers)
            raise

    def authenticate_admin(self, peer: str, headers: Mapping[bytes, bytes]) -> None:
        """Decide about a request to the admin API; ``insecure`` does not open it.

        Args:
            peer: where the TCP connection comes from.
            headers: values by lower-case name.

        Raises:
            AccessDenied: the key is missing, unknown, over its rate or has no ``admin = true``.
        """
        try:
            self._check_admin(peer, headers)
        except AccessDenied as error:
            self._refusals.denied(error, peer, headers)
            raise

    def _check_admin(self, peer: str, headers: Mapping[bytes, bytes]) -> None:
        if self._policy.keys is None and not is_local_publisher(peer, headers, self._pages.origins):
            raise AccessDenied(_ADMIN_PROTECTED, ErrorCode.FORBIDDEN, "protected")
        key = self._authenticate(peer, headers)
        if key is not None and not key.admin:
            text = f"the key {key.name} is for publishing only; the admin API needs a key with admin = true"
            raise AccessDenied(text, ErrorCode.FORBIDDEN, "key_not_granted")

    def _authenticate(self, peer: str, headers: Mapping[bytes, bytes]) -> Key | None:
        self._pages.check_origin(headers)
        keys = self._policy.keys
        if keys is None:
            if not self._insecure and not is_local_publisher(peer, headers, self._pages.origins):
                raise AccessDenied(_PROTECTED, ErrorCode.FORBIDDEN, "protected")
            return None
        presented = bearer_token(headers.get(b"authorization", b"").strip(b" \t"))
        key = None if presented is None else keys.find(presented)
        if key is None:
            needed = "an API key is needed: send Authorization: Bearer KEY"
            text = needed if presented is None else "the API key is not known"
            raise AccessDenied(text, ErrorCode.NOT_AUTHENTICATED, "bad_key")
        if key.rate:
            now = self._clock()
            bucket = self._bucket(key, now)
            wait = bucket.wait(now)
            if wait:
                raise _too_fast(key, wait)
            # Charged before the body arrives, so that concurrent and malformed requests count too.
            bucket.take()
        return key

    def charge(self, key: Key, messages: int) -> None:
        """Charge a key for the messages of a request beyond the first one, before they are published.

        Raises:
            AccessDenied: ``rate-limited``; concurrent requests with the same key have used up its rate.
        """
        if not key.rate or messages <= 0:
            return
        now = self._clock()
        bucket = self._bucket(key, now)
        wait = bucket.wait(now, 0.0)
        if wait:
            error = _too_fast(key, wait)
            self._refusals.denied(error, None)
            raise error
        bucket.take(messages)

    def check_channels(self, key: Key, channels: list[bytes]) -> list[AccessDenied | None]:
        """Decide for each channel whether a key may publish to it.

        Returns:
            For each channel ``None``, or the error that says why not.
        """
        if key.grants is None:
            return [None] * len(channels)
        text = f"the key {key.name} may not publish to this pattern"
        denied = AccessDenied(text, ErrorCode.FORBIDDEN, "key_not_granted")
        answers = [None if key.grants.allows(channel, NOBODY) else denied for channel in channels]
        refused = [channel for channel, answer in zip(channels, answers, strict=True) if answer is not None]
        if refused:
            self._refusals.counts["key_not_granted"] += len(refused) - 1
            self._refusals.count("key_not_granted", detail=f"{text}: {shown_channel(refused[0])}")
        return answers

    def _bucket(self, key: Key, now: float) -> Bucket:
        known = self._buckets.get(key.name)
        if known is None or known[0] != key.rate:
            known = self._buckets[key.name] = (
                key.rate,
                self._new_bucket(key.name, key.rate, max(1.0, key.rate), now),
            )
        return known[1]


def _own_bucket(_name: str, rate: float, burst: float, now: float) -> Bucket:
    return Bucket(rate, burst, now)


def _too_fast(key: Key, wait: float) -> AccessDenied:
    text = f"the key {key.name} may publish {key.rate:g} messages per second"
    return AccessDenied(text, ErrorCode.RATE_LIMITED, "key_rate", wait)
