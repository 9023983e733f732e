"""The conformance kit, run for Python; and its cases, which must not pass for a client that is broken."""

from __future__ import annotations

import pytest

from clients.conformance import cases as case_files
from clients.conformance.languages import Language
from clients.conformance.results import Verdict
from tests.conformance.broken_driver import MUTATIONS
from tests.conformance.running import CASES, failures_of, run

pytestmark = pytest.mark.slow

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
    "resumes_in_the_first_epoch": "history/resume-in-a-new-epoch",
    "fails_on_what_it_does_not_know": "unknown-fields/event",
    "gives_up_when_the_protocol_breaks": "bad-servers/half-a-frame",
    "forgets_the_time": "conflation/every",
    "tells_no_notes": "notes/object",
}
"""A case that each mutation of the client does not pass."""


@pytest.mark.timeout(300)
async def test_the_python_client_passes() -> None:
    assert not await failures_of("python")


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
