"""What a bridge makes of replies and news that arrive in one read."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import hiredis

from realizehit.broker.resp import CommandConnection
from realizehit.broker.shapes.bridge import Bridge
from realizehit.broker.shapes.registry import CONTROL, RUNS
from realizehit.broker.url import Address

OLD, NEW = b"kind:*|lang:=", b"channel:*|kind:="


class RecordedConnection:
    """A connection that writes down what is sent."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[str] = self.loop.create_future()
        self.sent: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.sent.append(data)


def news(shape: bytes) -> Any:
    return hiredis.PushNotification([b"message", CONTROL, shape])


async def test_a_shape_announced_in_the_read_of_the_registry_is_kept() -> None:
    bridge, recorded = Bridge(Address("redis://127.0.0.1:1")), RecordedConnection()
    connection = cast(CommandConnection, recorded)
    bridge._connection, bridge.runs, bridge._certain = connection, True, recorded.loop.time()
    bridge._listen(connection, OLD)
    looking = asyncio.create_task(bridge._forget_lapsed(connection))
    await asyncio.sleep(0)
    # The registry was empty when it was read. Then one shape was registered again, and one for the first time.
    bridge.replied(connection, [[], news(OLD), news(NEW)])
    for _ in range(3):
        await asyncio.sleep(0)
    assert set(bridge._globs.members) == {OLD, NEW}
    bridge.replied(connection, [1, 1, [RUNS, 1]])  # to both announcements of what it listens for, and to the renewal
    await looking
    assert set(bridge._globs.members) == {OLD, NEW}
    assert not [data for data in recorded.sent if b"PUNSUBSCRIBE" in data]
