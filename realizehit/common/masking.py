"""Removes secrets from texts for people: URLs, log lines and error texts.

Every pattern here is linear in any text: repeats are possessive and cannot overlap.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

MASK: Final = "***"

_QUERY: Final = re.compile(r"([?&])([^=&?\s#\"']*+)=([^&\s#\"']*+)")
_SECRET_WORDS: Final = ("token", "password", "passwd", "secret", "apikey", "api_key", "auth", "jwt", "credential")
_SECRET_NAMES: Final = ("sid", "key", "sig", "signature", "pass", "pwd", "pw")
_HEADER: Final = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie|x-api-key|x-auth-token)\b(['\"]?\s*+[:,=]\s*+)[^\r\n]++",
    re.IGNORECASE,
)
_BEARER: Final = re.compile(r"\b(bearer)( ++)(?=\S{16})\S++", re.IGNORECASE)
_NAMES_IN_OBJECTS: Final = r"(?:token|password|secret|api_?key|key|sid)"
_MEMBER: Final = re.compile(rf"(\"{_NAMES_IN_OBJECTS}\"\s*+:\s*+\")(?:[^\"\\]++|\\.)*+", re.IGNORECASE | re.DOTALL)
_ITEM: Final = re.compile(  # of a dictionary, as Python shows it
    rf"('{_NAMES_IN_OBJECTS}'\s*+:\s*+')(?:[^'\\]++|\\.)*+", re.IGNORECASE | re.DOTALL
)
_JWT: Final = re.compile(r"\beyJ[A-Za-z0-9_-]{5,}+(?:\.[A-Za-z0-9_-]*+)*+")  # the base64 of '{"'
# Recent texts without secrets: log lines have the same few parts again and again.
_harmless: Final[set[str]] = set()
_MOST_HARMLESS: Final = 2048
_LONGEST_HARMLESS: Final = 200  # characters
_WORD: Final = re.compile(r"\S++")


def masked(text: str) -> str:
    """Return a text with everything masked that looks like a secret.

    Tokens, passwords and session ids in queries; credentials in header lines and in JSON; JSON Web Tokens; logins in
    URLs. It is better to hide too much than to show a secret.

    Cost: linear in the text; little for a short text that had nothing to mask a moment ago.
    """
    if text in _harmless:
        return text
    shown = _masked(text)
    if shown == text and len(text) <= _LONGEST_HARMLESS:
        if len(_harmless) >= _MOST_HARMLESS:
            _harmless.clear()
        _harmless.add(text)
    return shown


def _masked(text: str) -> str:
    if "://" in text and "@" in text:
        text = _WORD.sub(_without_login, text)
    text = _QUERY.sub(_without_value, text)
    text = _HEADER.sub(rf"\1\2{MASK}", text)
    text = _BEARER.sub(rf"\1\2{MASK}", text)
    text = _MEMBER.sub(rf"\1{MASK}", text)
    text = _ITEM.sub(rf"\1{MASK}", text)
    return _JWT.sub(MASK, text)


def masked_options(query: str, harmless: frozenset[str]) -> str:
    """Return a URL's query, without its question mark, with the values masked of all options but the harmless ones."""
    return "&".join(_masked_option(option, harmless) for option in query.split("&"))


def masked_url(url: str, harmless: frozenset[str]) -> str:
    """Return a URL without its secrets.

    A password may hold unescaped characters that end the address for a URL parser, so everything before the last ``@``
    is taken as the login.

    Args:
        url: any text that a user gave as a URL.
        harmless: names of options whose values are shown. All others are hidden: a misspelt one may be a secret.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return MASK if "@" in url else _masked_tail(url, harmless)
    login, at, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    plain = colon and not set(user) & set("/?#")
    hidden = (f"{user}:{MASK}@" if plain else f"{MASK}@") if at else ""
    return f"{scheme}://{hidden}{_masked_tail(place, harmless)}"


def is_secret_name(name: str) -> bool:
    """Whether a parameter of this name, percent-encoded or not, may hold a secret."""
    plain = unquote(unquote(name)).lower().replace("-", "_")
    return plain in _SECRET_NAMES or any(word in plain for word in _SECRET_WORDS)


def _masked_tail(place: str, harmless: frozenset[str]) -> str:
    address, mark, query = place.partition("?")
    address, hash_mark, _ = address.partition("#")
    shown = address + (f"#{MASK}" if hash_mark else "")
    if not mark:
        return shown
    options, hash_mark, _ = query.partition("#")
    return f"{shown}?{masked_options(options, harmless)}" + (f"#{MASK}" if hash_mark else "")


def _masked_option(option: str, harmless: frozenset[str]) -> str:
    name, equals, value = option.partition("=")
    if not equals:
        return MASK if option else ""
    return option if unquote(name) in harmless or not value else f"{name}={MASK}"


def _without_value(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}={MASK}" if is_secret_name(match[2]) else match[0]


def _without_login(match: re.Match[str]) -> str:
    word = match[0]
    scheme, separator, rest = word.partition("://")
    login, at, place = rest.rpartition("@")
    return f"{scheme}://{MASK}@{place}" if separator and at and login else word
