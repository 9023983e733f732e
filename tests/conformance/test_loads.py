"""How fast the clients of all languages receive, and that their memory stays flat over many reconnects: short runs."""

from __future__ import annotations

import pytest

from clients.conformance import languages as language_files
from clients.conformance.languages import Language
from clients.conformance.loading import measure
from clients.conformance.memory import watch
from tests.conformance.running import CASES, require

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LANGUAGES = language_files.load(CASES)


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> Language:
    chosen = LANGUAGES[request.param]
    require(chosen)
    return chosen


async def test_it_receives_about_as_fast_as_a_plain_library(language: Language) -> None:
    async with language.built():
        load = await measure(language, 60_000)
    # Half of what full runs must reach: a short run on a busy machine also measures how the program starts.
    assert load.ratio >= language.least / 2, load


async def test_its_memory_stays_flat_over_reconnects(language: Language) -> None:
    async with language.built():
        memory = await watch(language, 600)
    assert memory.flat, memory
