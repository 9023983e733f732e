"""API keys: who may publish, what, and how fast. A file holds their SHA-256, never the keys.

A key has 256 random bits, so its plain hash cannot be reversed by trying keys.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Final, NamedTuple

from realizehit.access.grants import Grants, read_grant
from realizehit.access.tables import read_tables
from realizehit.common.suggestions import did_you_mean
from realizehit.errors import SettingsError

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MEMBERS: Final = ("name", "sha256", "grants", "rate", "admin")
_RATE_MOST: Final = 1e9  # messages per second
_LIFTED: Final = {"grants": "grants = [{}]", "rate": f"rate = {_RATE_MOST:.0f}"}


class Key(NamedTuple):
    """One API key.

    Attributes:
        name: names the key in logs and messages.
        digest: SHA-256 of the key, in hexadecimal.
        grants: what may be published with it; ``None`` for everything.
        rate: messages per second; 0 for any number.
        admin: whether it opens the admin API.
    """

    name: str
    digest: str
    grants: Grants | None = None
    rate: float = 0.0
    admin: bool = False


class Keys:
    """All keys of a server.

    Args:
        keys: in any order; names and digests are unique.
    """

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def bounded_by(self, before: Keys) -> tuple[Keys, list[tuple[str, str, str]]]:
        """Keep the grants and rates that keys had before and lack now.

        People seldom remove a bound when they edit the file; a file that is cut off loses bounds.

        Args:
            before: the keys until now; keys with the same name or the same digest are the same.

        Returns:
            The keys; and for each bound that was kept: the key's name, the bound, and what to write to remove it.
        """
        keys = []
        kept = []
        for key in self._keys:
            bounds: dict[str, Any] = {}
            for old in before:
                if old.name != key.name and old.digest != key.digest:
                    continue
                if key.grants is None and old.grants is not None:
                    bounds["grants"] = old.grants
                if not key.rate and old.rate:
                    bounds["rate"] = old.rate
            keys.append(key._replace(**bounds))
            kept += [(key.name, bound, _LIFTED[bound]) for bound in bounds]
        return Keys(keys), kept

    def find(self, presented: bytes) -> Key | None:
        """Return the key that a request presents, ``None`` for an unknown one.

        Cost: compares with every key, so that the time tells nothing about the keys.
        """
        digest = digest_of(presented)
        found = None
        for key in self._keys:
            if compare_digest(digest, key.digest):
                found = key
        return found


def digest_of(key: bytes) -> str:
    """Return the digest of a key as it stands in the file."""
    return sha256(key).hexdigest()


def generate(name: str) -> tuple[str, str]:
    """Generate a new key.

    Returns:
        The key, and the TOML table for the file.

    Raises:
        SettingsError: the name is invalid.
    """
    _check_name(name, "the key's name")
    key = "rh_" + secrets.token_urlsafe(32)
    return key, f'[[key]]\nname = "{name}"\nsha256 = "{digest_of(key.encode())}"\n'


def read_keys(table: Mapping[str, Any], where: str) -> Keys:
    """Read the content of a file of keys.

    Args:
        table: the parsed TOML.
        where: the file's name, for errors.

    Raises:
        SettingsError: the content is wrong; the text says what and where.
    """
    keys: list[Key] = []
    for place, entry in read_tables(table, "key", where):
        key = _read_key(entry, place)
        for other in keys:
            if other.name == key.name or other.digest == key.digest:
                raise SettingsError(f"{place}: its name or its sha256 is also that of {other.name!r}")
        keys.append(key)
    return Keys(keys)


def _read_key(entry: object, place: str) -> Key:
    if not isinstance(entry, dict):
        raise SettingsError(f"{place}: it is not a table")
    unknown = set(entry) - {*_MEMBERS}
    if unknown:
        meant = did_you_mean(min(unknown), _MEMBERS) or f"; known are {', '.join(_MEMBERS)}"
        raise SettingsError(f"{place}: unknown key {min(unknown)!r}{meant}")
    name, digest, rate = entry.get("name"), entry.get("sha256"), entry.get("rate", 0.0)
    _check_name(name, f"{place}: name")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise SettingsError(f"{place}: sha256 is not 64 lower-case hexadecimal digits; realizehit gen-key prints it")
    if "rate" in entry and (isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= _RATE_MOST):
        raise SettingsError(f"{place}: rate is not a number of messages per second above 0")
    admin = entry.get("admin", False)
    if not isinstance(admin, bool):
        raise SettingsError(f"{place}: admin is not true or false")
    grants = None
    if "grants" in entry:
        if not isinstance(entry["grants"], list):
            raise SettingsError(f'{place}: grants is not a list of patterns; write [{{kind = "news"}}]')
        grants = Grants(
            [
                read_grant(pattern, f"{place}: grants", frozenset(), f"pattern {n} of the key")
                for n, pattern in enumerate(entry["grants"], 1)
            ]
        )
    return Key(str(name), digest, grants, float(rate), admin)


def _check_name(name: object, place: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        looks_like_a_key = isinstance(name, str) and (len(name) > 64 or name.startswith("rh_"))
        shown = "it" if looks_like_a_key else repr(name) if isinstance(name, str | None) else f"a {type(name).__name__}"
        raise SettingsError(f"{place}: {shown} cannot be used; write 1 to 64 letters, digits, . _ or -")
