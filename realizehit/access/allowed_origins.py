"""The values of ``--allow-origin``: an origin, all subdomains of a name, or any; and suggestions for wrong values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final, NamedTuple

from realizehit.access.origin import FILE, NULL, Origin, parse_origin
from realizehit.common.masking import masked
from realizehit.errors import SettingsError

ANY: Final = "*"

_BELOW: Final = re.compile(r"(https?)://\*\.([^*]+)")
_WEB: Final = ("http", "https")
_KNOWN_SCHEMES: Final = (
    *_WEB, "capacitor", "ionic", "tauri", "app", "file", "chrome-extension", "moz-extension", "safari-web-extension",
    "ms-browser-extension", "vscode-webview",
)  # fmt: skip
_WEBSOCKET_SCHEMES: Final = {"ws": "http", "wss": "https"}
_OPAQUE_SCHEMES: Final = ("about", "data", "javascript")  # the origin of such pages is null
_NOT_FOR_PAGES: Final = ("ftp", "ftps", "mailto", "redis", "rediss", "unix", "tcp", "ssh", "view-source")
_LONGEST: Final = 1000  # characters of a value for which a suggestion is made
_LONGEST_SHOWN: Final = 100  # characters of a value in an error


class Below(NamedTuple):
    """The web pages of all subdomains of a name, at one port; not those of the name itself.

    Attributes:
        scheme: ``http`` or ``https``.
        suffix: a dot and the name.
        port: the port of all of them.
    """

    scheme: str
    suffix: str
    port: int

    def covers(self, origin: Origin) -> bool:
        """Whether an origin is one of them."""
        return (
            origin.scheme == self.scheme
            and origin.port == self.port
            and origin.host.endswith(self.suffix)
            and len(origin.host) > len(self.suffix)
        )


class Allowed(NamedTuple):
    """The origins of ``--allow-origin``.

    Attributes:
        any: whether every page may use the server.
        origins: the origins that are named.
        below: the names whose subdomains are allowed.
    """

    any: bool
    origins: frozenset[Origin]
    below: tuple[Below, ...]

    def names(self, origin: Origin) -> bool:
        """Whether an origin is named, by itself or as a subdomain; ``*`` names no origin."""
        return origin in self.origins or any(below.covers(origin) for below in self.below)


def read_allowed(texts: Iterable[str]) -> Allowed:
    """Read the values of ``--allow-origin``.

    Raises:
        SettingsError: a value is not an origin; the text suggests what was probably meant.
    """
    any_page = False
    origins: set[Origin] = set()
    below: list[Below] = []
    for text in texts:
        found = _read(text)
        if found is None:
            raise SettingsError(f"--allow-origin: {_shown(text)} is not an origin; {_hint(text)}")
        if isinstance(found, str):
            any_page = True
        elif isinstance(found, Below):
            below.append(found)
        else:
            origins.add(found)
    return Allowed(any_page, frozenset(origins), tuple(below))


def _read(text: str) -> Origin | Below | str | None:
    text = text.lower()
    if text == ANY:
        return ANY
    if text == "file" or (text.startswith("file:") and not text.strip("file:/")):
        return FILE
    text = text.rstrip("/")
    match = _BELOW.fullmatch(text)
    if match is not None:
        return _read_below(match[1], match[2])
    origin = parse_origin(text)
    return origin if origin is None or origin == NULL or _is_page_scheme(origin.scheme) else None


def _read_below(scheme: str, rest: str) -> Below | None:
    origin = parse_origin(f"{scheme}://{rest}")
    if origin is None or origin.host.startswith("[") or origin.host.endswith("."):
        return None
    labels = origin.host.split(".")
    # A whole top-level domain would be nearly every page; a host that ends in a number is an IP address.
    if labels[-1].isdigit() or (len(labels) == 1 and labels[0] != "localhost"):
        return None
    return Below(scheme, f".{origin.host}", origin.port)


def _is_page_scheme(scheme: str) -> bool:
    if scheme in _KNOWN_SCHEMES:
        return True
    if scheme in _WEBSOCKET_SCHEMES or scheme in _OPAQUE_SCHEMES or scheme in _NOT_FOR_PAGES or scheme == "blob":
        return False
    return not get_close_matches(
        scheme, _KNOWN_SCHEMES, 1, 0.8
    )  # the scheme of an app, and not a misspelled known scheme


def _hint(text: str) -> str:
    meant = _meant(text) if len(text) <= _LONGEST else ""
    if meant:
        return f"did you mean {meant}?"
    if "*" in text:
        return (
            "did you mean https://*.example.org? It stands for all subdomains of a name of two labels or more, at "
            "one port; * alone stands for any page"
        )
    return "did you mean an origin such as https://app.example?"


def _meant(text: str) -> str:
    """Return what a wrong value probably means; an empty text where that is unknown."""
    text = text.strip(" \t\r\n\"'`<>()").lower().replace("\\", "/")
    if text in ("all", "any", "everything", "**", "*.*", "*://*", "https://*", "http://*", "*:*", "http*"):
        return ANY
    if len(parts := re.split(r"[\s;,|]+", text)) > 1:
        found = [_meant(part) or "" for part in parts if part]
        return ",".join(found) if found and all(found) else ""
    if _read(text) is not None:
        return text.rstrip("/")
    scheme, rest = _scheme_and_rest(text)
    if scheme == "blob":
        return _meant(rest)
    if scheme in _OPAQUE_SCHEMES:
        return "null"
    rest = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    for candidate in _spellings(scheme, rest):
        if _read(candidate) is not None:
            return candidate
    return ""


def _scheme_and_rest(text: str) -> tuple[str, str]:
    match = re.match(r"([a-z][a-z0-9+.-]*)(?:://+|:/(?!/)|:(?=[a-z*\[])|;//+|//+)", text)
    if text.startswith(("about:", "data:", "javascript:", "blob:")):
        scheme, _, rest = text.partition(":")
        return scheme, rest
    if match is None or (match[0].endswith(":") and match[1] not in _KNOWN_SCHEMES):
        rest = text if text.startswith("::") else text.lstrip("/:")
        return ("http" if re.match(r"localhost|127\.|\[?::1|.*\.localhost", rest) else "https"), rest
    scheme = _WEBSOCKET_SCHEMES.get(match[1], match[1])
    if not _is_page_scheme(scheme):
        near = get_close_matches(scheme, _KNOWN_SCHEMES, 1, 0.8)
        scheme = near[0] if near else "https"
    return scheme, text[match.end() :]


def _spellings(scheme: str, text: str) -> Iterable[str]:
    """Yield the origins that a misspelled host and port may mean, the likeliest first."""
    text = text.rstrip(".:")
    yield f"{scheme}://{text}"
    if text.count(":") > 1 and "[" not in text:
        address, _, port = text.rpartition(":")
        if len(port) == 4 and port.isdigit() and not address.endswith(":"):
            yield f"{scheme}://[{address}]:{port}"
        yield f"{scheme}://[{text}]"
    host, _, port = text.rpartition(":") if ":" in text and not text.endswith("]") else (text, "", "")
    for name in (host, f"*.{host.lstrip('*.')}" if host.startswith("*") else "", _ascii(host)):
        if name:
            if port.isdigit() and int(port) <= 65535:
                yield f"{scheme}://{name}:{port}"
            yield f"{scheme}://{name}"


def _ascii(host: str) -> str:
    """Return an internationalized name as browsers send it; an empty text for an invalid name."""
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        return ""


def _shown(text: str) -> str:
    login, at, rest = text.rpartition("@")
    shown = masked(repr(f"***@{rest}" if at and "://" not in login else text))
    return shown if len(shown) <= _LONGEST_SHOWN else shown[:_LONGEST_SHOWN] + "..."
