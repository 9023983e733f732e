"""Parses the head of an HTTP request, and refuses heads that other software could understand differently.

This is stricter than RFC 9112 requires: a head that a proxy in front of this server might interpret differently is
refused, so that both always agree where a request ends (no request smuggling).

Source: RFC 9110, section 7; RFC 9112, sections 2 to 6.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple

# RFC 9112, sections 3 and 5, without the obsolete line folding, which software treats differently.
_HEAD: Final = re.compile(
    rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/[0-9]\.[0-9]"
    rb"(?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*)*+"
)
_ABSOLUTE: Final = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE)
# RFC 3986, section 3.2.2: an address in brackets, or a name (to which an IPv4 address belongs); then a port.
_HOST: Final = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|(?:[0-9A-Za-z._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)(?::([0-9]{0,5}))?"
)
_LONGEST_HOST: Final = 300  # bytes: a name of 253, port
_LONGEST_SHOWN: Final = 100  # bytes of a header's value in an error
_LONGEST_LENGTH: Final = 15  # digits of a Content-Length
_VERSIONS: Final = (b"HTTP/1.1", b"HTTP/1.0")

Fault = tuple[HTTPStatus, str]
"""Why a request is refused: the status, and a text for humans."""


class Head(NamedTuple):
    """A request's head, split.

    Attributes:
        method, target, version: the three parts of the request line.
        headers: values by lower-case name; several values of a header joined by commas.
        repeated: the names that came more than once.
        text: the whole head, as it arrived.
    """

    method: bytes
    target: bytes
    version: bytes
    headers: dict[bytes, bytes]
    repeated: frozenset[bytes]
    text: bytes

    @property
    def path(self) -> bytes:
        """The target before its question mark."""
        return self.target.partition(b"?")[0]

    @property
    def query(self) -> bytes:
        """The target behind its question mark."""
        return self.target.partition(b"?")[2]

    @property
    def wants_websocket(self) -> bool:
        """Whether it asks for a WebSocket, correctly or not."""
        upgrade = self.headers.get(b"upgrade")
        return upgrade is not None and b"websocket" in upgrade.lower()


_NONE: Final[frozenset[bytes]] = frozenset()


def parse_head(head: bytes) -> Head | None:
    """Parse a request's head.

    Args:
        head: everything before the blank line.

    Returns:
        The parts, or ``None`` if it is malformed.
    """
    if _HEAD.fullmatch(head) is None:
        return None
    first, *lines = head.split(b"\r\n")
    method, target, version = first.split(b" ")
    headers: dict[bytes, bytes] = {}
    repeated = []
    for line in lines:
        name, _, value = line.partition(b":")
        name = name.lower()
        value = value.strip(b" \t")
        if name in headers:
            repeated.append(name)
            value = headers[name] + b", " + value
        headers[name] = value
    return Head(method, target, version, headers, frozenset(repeated) if repeated else _NONE, head)


def in_origin_form(head: Head) -> Head:
    """Return a head whose target is a path; a URL as the target is split, and its host replaces the ``Host``.

    Every server must accept a URL (RFC 9112, section 3.2.2), although clients send it to proxies only.
    """
    if head.target.startswith(b"/"):
        return head
    match = _ABSOLUTE.fullmatch(head.target)
    if match is None or host_fault(head) is not None:  # the Host header is ignored, but must be valid
        return head
    host, path = match.groups()
    target = path if path.startswith(b"/") else b"/" + path
    return head._replace(target=target, headers={**head.headers, b"host": host})


def host_fault(head: Head) -> Fault | None:
    """Return what is wrong with the ``Host`` of a request: it must be there once (RFC 9112, section 3.2)."""
    host = head.headers.get(b"host")
    if host is None:
        if head.version == b"HTTP/1.0":
            return None
        return HTTPStatus.BAD_REQUEST, "the Host header is missing"
    if b"host" in head.repeated:
        return HTTPStatus.BAD_REQUEST, "there is more than one Host header"
    if not _is_host(host):
        return HTTPStatus.BAD_REQUEST, "the Host of the request is malformed; write Host: example.org:8080"
    return None


def fault_of(head: Head) -> Fault | None:
    """Return why an HTTP request cannot be served; ``None`` where nothing is wrong.

    Args:
        head: the request, with its target in origin form.
    """
    if head.version not in _VERSIONS:
        return HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.1 and HTTP/1.0 are supported"
    if head.method == b"CONNECT":
        return HTTPStatus.NOT_IMPLEMENTED, "this server is not a proxy"
    fault = host_fault(head) or _framing_fault(head)
    if fault is not None:
        return fault
    if b"#" in head.target or not (head.target.startswith(b"/") or (head.method, head.target) == (b"OPTIONS", b"*")):
        return HTTPStatus.BAD_REQUEST, "the request's target is not a path"
    return None


def coding_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the ``Content-Encoding`` of a body, such as ``gzip``; ``None`` where it is not encoded."""
    for name, value in headers:
        if name.lower() == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            return value[:_LONGEST_SHOWN].decode("latin-1")
    return None


def _framing_fault(head: Head) -> Fault | None:
    """Return what is wrong with the headers that say where the request ends."""
    length = head.headers.get(b"content-length")
    coding = head.headers.get(b"transfer-encoding")
    if coding is not None:
        if length is not None:
            return HTTPStatus.BAD_REQUEST, "Content-Length and Transfer-Encoding exclude each other"
        if head.version != b"HTTP/1.1":
            return HTTPStatus.BAD_REQUEST, "HTTP/1.0 has no Transfer-Encoding"
        if coding.lower() != b"chunked":
            return HTTPStatus.NOT_IMPLEMENTED, "the only supported Transfer-Encoding is chunked"
    elif length is not None and (not length.isdigit() or len(length) > _LONGEST_LENGTH):
        return HTTPStatus.BAD_REQUEST, "the Content-Length is not a number, or there are two"
    return None


def _is_host(host: bytes) -> bool:
    return len(host) <= _LONGEST_HOST and _is_short_host(host)  # so that the cache is bounded in bytes


@lru_cache(maxsize=1024)
def _is_short_host(host: bytes) -> bool:
    match = _HOST.fullmatch(host)
    return match is not None and int(match[1] or 0) <= 65_535
