"""Pattern: a set of filters, its canonical channel and its id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, NewType
from urllib.parse import unquote

from realizehit.errors import PatternError, WildcardUnsupported

# An extension that exists and cannot be loaded is an error: only an absent one is replaced.
if TYPE_CHECKING or find_spec("realizehit._fanout"):
    from realizehit import _fanout as _functions
else:
    from realizehit import pattern_text as _functions

FilterValue = str | int | float | bool
"""What a filter's value may be; ``3``, ``3.0`` and ``"3"`` are the same value."""

Channel = NewType("Channel", bytes)
"""The canonical text of a pattern. It is not the name of a channel at the broker, which has a type of its own."""

RESERVED_KEY: Final = "realizehit"
"""Only servers publish to patterns that have this key."""

PRESENCE: Final = b"realizehit:presence"
"""The filter that the pattern of joins and leaves has besides those of the pattern that they are about."""

MAX_FILTERS: Final = _functions.MAX_FILTERS
MAX_KEY: Final = _functions.MAX_KEY  # bytes, percent-encoded
MAX_VALUE: Final = _functions.MAX_VALUE  # bytes, percent-encoded
MAX_CHANNEL: Final = _functions.MAX_CHANNEL  # bytes

channel_id = _functions.channel_id  # of a channel: the label on the wire
projections = _functions.projections  # of a publication's channel, by several shapes: see `project`


def channel_of(filters: object, *, wildcards: bool = False) -> Channel:
    """Turn filters into their channel, without building a `Pattern`. Servers do this for each action and publication.

    Args:
        filters: a mapping of keys to values, as it came off the wire.
        wildcards: whether the reserved ``*`` is allowed.

    Returns:
        The channel as ASCII bytes, e.g. ``b"channel:CNN|kind:news"``.

    Raises:
        WildcardUnsupported: a filter's value is ``*`` and ``wildcards`` is false.
        PatternError: any other rule is broken; the text names the filter.

    Source: the canonical form in ``docs/patterns.md``.
    """
    if not isinstance(filters, dict):
        if not isinstance(filters, Mapping):
            raise PatternError(f"a pattern is an object of filters, not {_json_name(filters)}")
        filters = dict(filters)
    try:
        return _functions.canonical(filters, wildcards)  # type: ignore[return-value]  # saves a call for each publication
    except _functions.InvalidPattern as error:
        raise (WildcardUnsupported if error.wildcard else PatternError)(str(error)) from None


def publication_channel(filters: object) -> bytes:
    """Turn the filters of a publication into their channel.

    Raises:
        PatternError: a rule is broken, or a filter's value is the wildcard ``*``, which only subscriptions can have.
    """
    try:
        return channel_of(filters)
    except WildcardUnsupported as error:
        raise PatternError(f"{error}; only subscriptions can have wildcards") from None


def subscription_channel(filters: object, *, wildcards: bool) -> Channel:
    """Turn the filters of a client's subscription into their channel.

    Args:
        filters: a mapping of keys to values, as the client sent it.
        wildcards: whether this server serves wildcards.

    Raises:
        WildcardUnsupported: a filter's value is ``*``, and this server serves no wildcards.
        PatternError: any other rule is broken; the text names the filter.
    """
    try:
        return channel_of(filters, wildcards=wildcards)
    except WildcardUnsupported as error:
        raise WildcardUnsupported(f"{error}; wildcards are off on this server") from None


def shape_of(channel: bytes) -> bytes:
    """Return the shape of a subscription: its channel with ``=`` for each fixed value, ``b"channel:*|kind:="``.

    Subscriptions of one shape differ in their fixed values alone. A publication matches at most one of them: the one
    whose channel is its projection.

    Args:
        channel: what `channel_of` returned, with or without a star.

    Raises:
        ValueError: it is not a channel.
    """
    return _functions.shape_of(channel)


def project(channel: bytes, shape: bytes) -> bytes | None:
    """Return the channel of the one wildcard subscription of a shape that a publication matches.

    The fixed keys take the publication's values: ``b"channel:CNN|kind:news"`` by ``b"channel:*|kind:="`` is
    ``b"channel:*|kind:news"``.

    Args:
        channel: what `channel_of` returned for the publication, so without a star.
        shape: what `shape_of` returned for a wildcard subscription.

    Returns:
        None where no subscription of that shape matches: the publication lacks a key of it, or has a further one that
        the shape does not leave open; or the publication has the `RESERVED_KEY`.
    """
    return _functions.project(channel, shape)


def is_reserved(channel: bytes) -> bool:
    """Tell whether a channel is that of a pattern with the reserved key."""
    return channel.startswith(b"realizehit:") or b"|realizehit:" in channel


def is_presence(channel: bytes) -> bool:
    """Tell whether a channel is that of the joins and leaves of a pattern."""
    return PRESENCE in channel.split(b"|") if PRESENCE in channel else False


def presence_channel(channel: bytes) -> Channel | None:
    """Return the channel of the joins and leaves of a pattern: it has the filter `PRESENCE` too.

    Args:
        channel: the pattern's, without a star and without the reserved key.

    Returns:
        None where that would be too many filters, or too long.
    """
    filters: list[bytes] = [*channel.split(b"|"), PRESENCE]
    filters.sort(key=_key_of)
    derived = b"|".join(filters)
    return Channel(derived) if len(filters) <= MAX_FILTERS and len(derived) <= MAX_CHANNEL else None


def _key_of(text: bytes) -> bytes:
    return text.partition(b":")[0]


def watched_channel(channel: bytes) -> Channel:
    """Return the channel whose joins and leaves are published to another one, of which `is_presence` is true."""
    return Channel(b"|".join(text for text in channel.split(b"|") if text != PRESENCE))


def is_wildcard(channel: bytes) -> bool:
    """Tell whether a channel is that of a pattern with the reserved star; any other star is percent-encoded."""
    return b"*" in channel


def _json_name(value: object) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), f"a {type(value).__name__}")


class Pattern(Mapping[str, FilterValue]):
    """A set of filters, immutable, equal to every pattern with the same channel.

    A pattern is a mapping, so it goes wherever filters go::

        Pattern({"kind": "news", "channel": "CNN"})
        Pattern(kind="news", channel="CNN")
        Pattern.parse("kind=news,channel=CNN")

    Args:
        filters: 1 to 16 filters; keys are strings, values strings, numbers or booleans.
        **more: further filters, which win over those of ``filters``.

    Raises:
        PatternError: a rule is broken.

    Attributes:
        channel: the canonical text, ``channel:CNN|kind:news``, which is also ``str(pattern)``.
        id: the label on the wire, ``3bf1d979``. Two patterns may share it: never use it as a key.
        has_wildcard: whether a value is the reserved ``*``; nothing can be published to such a pattern.

    ``{"kind": "news", "channel": "*"}`` leaves the value of ``channel`` open, and ``{"user": 42, "*": "*"}`` whatever
    other filters there are.
    """

    __slots__ = ("_filters", "channel", "has_wildcard", "id")

    channel: Final[str]  # type: ignore[misc]  # set through object.__setattr__, since instances are immutable
    id: Final[str]  # type: ignore[misc]
    has_wildcard: Final[bool]  # type: ignore[misc]

    def __init__(self, filters: Mapping[str, FilterValue] | None = None, /, **more: FilterValue) -> None:
        if filters is not None and not isinstance(filters, Mapping):
            raise PatternError(f"a pattern is an object of filters, not {_json_name(filters)}")
        own = {**(filters or {}), **more}
        channel = channel_of(own, wildcards=True)
        put = object.__setattr__
        put(self, "_filters", own)
        put(self, "channel", channel.decode("ascii"))
        put(self, "id", channel_id(channel))
        put(self, "has_wildcard", "*" in own.values())

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read the command line's form, ``key=value`` pairs with commas between them.

        A comma, an equals sign or a percent sign inside a key or value is written as ``%2C``, ``%3D`` or ``%25``; any
        other percent-encoded byte is understood too. Values stay text, which makes no difference to the channel. ``**``
        is short for ``*=*``: any further filters.

        Raises:
            PatternError: a pair has no ``=``, a key comes twice, or a rule of patterns is broken.
        """
        filters: dict[str, str] = {}
        for pair in text.split(","):
            key, equals, value = pair.partition("=") if pair.strip() != "**" else ("*", "=", "*")
            if not equals:
                raise PatternError(f"{pair!r} in {text!r} is not a filter; write key=value")
            try:
                key, value = unquote(key.strip(), errors="strict"), unquote(value.strip(), errors="strict")
            except UnicodeDecodeError:
                raise PatternError(f"{pair!r} in {text!r} is not valid UTF-8 once decoded") from None
            if key in filters:
                raise PatternError(f"the key {key!r} occurs twice in {text!r}")
            filters[key] = value
        return cls(filters)

    @property
    def shape(self) -> str:
        """The channel with ``=`` in the place of each fixed value: ``channel:*|kind:=``."""
        return _functions.shape_of(self.channel.encode("ascii")).decode("ascii")

    def matches(self, publication: Mapping[str, FilterValue]) -> bool:
        """Tell whether a subscription to this pattern receives a publication to another pattern.

        A pattern without a star matches only itself. A pattern with a star matches every publication that has the same
        fixed values, a value for each key whose value is ``*``, and no further filters unless ``"*": "*"`` allows them.
        A star never matches a pattern with the `RESERVED_KEY`.

        Raises:
            WildcardUnsupported: `publication` has a star; only subscriptions can have one.
            PatternError: `publication` breaks another rule.
        """
        try:
            published = channel_of(publication)
        except WildcardUnsupported as error:
            raise WildcardUnsupported(f"{error}; only subscriptions can have wildcards") from None
        own = self.channel.encode("ascii")
        return _functions.project(published, _functions.shape_of(own)) == own if self.has_wildcard else published == own

    def __getitem__(self, key: str) -> FilterValue:
        return self._filters[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._filters)

    def __len__(self) -> int:
        return len(self._filters)

    def __eq__(self, other: object) -> bool:
        return self.channel == other.channel if isinstance(other, Pattern) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.channel)

    def __str__(self) -> str:
        return self.channel

    def __repr__(self) -> str:
        return f"Pattern({self._filters!r})"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Pattern is immutable; build a new one to change {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Pattern is immutable; build a new one without {name!r}")

    def __reduce__(self) -> tuple[type[Pattern], tuple[dict[str, FilterValue]]]:
        return type(self), (dict(self._filters),)

    _filters: Mapping[str, FilterValue]
