"""Small functions on texts that several commands use."""

from __future__ import annotations

import codecs
from typing import Final

_CONTROLS: Final = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}


def without_bom(text: bytes) -> bytes:
    """Return a text without the byte order mark that some Windows programs write first."""
    return text.removeprefix(codecs.BOM_UTF8)


def without_controls(json_text: str) -> str:
    """Escape the control characters that JSON may contain as they are, and that some terminals obey."""
    return json_text.translate(_CONTROLS)


def counted(number: int, name: str, plural: str | None = None) -> str:
    """Return ``1 node`` or ``2 nodes``."""
    return f"{number} {name if number == 1 else plural or name + 's'}"
