"""Small functions on texts that several commands use."""

from __future__ import annotations

import codecs


def without_bom(text: bytes) -> bytes:
    """Return a text without the byte order mark that some Windows programs write first."""
    return text.removeprefix(codecs.BOM_UTF8)


def counted(number: int, name: str) -> str:
    """Return ``1 node`` or ``2 nodes``."""
    return f"{number} {name}{'' if number == 1 else 's'}"
