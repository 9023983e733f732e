"""Suggestions for mistyped names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name that is most similar to a mistyped one; ``None`` if no name is similar enough.

    Args:
        name: the mistyped name.
        known: the valid names.
        cutoff: the least similarity, from 0 to 1; 1 is equality.
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return near[0] if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of an error's text, ``; did you mean port?``; an empty text if no name is similar."""
    near = nearest(name, known)
    return f"; did you mean {near}?" if near else ""
