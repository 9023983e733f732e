"""Whether a client connects again after a failure, and when."""

from __future__ import annotations

import pytest

from realizehit.client.reconnect_rules import MAX_DELAY, asked_delay, may_return


@pytest.mark.parametrize("code", [None, 1000, 1001, 1006, 1011, 4000, 4001, 4002, 4003, 4499, 5000])
def test_codes_after_which_it_comes_back(code: int | None) -> None:
    assert may_return(code)


@pytest.mark.parametrize("code", [4500, 4501, 4502, 4503, 4999])
def test_codes_after_which_it_does_not(code: int) -> None:
    assert not may_return(code)


def test_the_delay_that_a_server_asks_for() -> None:
    assert asked_delay(4001, "delay=1500") == 1.5
    assert asked_delay(4001, "delay=0") == 0
    assert asked_delay(4001, "delay=999999999") == MAX_DELAY
    for code, reason in ((4001, ""), (4001, "delay=-1"), (4001, "delay=1s"), (4002, "delay=1500"), (None, "")):
        assert asked_delay(code, reason) is None
