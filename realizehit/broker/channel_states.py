"""The state of each channel of one subscriber connection: what is wanted, and what the broker was told.

The state of a channel, and everything that changes it, lives in this file. It is a handful of bits in a dict entry,
since there may be hundreds of thousands:

======== ==========================================================================================
WANTED   the node asked for it
ON       the last command sent for it was SUBSCRIBE
BUSY     that command is not answered yet; nothing else is sent for the channel until it is
PROMISED the node expects a report when the channel is in force
QUEUED   it stands in the queue of channels to look at when the next commands go out
ALONE    a command of many channels that held it was refused, so it goes in one of its own
LAPSED   it was in force on an earlier connection, and has not been again
KEPT     a relay that lost the broker will subscribe to it again; it is BUSY until the relay reports that it has
======== ==========================================================================================

A channel is in force when it is WANTED and ON, not BUSY. When WANTED and ON differ and it is not BUSY, it is QUEUED,
and the next flush sends what makes them equal. A lost connection clears all but WANTED, PROMISED and LAPSED, which it
sets where the channel was in force. Once there is a connection and no channel is LAPSED any more, all is restored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from realizehit.broker.base import Interest

WANTED: Final = 1
ON: Final = 2
BUSY: Final = 4
PROMISED: Final = 8
QUEUED: Final = 16
ALONE: Final = 32
LAPSED: Final = 64
KEPT: Final = 128

BATCH: Final = 128  # channels in one command
WINDOW: Final = BATCH
"""Channels without a reply at once: messages of other channels come behind these replies, at about 5 us each."""
WINDOW_RESTORING: Final = 4096
"""The same while channels are LAPSED, when time matters more; bounds what the broker must buffer in replies."""


class Reports(Protocol):
    """What the states report to. None of these may raise."""

    def commands_due(self) -> None:
        """Learn that `ChannelStates.take_due` has something to return."""

    def in_force(self, channels: Sequence[Interest]) -> None:
        """Learn that channels are in force, where that was promised."""

    def refused(self, channel: Interest, text: str) -> None:
        """Learn that the broker refused a channel that is wanted; it is forgotten."""

    def recovered(self) -> None:
        """Learn that no channel is LAPSED any more."""


class Due(NamedTuple):
    """Channels that commands are due for.

    Attributes:
        alone: to subscribe to, each in a command of its own.
        joining: to subscribe to.
        leaving: to unsubscribe from.
    """

    alone: list[Interest]
    joining: list[Interest]
    leaving: list[Interest]

    def batches(self) -> Iterator[tuple[bool, Sequence[Interest]]]:
        """Return the commands in their order: whether it is SUBSCRIBE, and its channels."""
        return self._batches([self.joining], [self.leaving])

    def batches_by(self, group: Callable[[Interest], object]) -> Iterator[tuple[bool, Sequence[Interest]]]:
        """Return the same where a command may only have channels of one group."""
        return self._batches(_grouped(self.joining, group), _grouped(self.leaving, group))

    def _batches(
        self, joining: Iterable[list[Interest]], leaving: Iterable[list[Interest]]
    ) -> Iterator[tuple[bool, Sequence[Interest]]]:
        for channel in self.alone:
            yield True, [channel]
        for subscribe, groups in ((True, joining), (False, leaving)):
            for channels in groups:
                for start in range(0, len(channels), BATCH):
                    yield subscribe, channels[start : start + BATCH]


def _grouped(channels: list[Interest], group: Callable[[Interest], object]) -> Iterable[list[Interest]]:
    groups: dict[object, list[Interest]] = {}
    for channel in channels:
        groups.setdefault(group(channel), []).append(channel)
    return groups.values()


class ChannelStates:
    """The channels of one link to a broker.

    Args:
        reports: told of what changes.
        order: sorts the channels for a new connection, if their order matters.

    Attributes:
        connected: whether there is a connection to send commands on.
        lapsed: how many channels are LAPSED.
    """

    def __init__(self, reports: Reports, order: Callable[[Interest], int] | None = None) -> None:
        self._order = order
        self.connected = False
        self.lapsed = 0
        self._reports = reports
        self._channels: dict[Interest, int] = {}
        self._queue: deque[Interest] = deque()

    def __len__(self) -> int:
        return len(self._channels)

    def __contains__(self, channel: object) -> bool:
        return channel in self._channels

    @property
    def has_due(self) -> bool:
        """Whether commands may be due."""
        return bool(self._queue)

    # ---- what the node wants

    def want(self, channel: Interest) -> bool:
        """Want a channel; true when it is in force already, otherwise `Reports.in_force` is promised."""
        flags = self._channels.get(channel, 0)
        if flags & (ON | BUSY) == ON:
            self._channels[channel] = flags | WANTED
            return True
        self._put(channel, flags | WANTED | PROMISED)
        return False

    def want_all(self, channels: Iterable[Interest]) -> list[Interest]:
        """Want channels, and return those that are in force already; as `want`, but cheaper for new ones."""
        known, queue, in_force = self._channels, self._queue, []
        for channel in channels:
            if self.connected and channel not in known:
                known[channel] = WANTED | PROMISED | QUEUED
                queue.append(channel)
            elif self.want(channel):
                in_force.append(channel)
        if queue:
            self._reports.commands_due()
        return in_force

    def leave(self, channel: Interest) -> None:
        """Want a channel no longer; unknown channels are ignored."""
        flags = self._channels.get(channel, 0)
        if flags == WANTED | ON and self.connected:  # the usual case needs no more
            self._channels[channel] = ON | QUEUED
            self._queue.append(channel)
            self._reports.commands_due()
        elif flags & WANTED:
            self._put(channel, flags & ~(WANTED | PROMISED | ALONE | LAPSED))
            self._count_back(flags)

    def _put(self, channel: Interest, flags: int) -> None:
        """Store a channel's state, queue it where a command is due, forget it where nothing is left to say."""
        if not flags & (BUSY | QUEUED):
            if bool(flags & WANTED) == bool(flags & ON):
                if not flags & WANTED:
                    self._channels.pop(channel, None)
                    return
            elif self.connected:
                flags |= QUEUED
                self._queue.append(channel)
                self._reports.commands_due()
        self._channels[channel] = flags

    # ---- commands and their replies

    def take_due(self, in_flight: int) -> Due:
        """Return the channels that commands are due for, as far as the window has room, and count them as sent.

        Args:
            in_flight: how many channels have no reply yet. One that goes alone takes the room of a whole `BATCH`.
        """
        room = (WINDOW_RESTORING if self.lapsed else WINDOW) - in_flight
        due = Due([], [], [])
        while self._queue and room > 0:
            channel = self._queue.popleft()
            flags = self._channels.get(channel, 0) & ~QUEUED
            if not flags & (ON | BUSY | WANTED):
                self._channels.pop(channel, None)
            elif flags & (ON | BUSY | WANTED) == WANTED:
                self._channels[channel] = flags & ~ALONE | ON | BUSY
                alone = flags & ALONE
                (due.alone if alone else due.joining).append(channel)
                room -= BATCH if alone else 1
            elif flags & (ON | BUSY | WANTED) == ON:
                self._channels[channel] = flags & ~ON | BUSY
                due.leaving.append(channel)
                room -= 1
            else:
                self._channels[channel] = flags
        return due

    def confirm(self, channels: Sequence[Interest], *, subscribed: bool) -> None:
        """Take the replies to a SUBSCRIBE or UNSUBSCRIBE for channels."""
        known = self._channels
        promised: list[Interest] = []
        back = 0
        for channel in channels:
            flags = known[channel]
            if subscribed and flags == WANTED | ON | BUSY | PROMISED:  # these two, the usual ones, need no more
                known[channel] = WANTED | ON
                promised.append(channel)
                continue
            if not subscribed and flags == BUSY:
                del known[channel]
                continue
            flags &= ~(BUSY | KEPT)
            if not subscribed or not flags & WANTED:
                self._put(channel, flags)
                continue
            if flags & PROMISED:
                promised.append(channel)
            back += bool(flags & LAPSED)
            self._put(channel, flags & ~(PROMISED | LAPSED))
        if promised:
            self._reports.in_force(promised)
        if back:
            self.lapsed -= back
            if not self.lapsed:
                self._reports.recovered()

    def take_apart(self, channels: Sequence[Interest]) -> None:
        """Learn that a SUBSCRIBE of many channels was refused: each goes in a command of its own."""
        for channel in channels:
            flags = self._channels[channel] & ~(ON | BUSY)
            self._put(channel, flags | ALONE if flags & WANTED else flags)

    def stay(self, channels: Sequence[Interest]) -> None:
        """Learn that an UNSUBSCRIBE was refused: it counts as answered, and the channels may stay at the broker."""
        for channel in channels:
            self._put(channel, self._channels[channel] & ~BUSY)

    # ---- slots of a cluster move

    def in_force(self) -> list[Interest]:
        """Return the wanted channels that are in force."""
        return [channel for channel, flags in self._channels.items() if flags & (ON | BUSY | WANTED) == ON | WANTED]

    def is_in_force(self, channel: Interest) -> bool:
        """Whether a wanted channel is in force."""
        return self._channels.get(channel, 0) & (ON | BUSY | WANTED) == ON | WANTED

    def evict(self, channel: Interest) -> bool:
        """Learn that the broker ended a subscription unasked; return whether the channel was in force.

        Nothing is sent for it until `try_again`.
        """
        flags = self._channels.get(channel, 0)
        if flags & (ON | BUSY) != ON:
            return False
        if flags & WANTED:
            self._channels[channel] = flags & ~ON | PROMISED
            return True
        if not flags & QUEUED:
            del self._channels[channel]
        else:
            self._channels[channel] = flags & ~ON
        return False

    def postpone(self, channels: Sequence[Interest]) -> None:
        """Learn that a SUBSCRIBE was refused for now. Nothing is sent for its channels until `try_again`."""
        for channel in channels:
            flags = self._channels[channel] & ~(ON | BUSY)
            if flags & WANTED:
                self._channels[channel] = flags
            else:
                del self._channels[channel]

    def try_again(self, channels: Iterable[Interest]) -> None:
        """Have commands sent for postponed channels that are still wanted."""
        for channel in channels:
            if channel in self._channels:
                self._put(channel, self._channels[channel])

    def refuse(self, channel: Interest, text: str) -> None:
        """Forget a channel that the broker refused with this text."""
        flags = self._channels.pop(channel)
        if flags & WANTED:
            self._reports.refused(channel, text)
        self._count_back(flags)

    # ---- the connection comes and goes

    def on_connected(self) -> None:
        """Queue all channels for a new connection."""
        self.connected = True
        self._queue.extend(self._channels if self._order is None else sorted(self._channels, key=self._order))
        if self._queue:
            self._reports.commands_due()

    def on_disconnected(self) -> None:
        """Forget what the broker was told; what is wanted stays wanted."""
        self.connected = False
        self._queue.clear()
        self._channels = {name: _after_loss(flags) for name, flags in self._channels.items() if flags & WANTED}
        self._count_lapsed()

    def keep_for_relay(self) -> None:
        """Let all that is in force wait for the relay, which lost the broker and will subscribe to it again."""
        for channel, flags in self._channels.items():
            if flags & (ON | BUSY) == ON:
                self._channels[channel] = flags | BUSY | KEPT | (LAPSED if flags & WANTED else 0)
        self._count_lapsed()

    def keep_some_for_relay(self, channels: Iterable[Interest]) -> list[Interest]:
        """Let those of some channels that are in force wait for the relay; return the wanted ones of them."""
        lost = []
        for channel in channels:
            flags = self._channels.get(channel, 0)
            if flags & (ON | BUSY) == ON:
                if flags & WANTED:
                    flags |= PROMISED
                    lost.append(channel)
                self._channels[channel] = flags | BUSY | KEPT
        return lost

    def kept(self) -> list[Interest]:
        """Return the channels that wait for the relay."""
        return [channel for channel, flags in self._channels.items() if flags & KEPT]

    def is_kept(self, channel: Interest) -> bool:
        """Tell whether a channel waits for the relay."""
        return bool(self._channels.get(channel, 0) & KEPT)

    def _count_lapsed(self) -> None:
        self.lapsed = sum(1 for flags in self._channels.values() if flags & LAPSED)

    def _count_back(self, flags: int) -> None:
        """Count a channel that had these flags and is not LAPSED any more."""
        if flags & LAPSED:
            self.lapsed -= 1
            if not self.lapsed:
                self._reports.recovered()


def _after_loss(flags: int) -> int:
    """Return what is left of a channel's flags when its connection is lost."""
    lapsed = flags & LAPSED or (LAPSED if flags & (ON | BUSY) == ON else 0)
    return flags & (WANTED | PROMISED) | lapsed
