"""History of a broker inside the process: its logs, and the bus that publishes with positions."""

from __future__ import annotations

import pytest

from realizehit.broker.base import Interest
from realizehit.broker.history.memory import MemoryLogs
from realizehit.broker.history.rules import NO_RULES, Rule, Rules
from realizehit.broker.history.scripts import MOST_BEFORE
from realizehit.broker.memory import MemoryBus
from realizehit.broker.publication import Publication, Published
from realizehit.common.position import Position
from realizehit.errors import BrokerRefused
from tests.support.bus_recorder import Recorder

CHAT = Rules((Rule({"kind": ("chat",)}, 3, 10.0),))
ROOM = b"kind:chat|room:1"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logs(clock: Clock) -> MemoryLogs:
    logs = MemoryLogs(clock=clock)
    logs.use(CHAT)
    return logs


def append(logs: MemoryLogs, *payloads: bytes) -> Position:
    for payload in payloads:
        position = logs.append(ROOM, payload)
    assert position is not None
    return position


def test_offsets_count_from_one_and_the_oldest_go(logs: MemoryLogs) -> None:
    part = logs.read(ROOM, after=None, last=None, most=9)
    assert (part.first, part.last, list(part.messages)) == (1, 0, [])
    position = append(logs, b"1", b"2", b"3", b"4")
    assert position == (part.epoch, 4)
    part = logs.read(ROOM, after=0, last=None, most=9)
    assert (part.first, part.last, list(part.messages)) == (2, 4, [(2, b"2"), (3, b"3"), (4, b"4")])
    assert not part.covers(Position(part.epoch, 0))
    assert part.covers(Position(part.epoch, 1))


def test_a_read_tells_when_the_log_expires(logs: MemoryLogs, clock: Clock) -> None:
    append(logs, b"1")
    clock.now += 4.0
    assert logs.read(ROOM, after=None, last=1, most=9).expires_in == 6.0


@pytest.mark.parametrize(
    ("asked", "offsets"),
    [
        ({"after": 2, "last": None, "most": 9}, [3, 4]),
        ({"after": 1, "last": None, "most": 2}, [2, 3]),
        ({"after": 4, "last": None, "most": 9}, []),
        ({"after": 9, "last": None, "most": 9}, []),
        ({"after": None, "last": 2, "most": 9}, [3, 4]),
        ({"after": None, "last": 9, "most": 1}, [4]),
        ({"after": None, "last": 9, "most": 9}, [2, 3, 4]),
        ({"after": None, "last": None, "most": 9}, []),
    ],
)
def test_what_is_read(logs: MemoryLogs, asked: dict[str, int], offsets: list[int]) -> None:
    append(logs, b"1", b"2", b"3", b"4")
    assert [offset for offset, _ in logs.read(ROOM, **asked).messages] == offsets


def test_a_log_begins_anew_after_its_time(logs: MemoryLogs, clock: Clock) -> None:
    epoch = append(logs, b"1").epoch
    clock.now += 9
    assert append(logs, b"2").epoch == epoch  # the time counts from the last message
    clock.now += 9
    assert logs.read(ROOM, after=None, last=None, most=1).epoch == epoch
    clock.now += 1
    again = append(logs, b"3")
    assert again.epoch != epoch
    assert again.offset == 1
    assert not logs.read(ROOM, after=0, last=None, most=1).covers(Position(epoch, 2))


def test_expired_logs_do_not_add_up(logs: MemoryLogs, clock: Clock) -> None:
    for number in range(50):
        logs.append(b"kind:chat|room:%d" % number, b"x")
    clock.now += 10
    for number in range(50):
        logs.append(b"kind:chat|room:a%d" % number, b"x")
    assert len(logs) == 50
    assert logs.total_bytes == sum(log.size for log in logs._logs.values())


def test_the_bytes_of_all_logs_are_bounded(clock: Clock) -> None:
    logs = MemoryLogs(clock=clock, max_bytes=10_000)
    logs.use(CHAT)
    for number in range(30):
        logs.append(b"kind:chat|room:%d" % number, b"x" * 1000)
        assert logs.total_bytes <= 10_000
    assert len(logs) == 8
    assert logs.read(b"kind:chat|room:29", after=0, last=None, most=9).last == 1
    assert logs.read(b"kind:chat|room:0", after=0, last=None, most=9).last == 0


def test_a_log_is_renewed_if_it_lacks_a_message(logs: MemoryLogs) -> None:
    epoch = append(logs, b"1", b"2").epoch
    assert logs.renew(ROOM, Position(epoch, 2)).epoch == epoch
    assert logs.renew(ROOM, Position("aaaaaaaa", 5)).epoch == epoch
    part = logs.renew(ROOM, Position(epoch, 3))
    assert part.epoch != epoch
    assert part.before == (Position(epoch, 2),)
    assert part.covers(Position(epoch, 2))
    assert not part.covers(Position(epoch, 3))
    assert append(logs, b"3") == (part.epoch, 3)
    for _ in range(MOST_BEFORE + 3):
        part = logs.renew(ROOM, Position(part.epoch, 9))
    assert len(part.before) == MOST_BEFORE
    assert part.covers(Position(part.before[0].epoch, 3))
    assert not part.covers(Position(epoch, 2))


def test_without_a_rule_there_is_no_log(logs: MemoryLogs) -> None:
    assert logs.append(b"kind:news", b"1") is None
    with pytest.raises(BrokerRefused, match="no rule of history contains kind:news"):
        logs.read(b"kind:news", after=None, last=None, most=1)
    epoch = append(logs, b"1").epoch
    logs.use(NO_RULES)
    assert (len(logs), logs.total_bytes) == (0, 0)
    logs.use(CHAT)
    assert append(logs, b"1").epoch != epoch  # what was published between was not logged


async def test_the_bus_publishes_with_positions() -> None:
    bus, recorder = MemoryBus("history"), Recorder()
    seen: list[Rules] = []
    bus.on_rules = seen.append
    await bus.start(recorder)
    wildcard = b"kind:chat|room:*"
    for channel in (ROOM, wildcard, b"kind:*|room:*"):
        bus.subscribe(Interest(channel))
    assert await bus.write_rules(CHAT) is None
    assert await bus.write_rules(CHAT) is CHAT
    assert await bus.write_rules(Rules(), only_if_missing=True) is CHAT
    assert seen == [NO_RULES, CHAT]
    assert bus.rules is CHAT
    first = await bus.publish(Publication(ROOM, b'"a"', b"key"))
    epoch = first.at.partition(".")[0]
    again = await bus.publish(Publication(ROOM, b'"b"', b"key"))
    assert (first, again) == (Published(3, at=f"{epoch}.1"), Published(3, duplicate=True, at=f"{epoch}.1"))
    assert await bus.publish(Publication(b"kind:news", b"1")) == Published(0)
    part, wild = await bus.read_log(ROOM, after=0), await bus.read_log(wildcard, last=1)
    assert (part.epoch, list(part.messages)) == (epoch, [(1, b'"a"')])
    assert list(wild.messages) == [(1, b'@c=kind:chat|room:1?"a"')]
    await recorder.until(lambda: recorder.batches)
    assert recorder.delivered == [
        (ROOM, b'@o=%b.1?"a"' % epoch.encode()),
        (wildcard, b'@o=%b.1&c=kind:chat|room:1?"a"' % wild.epoch.encode()),
        (b"kind:*|room:*", b'@c=kind:chat|room:1?"a"'),  # no rule contains it
    ]
    renewed = await bus.renew_log(ROOM, Position(epoch, 2))
    assert renewed.before == (Position(epoch, 1),)
    await bus.close()
