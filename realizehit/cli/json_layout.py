"""Lays out JSON for people, from text to text: it decodes no number and no key, so that they stay as written."""

from __future__ import annotations

import json
import re
from typing import Final

DEEPEST: Final = 64
"""Levels of lists and objects up to which a text is laid out, because indentation grows with the depth."""

_PART: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],:]|[^\s{}\[\],:"]+')


def lay_out_json(text: str) -> str:
    """Return a valid JSON text with a line for each value, indented by two; a text that is too deep stays as it is.

    Escapes in strings become their characters if a terminal can show these.
    """
    written: list[str] = []
    depth = 0
    before = ""
    for part in _PART.findall(text):
        if part in "]}":
            depth -= 1
            if before not in "[{":
                written.append("\n" + "  " * depth)
        elif before and before in "[{,":
            written.append("\n" + "  " * depth)
        written.append(_shown(part))
        if part in "[{":
            depth += 1
            if depth > DEEPEST:
                return text
        before = part
    return "".join(written)


def _shown(part: str) -> str:
    if part == ":":
        return ": "
    if part[0] != '"' or "\\" not in part:
        return part
    shown = json.dumps(json.loads(part, strict=False), ensure_ascii=False)
    return shown.encode("utf-8", "backslashreplace").decode()  # no terminal shows a lone surrogate
