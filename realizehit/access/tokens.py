"""Identities from JSON Web Tokens, checked by PyJWT against a fixed list of algorithms.

Source: RFC 7519 (JWT), RFC 7517 (JWK), RFC 7518, section 3.2 (how long a secret must be).
"""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from realizehit.access.identity import Identity, identity_of
from realizehit.access.recent import Recent
from realizehit.errors import AccessDenied, ErrorCode, SettingsError

if TYPE_CHECKING:
    import jwt

SECRET_ALGORITHMS: Final = ("HS256", "HS384", "HS512")
ALGORITHMS: Final = (
    *SECRET_ALGORITHMS,
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
MAX_TOKEN: Final = 8 * 1024  # bytes
REMEMBERED: Final = 16_384  # tokens; about 0.6 KiB each
_LARGEST: Final = 2**53 - 1  # different larger numbers are equal to software that reads JSON numbers as doubles


class Token(NamedTuple):
    """The content of a valid token.

    Attributes:
        identity: who the client is.
        expires: seconds since 1970.
        proof: the mark of the key that verified it, see `TokenVerifier.knows`.
    """

    identity: Identity
    expires: float
    proof: bytes


class _Verified(NamedTuple):
    """The result for a token that was found valid.

    Attributes:
        since: when it was verified, in seconds since 1970.
        until: when it expires, likewise.
    """

    token: Token
    since: float
    until: float


class TokenVerifier:
    """Verifies tokens and reads the identity from their claims.

    It remembers the results for valid tokens by the digests of their texts, since clients come back with the same
    token. A reload of the keys makes another verifier, which remembers nothing.

    Args:
        material: a secret, a public key in PEM, or a JWKS.
        algorithms: that a token may use; either all use a secret or all use public keys.
        claims: the claim for each identity key.
        audience, issuer: that a token must have; ``None`` for any.
        leeway: seconds by which clocks may differ.

    Raises:
        SettingsError: the key does not fit the algorithms, or cannot be read.
    """

    def __init__(
        self,
        material: bytes,
        algorithms: Sequence[str],
        claims: Mapping[str, str],
        *,
        audience: str | None = None,
        issuer: str | None = None,
        leeway: float = 0.0,
    ) -> None:
        import jwt  # here, since a server without tokens does not need it

        self._jwt = jwt
        self._algorithms = list(algorithms)
        self._claims = dict(claims)
        self._audience = audience
        self._issuer = issuer
        self._leeway = leeway
        self._keys: Mapping[str | None, Any] = _read_key(material, self._algorithms)
        # PyJWT refuses a token for another audience, but not a token without one, unless that is required here.
        required = ["exp", *(["aud"] if audience else []), *(["iss"] if issuer else [])]
        # `_exact` checks the subject, since some issuers write it as a number, which PyJWT would refuse.
        self._options: Any = {"require": required, "verify_sub": False}
        self._marks = {kid: _mark(kid, key) for kid, key in self._keys.items()}
        self._known = frozenset(self._marks.values())
        self._verified: Recent[bytes, _Verified] = Recent(REMEMBERED)

    def knows(self, mark: bytes) -> bool:
        """Whether a key is still in use, by its mark."""
        return mark in self._known

    def verify(self, text: str) -> Token:
        """Verify a token.

        Raises:
            AccessDenied: ``not-authenticated``; the token is not valid. The text says why, without parts of the token.

        Cost: about 2 µs for a token that it remembers; 0.1 ms and more for any other.
        """
        if len(text) > MAX_TOKEN:
            raise _refused(f"the token has {len(text)} characters; at most {MAX_TOKEN} are accepted")
        try:
            digest = sha256(text.encode()).digest()
        except UnicodeEncodeError:
            raise _refused("the token is malformed") from None
        now = time.time()
        known = self._verified.get(digest)
        # Where the clock went back, `nbf` and `iat` may not hold any more, and `exp` may hold again.
        if known is not None and known.since <= now < known.until:
            return known.token
        token, until = self._verify(text)
        self._verified.put(digest, _Verified(token, now, until))
        return token

    def _verify(self, text: str) -> tuple[Token, float]:
        """Verify a token, and return when it expires, leeway included."""
        jwt = self._jwt
        try:
            kid = self._kid_for(jwt.get_unverified_header(text))
            claims = jwt.decode(
                text,
                self._keys[kid],
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway,
                options=self._options,
            )
        except jwt.PyJWTError as error:
            raise _refused(_why(jwt, error)) from None
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise _refused("the token is malformed") from None
        values = {
            key: _exact(claim, claims[claim]) for key, claim in self._claims.items() if claims.get(claim) is not None
        }
        try:
            expires = float(claims["exp"])  # a whole number: PyJWT has checked that
        except OverflowError:
            raise _refused("the token's exp is out of range") from None
        token = Token(identity_of(values, "the token"), expires + self._leeway, self._marks[kid])
        return token, int(expires) + self._leeway  # as PyJWT compares it

    def _kid_for(self, header: Mapping[str, Any]) -> str | None:
        if None in self._keys:
            return None
        kid = header.get("kid")
        if not isinstance(kid, str) or kid not in self._keys:
            raise _refused("no key has the kid that the token names")
        return kid


def _mark(kid: str | None, key: Any) -> bytes:
    """Return the mark of a key: it differs between keys and stays the same over a reload."""
    if not isinstance(key, bytes):
        from cryptography.hazmat.primitives import serialization

        key = key.key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return sha256(repr(kid).encode() + b":" + key).digest()


def _exact(claim: str, value: Any) -> Any:
    """Return a claim that may be part of an identity.

    Raises:
        AccessDenied: ``bad-request``; different values of it could be taken for the same.
    """
    if isinstance(value, bool | float) or (isinstance(value, int) and abs(value) > _LARGEST):
        text = f"the token: the claim {claim} is neither text nor a whole number up to 2^53 - 1"
        raise AccessDenied(text, ErrorCode.BAD_REQUEST, "bad_identity")
    return value


def _read_key(material: bytes, algorithms: Sequence[str]) -> Mapping[str | None, Any]:
    """Return the keys by their ``kid``; a single key for all tokens stands under ``None``."""
    import jwt

    unknown = [name for name in algorithms if name not in ALGORITHMS]
    if unknown or not algorithms:
        raise SettingsError(f"--jwt-algorithm: {', '.join(unknown) or 'nothing'} is not one of {', '.join(ALGORITHMS)}")
    secret = [name in SECRET_ALGORITHMS for name in algorithms]
    if any(secret) and not all(secret):
        raise SettingsError(
            "--jwt-algorithm: use either a secret (HS…) or public keys, not both: a public key is not secret"
        )
    if all(secret):
        needed = max(int(name[2:]) // 8 for name in algorithms)
        if len(material) < needed:
            raise SettingsError(f"the JWT secret has {len(material)} bytes; {max(algorithms)} needs {needed} or more")
        if b"-----BEGIN" in material:
            raise SettingsError("the JWT secret is a key in PEM; --jwt-algorithm must name algorithms of public keys")
        if _is_public(material) or not _is_secret(jwt, material):
            raise SettingsError(
                "the JWT secret is a public key or a set of keys, which is not secret; --jwt-algorithm must name "
                "algorithms of public keys"
            )
        return {None: material}
    missing = [name for name in algorithms if name not in jwt.algorithms.get_default_algorithms()]
    if missing:
        raise SettingsError(f"--jwt-algorithm: {missing[0]} needs the package cryptography: pip install cryptography")
    try:
        if material.lstrip().startswith(b"{"):
            return _read_set(jwt.PyJWKSet.from_json(material.decode()), algorithms)
        keys = [jwt.get_algorithm_by_name(name).prepare_key(material) for name in algorithms]
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError) as error:
        names = ", ".join(algorithms)
        raise SettingsError(f"the JWT key is neither a public key in PEM for {names}, nor a JWKS: {error}") from None
    if any(hasattr(key, "private_bytes") for key in keys):
        raise SettingsError("the JWT key is a private key; the server needs only the public key")
    return {None: material}


def _is_public(material: bytes) -> bool:
    """Whether a secret is in fact a JWK, a JWKS, an SSH key or a key in DER, which may be public."""
    text = material.removeprefix(b"\xef\xbb\xbf").strip()
    if text.startswith((b"{", b"[")):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return False
        return any(isinstance(it, dict) and it.keys() & {"kty", "keys"} for it in (found, *found))
    if text.startswith((b"ssh-", b"ecdsa-sha2-", b"sk-", b"---- BEGIN SSH2")):
        return True
    try:
        return _is_der(material) or _is_der(b64decode(b"".join(text.split()), validate=True))
    except ValueError:
        return False


def _is_secret(jwt: Any, material: bytes) -> bool:
    """Whether PyJWT accepts it as a secret; otherwise it would refuse it with each token."""
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(material)
    except jwt.PyJWTError:
        return False
    return True


def _is_der(data: bytes) -> bool:
    """Whether the bytes are exactly one ASN.1 sequence, as keys and certificates are."""
    if len(data) < 4 or data[0] != 0x30:
        return False
    if data[1] < 0x80:
        return len(data) == 2 + data[1]
    size = data[1] - 0x80
    return 0 < size <= 4 and len(data) == 2 + size + int.from_bytes(data[2 : 2 + size])


def _read_set(keys: jwt.PyJWKSet, algorithms: Sequence[str]) -> Mapping[str | None, Any]:
    found: dict[str | None, Any] = {}
    for key in keys.keys:
        if key.key_type == "oct" or key.algorithm_name not in algorithms or key.public_key_use == "enc":
            continue
        if key.key_id is None and len(keys.keys) > 1:
            raise SettingsError("the JWKS has several keys, and one of them has no kid")
        found[key.key_id] = key
    if not found:
        raise SettingsError(f"the JWKS has no public key for {', '.join(algorithms)}")
    return found


def _why(jwt: Any, error: Exception) -> str:
    """Say what is wrong in our own words: the library's text can contain parts of the token."""
    reasons = {
        jwt.ExpiredSignatureError: "the token has expired",
        jwt.ImmatureSignatureError: "the token is not valid yet",
        jwt.InvalidAudienceError: "the token is for another audience",
        jwt.InvalidIssuerError: "the token is from another issuer",
        jwt.MissingRequiredClaimError: "the token lacks a claim: exp, or aud or iss where these are required",
        jwt.InvalidAlgorithmError: "the token's algorithm is not allowed",
        jwt.InvalidSignatureError: "the token's signature is wrong",
    }
    return next((text for kind, text in reasons.items() if isinstance(error, kind)), "the token is malformed")


def _refused(text: str) -> AccessDenied:
    return AccessDenied(text, ErrorCode.NOT_AUTHENTICATED, "bad_token")
