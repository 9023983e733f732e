"""The command line's form of patterns, `Pattern.parse`.

Invariant: any text gives a pattern or a `PatternError` with a text; a pattern written in that form again is the same.
"""

from __future__ import annotations

from urllib.parse import quote

from realizehit.errors import PatternError
from realizehit.pattern import Pattern
from tests.fuzz.command import main


def one(data: bytes) -> None:
    """Take a case as text, with what is no UTF-8 as a program's arguments come: in surrogates."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        pattern = Pattern.parse(text)
    except PatternError as error:
        assert str(error)
        return
    written = ",".join(f"{quote(key, safe='*')}={quote(str(value), safe='*')}" for key, value in pattern.items())
    again = Pattern.parse(written)
    assert again == pattern
    assert dict(again) == dict(pattern)
    assert again.id == pattern.id


if __name__ == "__main__":
    main(__spec__.name)
