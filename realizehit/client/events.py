"""Named events and their callbacks."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

Callback = Callable[..., object]
"""A function, or a coroutine function, that takes what the event carries."""


class Emitter:
    """Base of classes that have events with callbacks.

    If a callback fails, its exception goes to the event loop's exception handler, which logs it; nothing else stops.
    """

    events: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self._callbacks: dict[str, list[Callback]] = {name: [] for name in self.events}
        self._tasks: set[asyncio.Task[Any]] = set()

    def on(self, event: str, callback: Callback) -> None:
        """Call ``callback`` at each such event; the class's documentation lists them and what they carry.

        A coroutine function is started as a task.

        Raises:
            ValueError: the event does not exist.
        """
        self._listeners(event).append(callback)

    def off(self, event: str, callback: Callback) -> None:
        """Stop calling ``callback``.

        Raises:
            ValueError: the event does not exist, or the callback was not attached.
        """
        self._listeners(event).remove(callback)

    def _listeners(self, event: str) -> list[Callback]:
        if event not in self._callbacks:
            raise ValueError(f"there is no event {event!r}; there are {', '.join(self.events)}")
        return self._callbacks[event]

    def _emit(self, event: str, *values: object) -> None:
        for callback in tuple(self._callbacks[event]):
            try:
                result = callback(*values)
            except Exception as error:  # noqa: BLE001 - the caller must not fail because of a callback
                self._callback_failed(error)
                continue
            if inspect.isawaitable(result):
                task = asyncio.ensure_future(self._await(result))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _await(self, result: Any) -> None:
        try:
            await result
        except Exception as error:  # noqa: BLE001 - as above
            self._callback_failed(error)

    def _callback_failed(self, error: Exception) -> None:
        asyncio.get_running_loop().call_exception_handler(
            {"message": f"a callback of {self!r} failed", "exception": error}
        )
