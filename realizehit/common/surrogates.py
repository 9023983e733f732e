r"""Lone surrogate escapes in JSON texts, such as ``"\ud800"``.

RFC 8259 (section 8.2) allows them and browsers write them, but the JSON library refuses them. `Hidden` writes each one
as an escape that the text does not use otherwise, so that the library can read the text, and writes them back.
"""

from __future__ import annotations

import re
from typing import Final

_ESCAPE: Final = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_FIRST_DIGITS: Final = b"efabc"  # letters, which keep the case of the D that they stand for


class Hidden:
    """A JSON text in which no escape is a lone surrogate.

    Args:
        text: JSON, well-formed UTF-8.

    Attributes:
        text: as long as the original; each lone surrogate stands there as another code point.
        found: how many lone surrogates there were.

    Raises:
        ValueError: the text has lone surrogates, and uses code points of every range that could stand for them.

    Cost: linear in the text.
    """

    def __init__(self, text: bytes) -> None:
        self.text = text
        self._digit: int | None = None
        places = _lone_surrogates(text)
        self.found = len(places)
        if places:
            self._digit = _unused_digit(text)
            hidden = bytearray(text)
            for place in places:
                hidden[place] = _with_case_of(hidden[place], self._digit)
            self.text = bytes(hidden)

    def restore(self, part: bytes) -> bytes:
        """Return a part of `text` as it stood in the original."""
        if self._digit is None:
            return part
        restored = bytearray(part)
        for match in _ESCAPE.finditer(part):
            digits = match[1]
            if digits is not None and digits[0] | 0x20 == self._digit and digits[1] in b"89abcdefABCDEF":
                restored[match.start(1)] = _with_case_of(digits[0], ord("d"))
        return bytes(restored)

    def holds_one(self, value: str) -> bool:
        """Tell whether a text decoded from `text` had a lone surrogate."""
        return self._digit is not None and any(_is_hidden(ord(character), self._digit) for character in value)

    def restore_text(self, value: str) -> str:
        """Return a text decoded from `text` with its lone surrogates."""
        if not self.holds_one(value):
            return value
        assert self._digit is not None
        codes = map(ord, value)
        return "".join(chr(0xD000 | code & 0xFFF if _is_hidden(code, self._digit) else code) for code in codes)


def count_lone_surrogates(text: bytes) -> int:
    """Return how many escapes of a JSON text are lone surrogates."""
    return len(_lone_surrogates(text))


def _lone_surrogates(text: bytes) -> list[int]:
    """Return the position of the first hex digit of each lone surrogate."""
    places: list[int] = []
    high: re.Match[bytes] | None = None  # a high surrogate that a low one may follow
    for match in _ESCAPE.finditer(text):
        digits = match[1]
        code = 0 if digits is None else int(digits, 16)
        if high is not None and not (0xDC00 <= code <= 0xDFFF and match.start() == high.end()):
            places.append(high.start(1))
            high = None
        if 0xD800 <= code <= 0xDBFF:
            high = match
        elif 0xDC00 <= code <= 0xDFFF:
            if high is None:
                places.append(match.start(1))
            high = None
    if high is not None:
        places.append(high.start(1))
    return places


def _unused_digit(text: bytes) -> int:
    """Return a first hex digit of code points, second digit 8 to f, that the text has neither raw nor as escapes."""
    used = {ord(character) >> 12 for character in set(text.decode()) if ord(character) & 0x800}
    used |= {int(match[1][:1], 16) for match in _ESCAPE.finditer(text) if match[1] and match[1][1] in b"89abcdefABCDEF"}
    for digit in _FIRST_DIGITS:
        if int(chr(digit), 16) not in used:
            return digit
    raise ValueError("the text has lone surrogates beside code points of all ranges that could stand for them")


def _is_hidden(code: int, digit: int) -> bool:
    return code >> 12 == int(chr(digit), 16) and bool(code & 0x800)


def _with_case_of(like: int, digit: int) -> int:
    return digit if like & 0x20 else digit & ~0x20
