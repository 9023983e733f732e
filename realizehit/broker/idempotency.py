"""Idempotency keys at the broker: publications with one are published once within a window, see `publish_script`."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Final

from realizehit.broker.publication import Publication

WINDOW: Final = 120.0
"""Seconds for which a key is remembered by default."""

PREFIX: Final = "realizehit:once:"
"""What the names of the script's keys at the broker begin with."""

REGISTRY: Final = "realizehit:shapes"
"""The sorted set of shapes; `realizehit.broker.shapes.registry` defines it."""

RIGHTS: Final = (
    "publishing with an idempotency key needs the rights to EVAL, EVALSHA, GET, SET and DEL with the keys "
    f"{PREFIX}*, and with wildcards to ZSCORE with the key {REGISTRY}"
)

_key_of: Final = attrgetter("key")


def has_keys(publications: Iterable[Publication]) -> bool:
    """Whether one of some publications has an idempotency key.

    Cost: 25 ns for each publication without one.
    """
    return any(map(_key_of, publications))


def key_name(publication: Publication) -> bytes:
    """Return the name of a publication's key at the broker; the channel is its hash tag."""
    return b"%b{%b}:%b" % (PREFIX.encode(), publication.channel, publication.key)
