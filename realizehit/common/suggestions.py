"""What somebody may have meant who mistyped a name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name that is most like another one.

    Args:
        name: what was written.
        known: the names that there are.
        cutoff: how like, from 0 to 1, where 1 is the same.
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return near[0] if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of an error's text, ``; did you mean port?``; an empty text where nothing is near."""
    near = nearest(name, known)
    return f"; did you mean {near}?" if near else ""
