"""Which process and which event loop own a client's connections.

A client may be made at import and used after a fork, as web frameworks and task queues do, or in several event loops.
A connection must not be used there: two processes that read from one socket take each other's answers, and a closed
loop never calls back. So each process and each loop gets its own connections.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from realizehit.errors import ClientError

_T = TypeVar("_T")

# A process keeps what it inherited by a fork and does not close it: the parent uses the sockets and the epoll set.
_inherited: Final[list[object]] = []


class PerProcess(Generic[_T]):
    """A resource that each process has once.

    Args:
        make: makes one.

    Reentrancy: for any thread.
    """

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._held = os.getpid(), make()

    def get(self) -> _T:
        """Return this process's resource; make it if needed."""
        pid, value = self._held
        if pid != os.getpid():
            # Threads that come here at the same time may each make one. A lock could not be used: a thread of the
            # parent may have held it during the fork.
            _inherited.append(value)
            value = self._make()
            self._held = os.getpid(), value
        return value


class PerLoop(Generic[_T]):
    """A resource that each event loop of each process has once.

    Args:
        make: makes one; called in a running loop.

    Reentrancy: for any thread whose loop runs.
    """

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._pid = os.getpid()
        self._values: dict[asyncio.AbstractEventLoop, _T] = {}

    def get(self) -> _T:
        """Return the running loop's resource; make it if needed."""
        loop = asyncio.get_running_loop()
        value = self._values.get(loop)
        if value is None or self._pid != os.getpid():
            self._forget()
            value = self._values[loop] = self._make()
        return value

    def take(self) -> _T | None:
        """Return the running loop's resource, if there is one, and forget it."""
        if self._pid != os.getpid():
            self._forget()
        return self._values.pop(asyncio.get_running_loop(), None)

    def _forget(self) -> None:
        """Forget the resources of closed loops, or of the process that this one was forked from."""
        if self._pid != os.getpid():
            _inherited.append(self._values)
            self._values = {}
            self._pid = os.getpid()
        for loop in list(self._values):
            if loop.is_closed():
                self._values.pop(loop, None)


class Owner:
    """The process and the event loop that own a connection: those in which this object is made.

    Args:
        what: the name of the client in errors.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._pid = os.getpid()
        self._loop = _running_loop()

    @property
    def is_inherited(self) -> bool:
        """Whether this process was forked from the owner."""
        return self._pid != os.getpid()

    def check(self) -> None:
        """Check that the caller runs in that process and loop.

        Raises:
            ClientError: the caller runs in another process or another loop.
        """
        if self.is_inherited:
            raise ClientError(
                f"this {self._what} was connected before the process was forked; make one in this process"
            )
        if self._loop is not None and _running_loop() is not self._loop:
            raise ClientError(f"this {self._what} was connected in another event loop; make one in this loop")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
