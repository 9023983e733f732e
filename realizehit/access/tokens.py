"""Identities from JSON Web Tokens, checked by PyJWT against a fixed list of algorithms.

Source: RFC 7519 (JWT), RFC 7517 (JWK), RFC 7518, section 3.2 (how long a secret must be).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from realizehit.access.identity import Identity, identity_of
from realizehit.errors import AccessDenied, ErrorCode, SettingsError

if TYPE_CHECKING:
    import jwt

SECRET_ALGORITHMS: Final = ("HS256", "HS384", "HS512")
ALGORITHMS: Final = (
    *SECRET_ALGORITHMS,
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
MAX_TOKEN: Final = 8 * 1024  # bytes


class Token(NamedTuple):
    """What a token says.

    Attributes:
        identity: who the client is.
        expires: seconds since 1970.
    """

    identity: Identity
    expires: float


class TokenVerifier:
    """Checks tokens and reads the identity from their claims.

    Args:
        material: a secret, a public key in PEM, or a JWKS.
        algorithms: those that a token may use; secrets and public keys do not mix.
        claims: the claim for each identity key.
        audience, issuer: what a token must be for and from; ``None`` for anything.
        leeway: seconds by which clocks may differ.

    Raises:
        SettingsError: the key does not go with the algorithms, or cannot be read.
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
        # PyJWT demands an audience of a token only where one is expected, and refuses any other.
        self._options: Any = {"require": ["exp", *(["aud"] if audience else []), *(["iss"] if issuer else [])]}

    def verify(self, text: str) -> Token:
        """Check a token.

        Raises:
            AccessDenied: ``not-authenticated``; it proves nothing. The text says why and holds nothing of it.
        """
        if len(text) > MAX_TOKEN:
            raise _refused(f"the token has {len(text)} characters; at most {MAX_TOKEN} are taken")
        jwt = self._jwt
        try:
            key = self._key_for(jwt.get_unverified_header(text))
            claims = jwt.decode(
                text,
                key,
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway,
                options=self._options,
            )
        except jwt.PyJWTError as error:
            raise _refused(_why(jwt, error)) from None
        except (ValueError, TypeError, RecursionError):
            raise _refused("the token is malformed") from None
        values = {key: claims[claim] for key, claim in self._claims.items() if claims.get(claim) is not None}
        try:
            expires = float(claims["exp"])  # a whole number, as PyJWT has seen to
        except OverflowError:
            raise _refused("the token's exp is out of range") from None
        return Token(identity_of(values, "the token"), expires + self._leeway)

    def _key_for(self, header: Mapping[str, Any]) -> Any:
        if None in self._keys:
            return self._keys[None]
        kid = header.get("kid")
        key = self._keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise _refused("no key has the kid that the token names")
        return key


def _read_key(material: bytes, algorithms: Sequence[str]) -> Mapping[str | None, Any]:
    """Return the keys by their ``kid``, or the one that serves for all under ``None``."""
    import jwt

    unknown = [name for name in algorithms if name not in ALGORITHMS]
    if unknown or not algorithms:
        raise SettingsError(f"--jwt-algorithms: {', '.join(unknown) or 'nothing'} is none of {', '.join(ALGORITHMS)}")
    secret = [name in SECRET_ALGORITHMS for name in algorithms]
    if any(secret) and not all(secret):
        raise SettingsError("--jwt-algorithms: a secret (HS…) and public keys do not mix: a public key is no secret")
    if all(secret):
        needed = max(int(name[2:]) // 8 for name in algorithms)
        if len(material) < needed:
            raise SettingsError(f"the JWT secret has {len(material)} bytes; {max(algorithms)} needs {needed} or more")
        if b"-----BEGIN" in material:
            raise SettingsError("the JWT secret is a key in PEM; --jwt-algorithms must name those of public keys")
        return {None: material}
    missing = [name for name in algorithms if name not in jwt.algorithms.get_default_algorithms()]
    if missing:
        raise SettingsError(
            f"--jwt-algorithms: {missing[0]} needs the package cryptography: pip install realizehit[jwt]"
        )
    try:
        if material.lstrip().startswith(b"{"):
            return _read_set(jwt.PyJWKSet.from_json(material.decode()), algorithms)
        keys = [jwt.get_algorithm_by_name(name).prepare_key(material) for name in algorithms]
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError) as error:
        names = ", ".join(algorithms)
        raise SettingsError(f"the JWT key is neither a public key in PEM for {names}, nor a JWKS: {error}") from None
    if any(hasattr(key, "private_bytes") for key in keys):
        raise SettingsError("the JWT key is a private key; a server needs the public one alone")
    return {None: material}


def _read_set(keys: jwt.PyJWKSet, algorithms: Sequence[str]) -> Mapping[str | None, Any]:
    found: dict[str | None, Any] = {}
    for key in keys.keys:
        if key.key_type == "oct" or key.algorithm_name not in algorithms or key.public_key_use == "enc":
            continue
        if key.key_id is None and len(keys.keys) > 1:
            raise SettingsError("the JWKS has several keys, and one of them no kid")
        found[key.key_id] = key
    if not found:
        raise SettingsError(f"the JWKS has no public key for {', '.join(algorithms)}")
    return found


def _why(jwt: Any, error: Exception) -> str:
    """Say what is wrong in words of our own: the library's can hold parts of the token."""
    reasons = {
        jwt.ExpiredSignatureError: "the token has expired",
        jwt.ImmatureSignatureError: "the token is not valid yet",
        jwt.InvalidAudienceError: "the token is for another audience",
        jwt.InvalidIssuerError: "the token is from another issuer",
        jwt.MissingRequiredClaimError: "the token lacks a claim: exp, and aud and iss where they are expected",
        jwt.InvalidAlgorithmError: "the token's algorithm is not allowed",
        jwt.InvalidSignatureError: "the token's signature is wrong",
    }
    return next((text for kind, text in reasons.items() if isinstance(error, kind)), "the token is malformed")


def _refused(text: str) -> AccessDenied:
    return AccessDenied(text, ErrorCode.NOT_AUTHENTICATED, "bad_token")
