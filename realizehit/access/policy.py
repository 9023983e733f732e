"""The access policy of a server, read from files: a reload replaces all of it or nothing."""

from __future__ import annotations

import codecs
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final, NamedTuple

from realizehit.access.grants import OwnOnly, Rules, read_grants
from realizehit.access.identity import pairs
from realizehit.access.keys import Keys, read_keys
from realizehit.access.tables import parse
from realizehit.access.tokens import TokenVerifier
from realizehit.errors import SettingsError
from realizehit.settings import Settings

logger: Final = logging.getLogger(__name__)


class Policy(NamedTuple):
    """Everything that a reload may change.

    Attributes:
        rules: what may be subscribed to; ``None`` for everything.
        tokens: verifies tokens; ``None`` if no tokens are accepted.
        keys: the API keys; nobody may publish if there are none; ``None`` if no file is configured.
    """

    rules: Rules | None
    tokens: TokenVerifier | None
    keys: Keys | None


def load_policy(settings: Settings, before: Policy | None = None) -> Policy:
    """Read the files that the settings name.

    Args:
        settings: what was configured.
        before: the policy until now; keys that lost a bound since then keep it.

    Raises:
        SettingsError: a file cannot be read or is wrong, or settings contradict each other.
    """
    rules = load_rules(settings, identity_keys(settings))
    keys = None if settings.keys is None else read_keys(read_toml(settings.keys), settings.keys)
    if settings.insecure_publish and keys is not None:
        raise SettingsError("--insecure-publish lets everybody publish, --keys only clients with a key; choose one")
    if keys is not None and before is not None and before.keys is not None:
        keys, kept = keys.bounded_by(before.keys)
        for name, bound, lift in kept:
            text = (
                "%s: the key %s lost its %s, as in a file that is cut off, so the old one stays; to remove it, write %s"
            )
            logger.warning(text, settings.keys, name, bound, lift)
    return Policy(rules, _tokens(settings), keys)


class CurrentPolicy:
    """The policy in force; a reload replaces it as a whole.

    Args:
        settings: the configuration.

    Attributes:
        rules, tokens, keys: as in `Policy`.

    Raises:
        SettingsError: as `load_policy`.
    """

    __slots__ = ("_settings", "keys", "rules", "tokens")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.rules, self.tokens, self.keys = load_policy(settings)

    def reload(self) -> None:
        """Read the files again.

        Raises:
            SettingsError: a file is wrong, and nothing changes.
        """
        before = Policy(self.rules, self.tokens, self.keys)
        self.rules, self.tokens, self.keys = load_policy(self._settings, before)


def identity_keys(settings: Settings) -> frozenset[str]:
    """Return the keys by which clients are identified.

    Raises:
        SettingsError: a pair is wrong, or a key comes from two sources.
    """
    headers, claims = header_names(settings), _claims(settings)
    twice = sorted(headers.keys() & claims.keys())
    if twice:
        raise SettingsError(f"the identity key {twice[0]!r} comes from a header (--identify) and a claim (--jwt-claim)")
    return frozenset(headers.keys() | claims.keys())


def load_rules(settings: Settings, keys: Collection[str] | None) -> Rules | None:
    """Read what may be subscribed to.

    Args:
        settings: name the file of grants, if there is one.
        keys: by which clients are identified; ``None`` if unknown.

    Returns:
        The rules; ``None`` if everything may be subscribed to.

    Raises:
        SettingsError: the file cannot be read or is wrong.
    """
    if settings.grants is not None:
        return read_grants(read_toml(settings.grants), settings.grants, keys)
    return OwnOnly(keys) if keys else None


def _claims(settings: Settings) -> dict[str, str]:
    return pairs(settings.jwt_claims, "--jwt-claim", "user=sub")


def header_names(settings: Settings) -> dict[str, str]:
    """Return the header for each identity key.

    Raises:
        SettingsError: a pair or the name of a header is wrong.
    """
    names = pairs(settings.identify, "--identify", "user=X-User")
    for name in names.values():
        if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise SettingsError(f"--identify: {name!r} is not the name of a header")
    return names


def _tokens(settings: Settings) -> TokenVerifier | None:
    claims = _claims(settings)
    if settings.jwt_key_file is None and settings.jwt_secret is None:
        if claims or settings.jwt_algorithms:
            raise SettingsError("tokens need a key: set --jwt-key-file or the variable REALIZEHIT_JWT_SECRET")
        return None
    if settings.jwt_secret is not None and settings.jwt_key_file is not None:
        raise SettingsError("--jwt-key-file and REALIZEHIT_JWT_SECRET are both set; choose one")
    if not settings.jwt_algorithms or not claims:
        raise SettingsError("tokens need --jwt-algorithm, such as HS256, and --jwt-claim, such as user=sub")
    if settings.jwt_key_file is None:
        material = (settings.jwt_secret or "").encode()
    else:
        material = _read(settings.jwt_key_file).rstrip(b"\r\n")  # as an editor leaves it
        if material.removeprefix(codecs.BOM_UTF8).isascii():  # binary keys have no byte order mark
            material = material.removeprefix(codecs.BOM_UTF8)
    return TokenVerifier(
        material,
        settings.jwt_algorithms,
        claims,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        leeway=settings.jwt_leeway,
    )


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None


def read_toml(path: str) -> dict[str, Any]:
    """Read a TOML file of grants or keys.

    Raises:
        SettingsError: it cannot be read, is not TOML, or would allow more if it were cut off.
    """
    try:
        text = _read(path).decode("utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not TOML: {error}") from None
    return parse(text, path)
