"""The identity of a client: values such as its user and device, from a trusted proxy or a token.

Connections with the same identity share one object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

from realizehit.access.recent import Recent
from realizehit.errors import AccessDenied, ErrorCode, PatternError, SettingsError
from realizehit.pattern import channel_of

_READ: Final = 4096  # identities that are remembered by their headers

_known: Final[WeakValueDictionary[tuple[tuple[str, str], ...], Identity]] = WeakValueDictionary()


class Identity(Mapping[str, str]):
    """Values by key, both in the canonical text of patterns; created by `identity_of`.

    Equal identities are the same object while it is in use.
    """

    __slots__ = ("__weakref__", "_values")

    _values: dict[str, str]

    def __new__(cls, values: Mapping[str, str]) -> Identity:
        key = tuple(sorted(values.items()))
        identity = _known.get(key)
        if identity is None:
            identity = super().__new__(cls)
            identity._values = dict(key)
            _known[key] = identity
        return identity

    def __getitem__(self, key: str) -> str:
        return self._values[key]

    def get(self, key: str, default: Any = None) -> Any:  # many times as fast as the inherited one
        return self._values.get(key, default)

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other if isinstance(other, Identity) else Mapping.__eq__(self, other)

    def __repr__(self) -> str:
        return f"Identity({self._values!r})"


NOBODY: Final = Identity({})
"""The identity of a client that is not identified."""


def canonical_filter(key: str, value: object) -> tuple[str, str]:
    """Return one filter as it stands in a channel: key and value percent-encoded, ``3.0`` as ``3``.

    Raises:
        PatternError: the filter breaks a rule of patterns, or its value is the reserved ``*``.
    """
    name, _, text = channel_of({key: value}).decode("ascii").partition(":")
    return name, text


def canonical_key(key: str) -> str:
    """Return a key as it stands in a channel.

    Raises:
        PatternError: the key breaks a rule of patterns, or is the reserved ``*``.
    """
    return canonical_filter(key, "x")[0]


def identity_of(values: Mapping[str, object], source: str) -> Identity:
    """Create an identity.

    Args:
        values: by key, not yet in canonical text.
        source: where they come from, for the error's text.

    Raises:
        AccessDenied: ``bad-request``; a value cannot be part of a pattern, so nothing could ever be granted to it.
    """
    canonical: dict[str, str] = {}
    for key, value in values.items():
        try:
            name, text = canonical_filter(key, value)
        except PatternError as error:
            raise AccessDenied(f"{source}: {error}", ErrorCode.BAD_REQUEST, "bad_identity") from None
        canonical[name] = text
    return Identity(canonical)


def pairs(texts: Iterable[str], option: str, example: str) -> dict[str, str]:
    """Read ``key=value`` settings.

    Raises:
        SettingsError: a text is not a pair, or a key is repeated or breaks a rule of patterns.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key or not value:
            raise SettingsError(f"{option}: {text!r} is not a pair; write {example}")
        if key in found:
            raise SettingsError(f"{option}: the key {key!r} is given twice")
        try:
            canonical_key(key)
        except PatternError as error:
            raise SettingsError(f"{option}: {error}") from None
        found[key] = value
    return found


class IdentityHeaders:
    """Reads identities from the headers of an opening request.

    Args:
        names: the header for each identity key, such as ``{"user": "X-User"}``.

    Attributes:
        keys: the identity's keys in canonical text.
        names: of the headers, in lower case.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = {key: name.lower().encode("latin-1") for key, name in names.items()}
        self.keys: Final = tuple(map(canonical_key, names))
        self.names: Final = tuple(self._names.values())
        self._read: Recent[tuple[bytes | None, ...], Identity] = Recent(_READ)

    def present(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a request has any of the headers, trusted or not."""
        return any(name in headers for name in self.names)

    def read(self, headers: Mapping[bytes, bytes], repeated: frozenset[bytes]) -> Identity:
        """Return the identity that a trusted proxy has set.

        Args:
            headers: values by lower-case name.
            repeated: the names that came more than once.

        Raises:
            AccessDenied: ``bad-request``; a header is repeated, empty, too long or not UTF-8.
        """
        values = tuple(map(headers.get, self.names))
        identity = self._read.get(values)
        if identity is None or not repeated.isdisjoint(self.names):
            identity = self._read_anew(headers, repeated)  # which limits the length of values
            self._read.put(values, identity)
        return identity

    def _read_anew(self, headers: Mapping[bytes, bytes], repeated: frozenset[bytes]) -> Identity:
        found: dict[str, str] = {}
        for key, name in self._names.items():
            value = headers.get(name)
            if value is None:
                continue
            shown = name.decode("latin-1")
            if name in repeated:
                raise _bad(f"the header {shown} came twice; the proxy must replace what a client sent")
            if not value:
                raise _bad(f"the header {shown} is empty")
            try:
                found[key] = value.decode()
            except UnicodeDecodeError:
                raise _bad(f"the header {shown} is not UTF-8") from None
        return identity_of(found, "the identity headers")


def _bad(text: str) -> AccessDenied:
    return AccessDenied(text, ErrorCode.BAD_REQUEST, "bad_identity")
