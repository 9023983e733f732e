"""Tokens: which prove who a client is, and which do not, with keys made here."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import time
from base64 import b64encode, encodebytes
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import RSAAlgorithm

from realizehit.access.tokens import TokenVerifier
from realizehit.errors import AccessDenied, SettingsError
from realizehit.settings import Settings

SECRET = b"s" * 64
CLAIMS = {"user": "sub", "zone": "zone"}


UNSIGNED = jwt.encode({"sub": "42", "exp": 99999999999}, "", "none")


def in_ten_minutes() -> int:
    return int(time.time()) + 600


def signed(key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    return jwt.encode({"sub": "42", "exp": in_ten_minutes(), **claims}, key, algorithm, headers)


def public_pem(key: Any) -> bytes:
    return key.public_key().public_bytes(  # type: ignore[no-any-return]
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def reason(verifier: TokenVerifier, text: str) -> str:
    with pytest.raises(AccessDenied) as raised:
        verifier.verify(text)
    assert (raised.value.code, raised.value.reason) == ("not-authenticated", "bad_token")
    assert len(text) < 10 or text[-10:] not in str(raised.value)
    return str(raised.value)


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_secrets(algorithm: str) -> None:
    verifier = TokenVerifier(SECRET, [algorithm], CLAIMS)
    end = in_ten_minutes()
    token = verifier.verify(signed(algorithm=algorithm, zone=3, exp=end))
    assert token.identity == {"user": "42", "zone": "3"}
    assert token.expires == end
    assert reason(verifier, signed(b"t" * 64, algorithm)) == "the token's signature is wrong"


def test_public_keys(rsa_key: rsa.RSAPrivateKey) -> None:
    for key, algorithm in (
        (rsa_key, "RS256"),
        (rsa_key, "PS512"),
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ):
        verifier = TokenVerifier(public_pem(key), [algorithm], CLAIMS)
        assert verifier.verify(signed(key, algorithm)).identity == {"user": "42"}
        # The classic forgery: the public key taken for a secret.
        head, body, _ = signed(algorithm="HS256").split(".")
        mac = hmac.new(public_pem(key), f"{head}.{body}".encode(), hashlib.sha256).digest()
        forged = f"{head}.{body}.{jwt.utils.base64url_encode(mac).decode()}"
        assert reason(verifier, forged) == "the token's algorithm is not allowed"


def test_a_set_of_keys(rsa_key: rsa.RSAPrivateKey) -> None:
    other = rsa.generate_private_key(65537, 2048)
    keys = []
    for kid, key in (("one", rsa_key), ("two", other)):
        keys.append({**jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "alg": "RS256"})
    verifier = TokenVerifier(json.dumps({"keys": keys}).encode(), ["RS256"], CLAIMS)
    assert verifier.verify(signed(other, "RS256", {"kid": "two"})).identity == {"user": "42"}
    assert reason(verifier, signed(other, "RS256", {"kid": "one"})) == "the token's signature is wrong"
    for headers in ({"kid": "three"}, None):
        assert reason(verifier, signed(other, "RS256", headers)) == "no key has the kid that the token names"
    with pytest.raises(SettingsError, match="no public key for ES256"):
        TokenVerifier(json.dumps({"keys": keys}).encode(), ["ES256"], CLAIMS)
    del keys[0]["kid"]
    with pytest.raises(SettingsError, match="one of them has no kid"):
        TokenVerifier(json.dumps({"keys": keys}).encode(), ["RS256"], CLAIMS)


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"exp": 1}, "the token has expired"),
        ({"exp": "soon"}, "the token is malformed"),
        ({"nbf": 99999999999}, "the token is not valid yet"),
        ({"aud": "others"}, "the token is for another audience"),
        ({"iss": "others"}, "the token is from another issuer"),
    ],
)
def test_invalid_claims(claims: dict[str, Any], said: str) -> None:
    verifier = TokenVerifier(SECRET, ["HS256"], CLAIMS, audience="us", issuer="them")
    good: dict[str, Any] = {"aud": "us", "iss": "them"}
    assert verifier.verify(signed(**good)).identity == {"user": "42"}
    assert reason(verifier, signed(**{**good, **claims})) == said
    for missing in ("aud", "iss", "exp"):
        kept = {"exp": in_ten_minutes(), **good}
        del kept[missing]
        assert "lacks a claim" in reason(verifier, jwt.encode(kept, SECRET))


def test_leeway() -> None:
    verifier = TokenVerifier(SECRET, ["HS256"], CLAIMS, leeway=60)
    now = int(time.time())
    assert verifier.verify(signed(exp=now - 30)).expires == now + 30
    assert reason(verifier, signed(exp=now - 90)) == "the token has expired"


def test_a_remembered_token_is_checked_against_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = int(time.time())
    verifier = TokenVerifier(SECRET, ["HS256"], CLAIMS, leeway=10)
    verified = []
    real = verifier._verify

    def spy(text: str) -> Any:
        verified.append(text)
        return real(text)

    monkeypatch.setattr(verifier, "_verify", spy)
    text = signed(exp=now + 100, nbf=now - 5)
    first = verifier.verify(text)
    assert verifier.verify(text) is first
    assert len(verified) == 1
    for moment, said in ((now + 109, ""), (now + 110, "has expired"), (now - 20, "not valid yet"), (now + 50, "")):
        clock = moment

        class Moved(datetime.datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime.datetime.fromtimestamp(clock, tz)  # noqa: B023 - used before the next round

        monkeypatch.setattr("realizehit.access.tokens.time.time", lambda: clock)  # noqa: B023 - likewise
        monkeypatch.setattr("jwt.api_jwt.datetime", Moved)
        if said:
            assert said in reason(verifier, text)
        else:
            assert verifier.verify(text) == first
    assert len(verified) == 3  # anew when it had expired, and when the clock had gone back


def test_failures_are_not_remembered_and_texts_are_not_kept() -> None:
    verifier = TokenVerifier(SECRET, ["HS256"], CLAIMS)
    text = signed(nbf=int(time.time()) + 60)
    for _ in range(2):
        assert reason(verifier, text) == "the token is not valid yet"
    assert len(verifier._verified) == 0
    good = signed()
    verifier.verify(good)
    assert len(verifier._verified) == 1
    assert good not in repr((verifier._verified._young, verifier._verified._old))
    assert reason(verifier, good[:-2] + ("AA" if good[-2:] != "AA" else "BB")) == "the token's signature is wrong"


@pytest.mark.parametrize(
    "text",
    ["", "x", "a.b.c", "é.é.é", "." * 5000, "x" * 9000, UNSIGNED],
)
def test_malformed_tokens(text: str) -> None:
    reason(TokenVerifier(SECRET, ["HS256"], CLAIMS), text)


def test_claims_that_cannot_be_an_identity() -> None:
    verifier = TokenVerifier(SECRET, ["HS256"], CLAIMS)
    assert verifier.verify(signed(zone=None)).identity == {"user": "42"}
    inexact = (2**53, -(2**53), 2**64, 10**30, 3.0, 3.5, 1e300, True, False)
    for zone in ("", "*", [1], {"a": 1}, "v" * 300, *inexact):
        with pytest.raises(AccessDenied, match="the token: "):
            verifier.verify(signed(zone=zone))
        with pytest.raises(AccessDenied):
            verifier.verify(jwt.PyJWS().encode(json.dumps({"sub": zone, "exp": in_ten_minutes()}).encode(), SECRET))


@pytest.mark.parametrize("number", [0, 42, -1, 2**53 - 1])
def test_whole_numbers_become_text(number: int) -> None:
    claims = json.dumps({"sub": number, "zone": number, "exp": in_ten_minutes()}).encode()
    token = TokenVerifier(SECRET, ["HS256"], CLAIMS).verify(jwt.PyJWS().encode(claims, SECRET))
    assert token.identity == {"user": str(number), "zone": str(number)}


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
def test_infinite_times_are_malformed(claim: str) -> None:
    claims = json.dumps({"sub": "42", "exp": in_ten_minutes(), claim: float("inf")}).encode()
    said = reason(TokenVerifier(SECRET, ["HS256"], CLAIMS), jwt.PyJWS().encode(claims, SECRET))
    assert said == "the token is malformed"


def test_default_leeway() -> None:
    verifier = TokenVerifier(SECRET, ["HS256"], CLAIMS, leeway=Settings().jwt_leeway)
    now = int(time.time())
    soon: list[dict[str, Any]] = [{"iat": now + 3}, {"nbf": now + 3}, {"exp": now - 2}]
    for claims in soon:
        assert verifier.verify(signed(**claims)).identity == {"user": "42"}
    assert reason(verifier, signed(nbf=now + 60)) == "the token is not valid yet"


def test_keys_are_known_by_their_marks(rsa_key: rsa.RSAPrivateKey) -> None:
    before, after = (TokenVerifier(secret * 64, ["HS256"], CLAIMS) for secret in (b"s", b"t"))
    proof = before.verify(signed()).proof
    assert (before.knows(proof), after.knows(proof)) == (True, False)
    one, other = (
        {**json.loads(RSAAlgorithm.to_jwk(key.public_key())), "alg": "RS256", "kid": kid}
        for kid, key in (("a", rsa_key), ("b", rsa.generate_private_key(65537, 2048)))
    )
    sets = [json.dumps({"keys": keys}).encode() for keys in ([one, other], [other, one], [other])]
    both, turned, without = (TokenVerifier(keys, ["RS256"], CLAIMS) for keys in sets)
    proof = both.verify(signed(rsa_key, "RS256", {"kid": "a"})).proof
    assert (both.knows(proof), turned.knows(proof), without.knows(proof)) == (True, True, False)


def test_public_keys_are_refused_as_secrets(rsa_key: rsa.RSAPrivateKey) -> None:
    public = rsa_key.public_key()
    encodings = serialization.Encoding, serialization.PublicFormat
    der = public.public_bytes(encodings[0].DER, encodings[1].SubjectPublicKeyInfo)
    jwk = RSAAlgorithm.to_jwk(public)
    for material in (
        jwk.encode(),
        b"\xef\xbb\xbf " + jwk.encode(),
        json.dumps({"keys": [json.loads(jwk)]}, indent=2).encode(),
        json.dumps([json.loads(jwk)]).encode(),
        json.dumps({"issuer": {"jwks": [json.loads(jwk)]}}).encode(),
        public.public_bytes(encodings[0].OpenSSH, encodings[1].OpenSSH),
        der,
        b64encode(der),
        encodebytes(der),
    ):
        with pytest.raises(SettingsError, match="is not secret"):
            TokenVerifier(material, ["HS256"], CLAIMS)
    for secret in (b"{" + SECRET, b"0" * 64, b"MII" + b"A" * 61, b'{"some": "other text, which is a secret"}'):
        TokenVerifier(secret, ["HS256"], CLAIMS)


def test_unusable_keys(rsa_key: rsa.RSAPrivateKey) -> None:
    private = rsa_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for material, algorithms, said in (
        (SECRET, ["HS257"], "HS257 is not one of"),
        (SECRET, [], "nothing is not one of"),
        (SECRET, ["none"], "none is not one of"),
        (SECRET, ["HS256", "RS256"], "not both"),
        (b"short", ["HS256"], "has 5 bytes; HS256 needs 32"),
        (b"s" * 32, ["HS256", "HS512"], "has 32 bytes; HS512 needs 64"),
        (public_pem(rsa_key), ["HS256"], "is a key in PEM"),
        (private, ["RS256"], "is a private key"),
        (b"rubbish", ["RS256"], "neither a public key in PEM"),
        (public_pem(rsa_key), ["ES256"], "neither a public key in PEM"),
        (b'{"keys": 1}', ["RS256"], "nor a JWKS"),
    ):
        with pytest.raises(SettingsError) as raised:
            TokenVerifier(material, algorithms, CLAIMS)
        assert said in str(raised.value), algorithms
        assert "PRIVATE" not in str(raised.value)
