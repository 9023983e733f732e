"""The hosts of a broker URL that names several."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from realizehit.errors import SettingsError

_HOST: Final = re.compile(r"\[[^]]+\]|[^:\[\]]+")


def hosts_of(text: str, shown: str, *, port: int, of: str) -> list[tuple[str, int]]:
    """Return the hosts and ports of a list such as ``s1:26379,s2,[::1]:26379``.

    Args:
        text: the list.
        shown: the URL without its secrets.
        port: of a host that has none.
        of: what the hosts are, for the error.

    Raises:
        SettingsError: one of them is none.
    """
    places = []
    for part in text.split(","):
        try:
            parts = urlsplit(f"//{part}")
            number = parts.port
        except ValueError:
            parts, number = urlsplit("//"), None
        if not parts.hostname or not _HOST.match(part) or parts.path or parts.username is not None:
            raise SettingsError(f"broker URL {shown}: {part!r} is not the host:port of {of}")
        places.append((parts.hostname, number or port))
    return places
