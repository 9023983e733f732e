"""What the tests of all languages use: the conformance cases, run for one of them."""

from __future__ import annotations

from clients.conformance import cases as case_files
from clients.conformance import languages as language_files
from clients.conformance.cases import Case
from clients.conformance.languages import Language
from clients.conformance.results import Result, run_cases
from clients.conformance.runner import Servers
from tests.support.programs import needs

CASES = case_files.load()


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
    for program in language.needs:
        needs(program)
    results = await run(language, CASES)
    assert [result.case.key for result in results] == [case.key for case in CASES]
    return {result.case.key: f"{result.verdict}: {result.text}" for result in results if not result.good}
