"""The languages: how their drivers are built and started, and which cases they cannot pass and why."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from clients.conformance.cases import HERE, Case
from clients.conformance.driver import Driver

ROOT: Final = HERE.parent.parent
LEAST_RATIO: Final = 0.7  # of a client's speed and that of the plain library beside it


class LanguageError(Exception):
    """A language cannot be run: a program is missing, its driver does not build, or it is not known."""


@dataclass
class Language:
    """One language.

    Attributes:
        name: as on the command line.
        command: starts the driver.
        needs: programs that must be on PATH.
        build: builds the driver, empty where nothing has to be built.
        directory: where both run.
        env: further variables of both.
        load: starts the program of the load test.
        beside: what the load test measures the client beside.
        least: the least ratio of the load test.
        memory_env: further variables of the driver where its memory is measured.
        explained: the cases that it cannot pass, ``topic/name``, each with its reason.
    """

    name: str
    command: Sequence[str]
    needs: Sequence[str] = ()
    build: Sequence[str] = ()
    directory: str = "."
    env: Mapping[str, str] = field(default_factory=dict)
    load: Sequence[str] = ()
    beside: str = ""
    least: float = LEAST_RATIO
    memory_env: Mapping[str, str] = field(default_factory=dict)
    explained: Mapping[str, str] = field(default_factory=dict)

    def prepare(self) -> None:
        """Make a directory for what is built.

        Raises:
            LanguageError: a program is missing.
        """
        for program in self.needs:
            if shutil.which(program) is None:
                raise LanguageError(f"{self.name}: the program {program} is not installed")
        if not (ROOT / self.directory).is_dir():
            raise LanguageError(f"{self.name}: there is no directory {self.directory}")
        self._built = tempfile.TemporaryDirectory(prefix=f"rh-{self.name}-", ignore_cleanup_errors=True)

    @property
    def built_in(self) -> str:
        """The directory of what was built."""
        return self._built.name

    async def make(self) -> None:
        """Build the driver.

        Raises:
            LanguageError: that failed; the text holds what the build wrote.
        """
        if not self.build:
            return
        process = await asyncio.create_subprocess_exec(
            *self._filled(self.build),
            cwd=ROOT / self.directory,
            env=self._environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode:
            raise LanguageError(f"{self.name}: the driver does not build:\n{output.decode(errors='replace')}")

    @contextlib.asynccontextmanager
    async def built(self) -> AsyncIterator[None]:
        """Build the driver, and remove what was built in the end.

        Raises:
            LanguageError: as of `prepare` and `make`.
        """
        self.prepare()
        try:
            await self.make()
            yield
        finally:
            self.clean()

    async def start(self, env: Mapping[str, str] | None = None) -> Driver:
        """Start a driver.

        Args:
            env: further variables.

        Raises:
            DriverError: it cannot be started.
        """
        return await Driver.start(
            self._filled(self.command), ROOT / self.directory, {**self._environment(), **(env or {})}
        )

    async def start_load(self, mode: str, url: str, count: int, queue: int) -> asyncio.subprocess.Process:
        """Start the program of the load test.

        Args:
            mode: ``client``, or ``plain`` for what the client is measured beside.
            url: the server's address.
            count: how many messages it receives.
            queue: how many messages may wait in the client.
        """
        return await asyncio.create_subprocess_exec(
            *self._filled(self.load),
            mode,
            url,
            str(count),
            str(queue),
            cwd=ROOT / self.directory,
            env=self._environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )

    def clean(self) -> None:
        """Remove what was built."""
        self._built.cleanup()

    def _filled(self, words: Sequence[str]) -> list[str]:
        return [word.format(python=sys.executable, build=self._built.name) for word in words]

    def _environment(self) -> dict[str, str]:
        proxies = ("http_proxy", "https_proxy", "all_proxy")  # clients heed them, and the servers are on this machine
        own = {name: value for name, value in os.environ.items() if name.lower() not in proxies}
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
        return {**own, "PYTHONPATH": path, **self.env}


def load(cases: Sequence[Case], directory: Path = HERE) -> dict[str, Language]:
    """Read ``languages.toml`` and ``explained.toml``.

    Raises:
        LanguageError: an explanation is about a language or a case that there is not, or says nothing.
    """
    tables = tomllib.loads((directory / "languages.toml").read_text())
    explained = tomllib.loads((directory / "explained.toml").read_text())
    known = {case.key for case in cases}
    for name, reasons in explained.items():
        if name not in tables:
            raise LanguageError(f"explained.toml: there is no language {name!r}")
        for key, reason in reasons.items():
            if key not in known:
                raise LanguageError(f"explained.toml, {name}: there is no case {key!r}")
            if not str(reason).strip():
                raise LanguageError(f"explained.toml, {name}: the reason for {key!r} is empty")
    return {name: Language(name=name, explained=explained.get(name, {}), **table) for name, table in tables.items()}
