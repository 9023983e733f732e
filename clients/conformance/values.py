"""What a case cannot write down: tokens, keys, long texts, and what an earlier step found."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

import jwt

from clients.conformance.real import API_KEY, NEWS_KEY, SECRET, SLOW_KEY

_KEYS: Final = {"key:all": API_KEY, "key:news": NEWS_KEY, "key:slow": SLOW_KEY}


class Values:
    """The values of one case."""

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {"key": uuid.uuid4().hex}  # an idempotency key of the case

    def keep(self, names: Mapping[str, str], found: Mapping[str, Any]) -> None:
        """Keep values of an answer or event.

        Args:
            names: the name of each, by its key in what was found.
            found: the answer or event.

        Raises:
            LookupError: it does not hold such a key.
        """
        for key, name in names.items():
            if key not in found:
                raise LookupError(f"{key} is missing in {dict(found)!r}")
            self._kept[name] = found[key]

    def filled(self, value: Any) -> Any:
        """Replace tokens (``jwt:user=42,seconds=60``), keys (``key:news``), what was kept (``kept:NAME``), long texts.

        Raises:
            LookupError: nothing was kept by that name.
        """
        if isinstance(value, Mapping):
            return {self.filled(key): self.filled(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.filled(each) for each in value]
        if not isinstance(value, str):
            return value
        if value in _KEYS:
            return _KEYS[value]
        if value == "null:":
            return None
        if value.startswith("kept:"):
            return self._kept[value[5:]]
        if value.startswith("jwt:"):
            claims = dict(pair.split("=") for pair in value[4:].split(","))
            return jwt.encode({"sub": claims["user"], "exp": time.time() + float(claims["seconds"])}, SECRET, "HS256")
        return repeated(value)


def repeated(text: str) -> str:
    """Replace ``{{x*1000}}`` by a thousand times ``x``."""
    before, mark, rest = text.partition("{{")
    if not mark or "*" not in rest:
        return text
    inside, _, after = rest.partition("}}")
    piece, _, times = inside.rpartition("*")
    return f"{before}{piece * int(times)}{repeated(after)}" if times.isdigit() else text
