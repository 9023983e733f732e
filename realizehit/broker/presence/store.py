"""What the broker keeps of presence, and what a node asks of it.

A *node* is here one registration of a process under a name of its own, with a lease. Once its lease has run out it
never holds again: the process takes a new name and registers everything anew. So it does not matter who notices first,
and an entry of a name without a lease is never valid again.

A *member* is the text of an identity, a JSON object. It is present while one node has it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, NamedTuple

MOST_CHANGES: Final = 200
"""Members in one change, and of a node without a lease that one step removes: the broker serves nobody meanwhile."""

MOST_MEMBERS: Final = 1000
"""Members of one page."""


class Changed(NamedTuple):
    """What a change did.

    Attributes:
        joined: members that were on no node before; as many joins were published.
        left: members that are on no node now; as many leaves were published.
        here: members of the node after it.
    """

    joined: int
    left: int
    here: int


class Page(NamedTuple):
    """A part of the members of a channel.

    Attributes:
        total: members of the whole channel.
        anonymous: connections of clients without an identity.
        members: in the order of their bytes.
        more: whether there are further ones behind them.
    """

    total: int
    anonymous: int
    members: list[bytes]
    more: bool


class Audit(NamedTuple):
    """What the broker has of a channel.

    Attributes:
        here: members of the node that asks.
        anonymous: its connections without an identity.
        nodes: all nodes that have members.
    """

    here: int
    anonymous: int
    nodes: list[bytes]


class PresenceStore(ABC):
    """Presence at one broker. Everything may be repeated; nothing is lost or counted twice by that.

    All methods raise `BrokerUnavailable` where the broker cannot be reached, and `BrokerRefused` where it answers with
    an error, such as a missing permission.
    """

    @abstractmethod
    async def enter(self, node: bytes, lease: float) -> None:
        """Give a new node its lease, in seconds."""

    @abstractmethod
    async def renew(self, node: bytes, lease: float) -> bool:
        """Renew the lease of a node.

        Returns:
            False where it has run out, or is not known any more.
        """

    @abstractmethod
    async def announce(self, node: bytes, channels: Sequence[bytes]) -> None:
        """Note that a node may have members of some channels from now on; to be done before the first `change`."""

    @abstractmethod
    async def retire(self, node: bytes, channels: Sequence[bytes]) -> None:
        """Note that a node has no members of some channels any more."""

    @abstractmethod
    async def change(
        self, channel: bytes, node: bytes, joins: Sequence[bytes], leaves: Sequence[bytes], anonymous: int
    ) -> Changed:
        """Have a node gain and lose members of a channel, and publish who joined and who left.

        Args:
            channel: the pattern's own.
            node: the node.
            joins: members that it has from now on.
            leaves: members that it has not any more; with `joins` at most `MOST_CHANGES`.
            anonymous: its connections of clients without an identity.
        """

    @abstractmethod
    async def audit(self, channel: bytes, node: bytes) -> Audit:
        """Return what the broker has of a channel and a node, so that the node sees what was lost.

        A broker that has lost a part of a channel forgets all of it.
        """

    @abstractmethod
    async def read(self, channel: bytes, after: bytes, most: int) -> Page:
        """Read members of a channel in the order of their bytes.

        Args:
            channel: the pattern's own.
            after: the last member of the page before; empty for the first page.
            most: members of this page, at most `MOST_MEMBERS`; 0 for the counts alone.

        Cost: O(log n + most).
        """

    # ---- nodes whose lease has run out

    @abstractmethod
    async def lapsed(self, reaper: bytes, claim: float) -> list[bytes]:
        """Return some nodes whose lease has run out, for one caller that removes what they had.

        Args:
            reaper: names the caller.
            claim: seconds for which other callers get none.
        """

    @abstractmethod
    async def channels(self, node: bytes) -> list[bytes]:
        """Return some channels of a node, by `announce`; none once they are all retired."""

    @abstractmethod
    async def remove(self, channel: bytes, node: bytes) -> tuple[int, bool]:
        """Remove up to `MOST_CHANGES` members of a node from a channel, and publish who left.

        Returns:
            How many left, and whether there are more.
        """

    @abstractmethod
    async def forget(self, node: bytes) -> None:
        """Forget a node whose lease has run out and which has no channels."""

    @abstractmethod
    async def without_lease(self, nodes: Sequence[bytes]) -> list[bytes]:
        """Return those of some nodes that are not known; nobody else removes what they had."""
