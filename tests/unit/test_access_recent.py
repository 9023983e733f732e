"""Recent results: what is remembered, and for how long."""

from __future__ import annotations

from realizehit.access.recent import Recent


def test_results_are_remembered_and_replaced() -> None:
    recent: Recent[str, int] = Recent(4)
    assert recent.get("a") is None
    recent.put("a", 0)
    recent.put("b", 1)
    assert [recent.get(key) for key in "ab"] == [0, 1]
    recent.put("a", 2)
    assert recent.get("a") == 2


def test_the_number_is_bounded_and_what_is_in_use_stays() -> None:
    recent: Recent[int, str] = Recent(10)
    recent.put(-1, "used")
    for number in range(1000):
        recent.put(number, str(number))
        assert recent.get(-1) == "used"
        assert recent.get(number) == str(number)
        assert len(recent) <= 10
    assert recent.get(0) is None


def test_a_newer_result_replaces_one_of_the_older_generation() -> None:
    recent: Recent[str, int] = Recent(4)
    for key in "abc":
        recent.put(key, 0)
    recent.put("a", 1)
    recent.put("d", 0)
    assert recent.get("a") == 1
