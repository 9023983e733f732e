"""What the actors of the soak of history share: its plan, its patterns, and the account of what happens."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.soak.faults import Servers
from tests.support.account import Account
from tests.support.account_records import Filters

BROKERS: Final = ("single", "sentinel", "cluster")

RULES: Final = """
[[history]]
pattern = { soak = "kept" }
size = 2000
ttl = "1h"

[[history]]
pattern = { soak = "short" }
size = 5
ttl = "1h"

[[history]]
pattern = { soak = "bulk" }
size = 300
ttl = "1h"
"""

KEPT: Final[list[Filters]] = [{"soak": "kept", "room": room} for room in range(6)]
SHORT: Final[list[Filters]] = [{"soak": "short", "room": room} for room in range(2)]
PLAIN: Final[list[Filters]] = [{"soak": "plain", "room": room} for room in range(4)]
BULK: Final[Filters] = {"soak": "bulk", "room": 0}
WILD_KEPT: Final[Filters] = {"soak": "kept", "room": "*"}
WILD_PLAIN: Final[Filters] = {"soak": "plain", "room": "*"}
PUBLISHED: Final = [*KEPT, *KEPT, *SHORT, *PLAIN]
SUBSCRIBED: Final = [*KEPT, *SHORT, *PLAIN, WILD_KEPT, WILD_PLAIN]

SETTLED: Final = 40.0  # seconds until all has come, after the last fault


@dataclass
class Plan:
    """What a soak is to do.

    Attributes:
        seconds: for how long things happen.
        seed: of what happens; the order of events differs from run to run all the same.
        broker: ``single``, one that keeps its data; ``sentinel``, a master and a replica with sentinels; ``cluster``.
        javascript: the directory of the JavaScript program; None to leave its clients out.
        pause: seconds between faults, about.
    """

    seconds: float
    seed: int
    broker: str = "single"
    javascript: Path | None = None
    pause: float = 3.0


@dataclass
class World:
    """What all actors share.

    Attributes:
        account: all that was published and received.
        happened: how often each fault was.
        errors: what was raised where nobody could catch it, such as in a connection's callbacks.
        settling: set when nothing goes wrong any more; the readers stay connected from then on.
    """

    random: Random
    servers: Servers
    account: Account
    until: float
    happened: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    settling: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.until

    def note_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep an error that the event loop reports."""
        error = context.get("exception")
        self.errors.append(f"{context['message']}: {''.join(traceback.format_exception(error)) if error else ''}")

    def check(self) -> None:
        """Check that nothing was raised, and the account.

        Raises:
            AssertionError: the first thing that is wrong.
        """
        assert not self.errors, "\n".join(self.errors[:3])
        self.account.check()
