"""Which machine of a cluster owns which slot, as its machines say together.

A machine that was cut off may know an old state. So each claim to a slot carries the configuration epoch of the primary
that claims it, and the claim with the higher epoch wins: it is the rule by which the machines themselves decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from realizehit.broker.cluster.address import Place
from realizehit.broker.cluster.slots import SLOTS

QUESTION: Final[list[tuple[bytes | str, ...]]] = [("CLUSTER", "SLOTS"), ("CLUSTER", "NODES"), ("CLUSTER", "INFO")]
"""The commands whose replies `read_answer` reads."""

_MOST_AGREED: Final = 64  # answers that are remembered


@dataclass(frozen=True, slots=True)
class Topology:
    """Owners of slots at one time.

    Attributes:
        epoch: the highest configuration epoch of a primary.
        owners: the primary of each slot, or None where nobody owns it.
        primaries: the machines that own slots, sorted.
    """

    epoch: int
    owners: tuple[Place | None, ...]
    primaries: tuple[Place, ...]

    def owner_of(self, slot: int) -> Place | None:
        """Return the primary that owns a slot."""
        return self.owners[slot]


class Claim(NamedTuple):
    """That a primary owns the slots from ``first`` to ``last``."""

    first: int
    last: int
    name: str  # the id of the primary
    epoch: int
    place: Place


class Answer(NamedTuple):
    """What one machine says.

    Attributes:
        claims: which primary owns which slots.
        machines: all that it knows.
        is_certain: whether it sees most of the primaries: none of them was replaced before it was asked.
    """

    claims: tuple[Claim, ...]
    machines: frozenset[Place]
    is_certain: bool


def read_answer(replies: list[Any], asked: Place) -> Answer:
    """Read the replies to `QUESTION`.

    Args:
        replies: they.
        asked: the machine that answered: an empty host stands for its own.

    Raises:
        ValueError, TypeError, IndexError, AttributeError, KeyError: they are not valid.
    """
    slots, nodes, info = replies
    epochs = _epochs(nodes.decode())
    claims, machines = [], set()
    for first, last, primary, *replicas in slots:
        if not 0 <= first <= last < SLOTS:
            raise ValueError(f"slots {first} to {last}")
        name = primary[2].decode()
        if (place := _place(primary, asked)) is not None:
            claims.append(Claim(first, last, name, epochs[name], place))
        machines |= {found for node in (primary, *replicas) if (found := _place(node, asked)) is not None}
    fields = dict(line.split(":", 1) for line in info.decode().split() if ":" in line)
    return Answer(tuple(sorted(claims)), frozenset(machines), fields.get("cluster_state") == "ok")


def _place(node: list[Any], asked: Place) -> Place | None:
    host = asked[0] if not node[0] else node[0].decode()
    return None if host == "?" or not node[1] else (host, int(node[1]))


def _epochs(text: str) -> dict[str, int]:
    """Read the configuration epoch of each machine from the reply to ``CLUSTER NODES``."""
    lines = [line.split(" ") for line in text.splitlines()]
    return {fields[0]: int(fields[6]) for fields in lines}


class Owners:
    """Puts the answers of several machines together.

    Attributes:
        current: the topology; None before the first answer.
    """

    def __init__(self) -> None:
        self.current: Topology | None = None
        self._claims: list[Claim | None] = [None] * SLOTS
        self._agreed: set[tuple[Claim, ...]] = set()  # answers that would change nothing

    def take(self, answer: Answer) -> bool:
        """Take the answer of one machine; return whether the topology has changed.

        An answer without any slot comes from a machine that does not belong to the cluster yet, or any more. One that
        shares no primary with what is known comes from another cluster, which stands in the place of the first.
        """
        if not answer.claims or answer.claims in self._agreed:
            return False
        known = {claim.name for claim in self._claims if claim is not None}
        if known.isdisjoint(claim.name for claim in answer.claims):
            self._claims = [None] * SLOTS
        for claim in answer.claims:
            for slot in range(claim.first, claim.last + 1):
                before = self._claims[slot]
                if before is None or claim.epoch >= before.epoch:
                    self._claims[slot] = claim
        owners = tuple(None if claim is None else claim.place for claim in self._claims)
        if self.current is not None and owners == self.current.owners:
            if len(self._agreed) < _MOST_AGREED:
                self._agreed.add(answer.claims)
            return False
        self._agreed.clear()
        self.current = Topology(
            max(claim.epoch for claim in self._claims if claim is not None),
            owners,
            tuple(sorted({place for place in owners if place is not None})),
        )
        return True


def moved_slots(before: Topology | None, after: Topology) -> Mapping[int, Place | None]:
    """Return the slots whose owner differs, with their new owner."""
    if before is None:
        return dict(enumerate(after.owners))
    pairs = zip(before.owners, after.owners, strict=True)
    return {slot: new for slot, (old, new) in enumerate(pairs) if old != new}
