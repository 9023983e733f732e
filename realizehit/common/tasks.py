"""Tasks that nobody awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Tasks:
    """Runs coroutines as tasks of the running event loop, and holds the references that the loop does not hold."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine; an exception that leaves it goes to the loop's exception handler."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait(self) -> None:
        """Wait until those that run now have ended."""
        if self._tasks:
            await asyncio.wait(set(self._tasks))
