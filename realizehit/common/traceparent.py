"""Traceparents: which trace a message belongs to, as other programs give it and as messages carry it.

Source: W3C Trace Context, level 1, section 3.2; ``docs/tracing.md``.
"""

from __future__ import annotations

import re
from typing import Final

SIZE: Final = 55
"""Characters of a traceparent of version 00."""

_LONGEST: Final = 512  # characters; a later version may have more fields than we know
_GIVEN: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_NO_TRACE: Final = "0" * 32
_NO_PARENT: Final = "0" * 16
_IN_LABEL: Final = re.compile(rb"(?:\A|&)t=([0-9a-f-]{%d})(?=&|\Z)" % SIZE)


def checked_traceparent(given: object) -> bytes | None:
    """Return a traceparent as messages carry it, of version 00; ``None`` if it is invalid, and to be ignored.

    Of a later version the parts that version 00 has are taken, as the standard asks.

    Args:
        given: what another program gave: a text, or bytes of a header.
    """
    text = given.decode("latin-1").strip(" \t") if isinstance(given, bytes) else given
    if not isinstance(text, str) or len(text) > _LONGEST:
        return None
    found = _GIVEN.fullmatch(text)
    if found is None or found[1] == "ff" or found[2] == _NO_TRACE or found[3] == _NO_PARENT:
        return None
    if found[1] == "00":
        return None if found[5] else text.encode("ascii")
    sampled = int(found[4], 16) & 1  # the only flag whose meaning is known
    return f"00-{found[2]}-{found[3]}-{sampled:02x}".encode("ascii")


def traceparent_in(label: bytes) -> str | None:
    """Return the traceparent in a label that a client received; ``None`` if there is none.

    Args:
        label: what stands between the ``@`` and the ``?`` of the message.
    """
    if b"t=" not in label:
        return None
    found = _IN_LABEL.search(label)
    return None if found is None else found[1].decode("ascii")


class Traceparents:
    """Reads the traceparents that publishers give, and counts them.

    Attributes:
        kept: how many were valid.
        invalid: how many were invalid, and so ignored.
    """

    __slots__ = ("invalid", "kept")

    def __init__(self) -> None:
        self.kept = self.invalid = 0

    def read(self, given: object) -> bytes | None:
        """Return what `checked_traceparent` returns."""
        found = checked_traceparent(given)
        if found is None:
            self.invalid += 1
        else:
            self.kept += 1
        return found
