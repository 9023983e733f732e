"""Whether a client's memory stays flat while a scripted server sends it away again and again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clients.conformance.driver import Driver, DriverError
from clients.conformance.languages import Language
from clients.conformance.scripted import ScriptedServer

RECONNECTS: Final = 10_000
GROWTH: Final = 0.05  # how much more memory the driver may have in the end than after a tenth of the reconnects
SLACK: Final = 8 << 20  # bytes besides: a runtime still compiles and grows its pools after a short run's first tenth
PATIENCE: Final = 30.0  # seconds that one reconnect may take
_GOODBYES: Final = 10  # every tenth connection is cut, the others are closed with 4001


@dataclass(frozen=True)
class Memory:
    """The resident memory of a driver.

    Attributes:
        language: its name.
        reconnects: how often it came back.
        early: bytes after a tenth of them.
        late: bytes in the end.
    """

    language: str
    reconnects: int
    early: int
    late: int

    @property
    def flat(self) -> bool:
        """Whether it did not grow."""
        return self.late <= self.early * (1 + GROWTH) + SLACK

    def __str__(self) -> str:
        early, late = (f"{each / (1 << 20):.1f} MiB" for each in (self.early, self.late))
        return f"{early} after {self.reconnects // 10:,} reconnects, {late} after {self.reconnects:,}"


async def watch(language: Language, reconnects: int = RECONNECTS) -> Memory:
    """Let a language's driver reconnect so often.

    Args:
        language: it is prepared and built.
        reconnects: how often.

    Raises:
        DriverError: it did not come back, or not as a client should.
    """
    server = ScriptedServer()
    await server.start()
    driver = await language.start(language.memory_env)
    try:
        options = {"backoff_base": 0.001, "backoff_cap": 0.001}
        await driver.call("open", client="c", url=server.ws, options=options)
        for sub, pattern in {"s": {"kind": "news"}, "t": {"kind": "sport"}}.items():
            await driver.call("subscribe", client="c", sub=sub, pattern=pattern, offsets=sub == "t")
        early = 0
        for number in range(1, reconnects + 1):
            await _send_away(server, driver, cut=number % _GOODBYES == 0)
            if number == reconnects // 10:
                early = _resident(driver)
        return Memory(language.name, reconnects, early, _resident(driver))
    finally:
        await driver.stop()
        await server.stop()


async def _send_away(server: ScriptedServer, driver: Driver, *, cut: bool) -> None:
    """End the connection, and wait until the client is back and gets a message again."""
    server.forget()
    driver.events.clear()
    socket = server.latest()
    socket.abort() if cut else socket.close(4001, "delay=0")
    try:
        async with asyncio.timeout(PATIENCE):
            while server.latest() is socket or len(server.actions) < 2:
                server.news.clear()
                await server.news.wait()
    except TimeoutError:
        raise DriverError(f"the client did not come back within {PATIENCE:g} s") from None
    server.latest().send("bc86961b?1")
    await driver.wait_for(lambda: any(each["on"] == "payload" for each in driver.events), PATIENCE, "a message")


def _resident(driver: Driver) -> int:
    """Return the resident memory of a driver's process, in bytes."""
    status = Path(f"/proc/{driver.pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
