"""The JavaScript client passes the conformance cases."""

from __future__ import annotations

import pytest

from tests.conformance.running import failures_of

pytestmark = pytest.mark.slow


@pytest.mark.timeout(300)
async def test_the_javascript_client_passes_the_cases() -> None:
    assert not await failures_of("javascript")
