"""The arguments of every row, and the list of rows."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.results import Result
from benchmarks.system.place import Cores, raise_file_limit
from benchmarks.system.processes import Server, Valkey

FILES = 16_000  # descriptors of a node: the largest crowd, and some more


def _nothing(text: str) -> None:
    """Report no progress."""


@dataclass(slots=True)
class Run:
    """How to measure.

    Attributes:
        rounds: how often each case is measured; floor and server in turn.
        quick: fewer messages and connections, for a look and for the guard.
        python: the interpreter whose realizehit is the server.
        note: told what is being done, for whoever watches.
    """

    rounds: int = 5
    quick: bool = False
    python: str = sys.executable
    note: Callable[[str], None] = _nothing
    cores: Cores = field(default_factory=Cores.choose)

    def valkey(self) -> Valkey:
        """Return a Valkey on the client's core, to be entered."""
        return Valkey(self.cores.client)

    def server(self, valkey: Valkey, *, port: int = 0, reuse_port: bool = False, **settings: Any) -> Server:
        """Start a node on the server's core, with the highest possible limit of descriptors."""
        with contextlib.suppress(RuntimeError):  # a crowd that needs more raises the error
            raise_file_limit(FILES)
        return Server(
            valkey.url, core=self.cores.server, python=self.python, port=port, reuse_port=reuse_port, **settings
        )

    @contextmanager
    def pair(self, **settings: Any) -> Iterator[tuple[Valkey, Server]]:
        """Run a Valkey and a node that uses it."""
        with self.valkey() as valkey, self.server(valkey, **settings) as server:
            yield valkey, server

    def scaled(self, amount: int) -> int:
        """Return the amount of work: a fifth of it with ``quick``."""
        return max(1, amount // 5) if self.quick else amount


Row = Callable[[Run], list[Result]]
