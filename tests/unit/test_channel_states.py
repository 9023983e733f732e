"""How many channels a link asks the broker for at once."""

from __future__ import annotations

from collections.abc import Sequence

from realizehit.broker.base import Interest
from realizehit.broker.channel_states import BATCH, WINDOW, WINDOW_RESTORING, ChannelStates

NAMES = [Interest(b"c:%d" % number) for number in range(WINDOW_RESTORING + WINDOW)]


class Reports:
    """What the states report to."""

    def __init__(self) -> None:
        self.confirmed: list[Interest] = []
        self.recoveries = 0

    def commands_due(self) -> None:
        pass

    def in_force(self, channels: Sequence[Interest]) -> None:
        self.confirmed += channels

    def refused(self, channel: Interest, text: str) -> None:
        raise AssertionError(text)

    def recovered(self) -> None:
        self.recoveries += 1


def test_more_channels_await_replies_while_channels_are_restored_than_otherwise() -> None:
    reports = Reports()
    states = ChannelStates(reports)
    states.on_connected()
    states.want_all(NAMES)
    taken: list[Interest] = []
    while states.has_due:
        due = states.take_due(0).joining
        assert due == NAMES[len(taken) : len(taken) + WINDOW]
        assert states.take_due(WINDOW).joining == []
        states.confirm(due, subscribed=True)
        taken += due
    assert reports.confirmed == NAMES
    states.on_disconnected()
    states.on_connected()
    due = states.take_due(0).joining
    assert due == NAMES[:WINDOW_RESTORING]
    assert states.take_due(WINDOW_RESTORING).joining == []
    states.confirm(due, subscribed=True)
    assert reports.recoveries == 0
    rest = states.take_due(0).joining
    assert rest == NAMES[WINDOW_RESTORING:]
    states.confirm(rest, subscribed=True)
    assert reports.recoveries == 1


def test_a_command_has_a_batch_of_channels_at_most() -> None:
    states = ChannelStates(Reports())
    states.want_all(NAMES)
    states.on_connected()
    due = states.take_due(-BATCH)
    assert [(subscribe, len(channels)) for subscribe, channels in due.batches()] == [(True, BATCH)] * 2
