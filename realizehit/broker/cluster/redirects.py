"""What a machine of a cluster answers when another one owns the slot."""

from __future__ import annotations

from typing import NamedTuple

from realizehit.broker.cluster.address import Place


class Redirect(NamedTuple):
    """An answer ``MOVED`` or ``ASK``.

    Attributes:
        asking: whether it is ``ASK``: only this command goes to the other machine, after ``ASKING``.
        slot: the slot.
        place: the machine to ask.
    """

    asking: bool
    slot: int
    place: Place


def redirect_of(text: str, asked: Place) -> Redirect | None:
    """Return what an error reply says, such as ``MOVED 3999 127.0.0.1:6381``; None for another error.

    Args:
        text: the error.
        asked: the machine that answered: an empty host stands for its own.
    """
    words = text.split(" ")
    if len(words) != 3 or words[0] not in ("MOVED", "ASK"):
        return None
    host, _, port = words[2].rpartition(":")
    if not words[1].isdecimal() or not port.isdecimal() or host == "?":
        return None
    return Redirect(words[0] == "ASK", int(words[1]), (host.strip("[]") or asked[0], int(port)))
