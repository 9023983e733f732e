"""Finds the end of each request's head in the bytes of a connection."""

from __future__ import annotations

import re
from typing import Final

_BARE_LF: Final = re.compile(rb"(?<!\r)\n")


class MalformedHead(Exception):
    """The bytes so far cannot become a request's head."""


class HeadTooLarge(Exception):
    """The head has more bytes than it may."""


class HeadReader:
    """Takes heads off the front of a buffer; bytes that were searched once are not searched again.

    Args:
        max_size: bytes that a head may have.
    """

    __slots__ = ("_after_blank_line", "_max_size", "_searched")

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._searched = 0  # bytes at the buffer's front in which no head ends
        self._after_blank_line = False

    def start(self) -> None:
        """Begin with the head of another request."""
        self._after_blank_line = False

    def take(self, buffer: bytearray) -> bytes | None:
        """Remove a head and the blank line behind it from the front of a buffer.

        Returns:
            The head without the blank line; ``None`` while it is incomplete.

        Raises:
            MalformedHead: the bytes so far are wrong, whatever follows.
            HeadTooLarge: there are too many bytes.
        """
        if not self._after_blank_line and buffer.startswith(b"\r\n"):  # RFC 9112, section 2.2: one is ignored
            del buffer[:2]
            self._after_blank_line = True
        end = buffer.find(b"\r\n\r\n", self._searched)
        if not 0 <= end <= self._max_size:
            self._check_part(buffer)
            return None
        self._searched = 0
        head = bytes(buffer[:end])
        del buffer[: end + 4]
        return head

    def _check_part(self, buffer: bytearray) -> None:
        starts_wrong = bool(buffer) and buffer[0] <= 0x20 and buffer != b"\r"
        if starts_wrong or _BARE_LF.search(buffer, self._searched, self._max_size):
            raise MalformedHead
        if len(buffer) > self._max_size:
            raise HeadTooLarge
        self._searched = max(0, len(buffer) - 3)
