"""The conformance kit, run for Python; and its cases, which must not pass for a client that is broken."""

from __future__ import annotations

import pytest

from clients.conformance import cases as case_files
from clients.conformance import languages as language_files
from clients.conformance.cases import Case
from clients.conformance.languages import Language
from clients.conformance.results import Result, Verdict, run_cases
from clients.conformance.runner import Servers
from tests.conformance.broken_driver import MUTATIONS

pytestmark = pytest.mark.slow

CASES = case_files.load()
FOUND_BY = {
    "spells_patterns_raw": "patterns/valid-vectors",
    "rewrites_payloads": "publish/text-byte-for-byte",
    "never_repeats": "publish/retry-after-503",
    "sends_no_unsub": "subscribe/unsub-is-sent",
    "leaves_patterns_encoded": "wildcards/concrete-pattern-decoded",
    "asks_for_nothing_on_return": "reconnect/returns-after-a-cut",
    "returns_after_every_code": "reconnect/gives-up-after-4500",
    "heeds_no_delay": "drain/delay-of-4001",
    "keeps_the_first_token": "tokens/renewed-before-its-end",
    "tells_no_gaps": "gaps/after-a-lost-connection",
    "drops_the_newest": "slow-reader/oldest-dropped",
    "loses_codes": "errors/subscribe-forbidden",
    "accepts_every_size": "limits/message-too-big",
    "fails_on_what_it_does_not_know": "unknown-fields/event",
    "gives_up_when_the_protocol_breaks": "bad-servers/half-a-frame",
}
"""A case that each mutation of the client does not pass."""


async def run(language: Language, cases: list[Case], patience: float = 10.0) -> list[Result]:
    servers = Servers()
    await servers.start()
    language.prepare()
    try:
        return await run_cases(language, cases, servers, patience=patience)
    finally:
        language.clean()
        await servers.stop()


@pytest.mark.timeout(300)
async def test_the_python_client_passes() -> None:
    results = await run(language_files.load(CASES)["python"], CASES)
    assert [result.case.key for result in results] == [case.key for case in CASES]
    bad = {result.case.key: f"{result.verdict}: {result.text}" for result in results if not result.good}
    assert not bad


def test_every_topic_has_a_mutation_and_every_mutation_a_case() -> None:
    assert {key.partition("/")[0] for key in FOUND_BY.values()} == {case.topic for case in CASES}
    assert set(FOUND_BY) == set(MUTATIONS)


@pytest.mark.parametrize(("mutation", "key"), FOUND_BY.items())
async def test_a_broken_client_fails(mutation: str, key: str) -> None:
    broken = Language(name="python", command=["{python}", "-m", "tests.conformance.broken_driver", mutation])
    (result,) = await run(broken, case_files.chosen(CASES, [key]), patience=1.5)
    assert result.verdict is Verdict.FAILED
    assert result.text.startswith("step ")  # what the client did, and not a driver that does not start
    assert "the driver ended" not in result.text.splitlines()[0]
