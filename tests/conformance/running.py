"""What the tests of all languages use: the conformance cases, run for one of them."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

from clients.conformance import cases as case_files
from clients.conformance import languages as language_files
from clients.conformance.cases import Case
from clients.conformance.languages import Language
from clients.conformance.results import Result, run_cases
from clients.conformance.runner import Servers
from tests.support.programs import needs

CASES = case_files.load()
_JAVASCRIPT = Path(__file__).resolve().parents[2] / "clients" / "js"


def require(language: Language) -> None:
    """Skip or fail the test if a program of the language is missing, and install what its driver needs besides."""
    for program in language.needs:
        needs(program)
    if language.name == "javascript":
        _install_websocket()


def _install_websocket() -> None:
    """Install the package `ws` where Node.js has no WebSocket, as before version 22."""
    version = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout
    if int(version.lstrip("v").partition(".")[0]) >= 22:
        return
    with (_JAVASCRIPT / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # against tests that run side by side
        if not (_JAVASCRIPT / "node_modules" / "ws").exists():
            needs("npm")
            subprocess.run(["npm", "ci", "--silent"], cwd=_JAVASCRIPT, check=True)


async def run(language: Language, cases: list[Case], patience: float = 10.0) -> list[Result]:
    servers = Servers()
    await servers.start()
    language.prepare()
    try:
        await language.make()
        return await run_cases(language, cases, servers, patience=patience)
    finally:
        language.clean()
        await servers.stop()


async def failures_of(name: str) -> dict[str, str]:
    """Run all cases for a language, and return what failed without an explanation."""
    language = language_files.load(CASES)[name]
    require(language)
    results = await run(language, CASES)
    assert [result.case.key for result in results] == [case.key for case in CASES]
    return {result.case.key: f"{result.verdict}: {result.text}" for result in results if not result.good}
