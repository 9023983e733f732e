from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realizehit.loadtest.histogram import Histogram, bounds


def index_of(value: int) -> int:
    """The bucket of a value in microseconds, worked out apart from the code that is tested."""
    index = 0
    while not bounds(index)[0] <= value <= bounds(index)[1]:
        # Jump close to it, as the buckets are contiguous; see the test of that.
        index = value if value < 2048 else max(index + 1, (value.bit_length() - 10) * 1024)
    return index


def test_buckets_are_contiguous_and_within_a_thousandth() -> None:
    end = -1
    for index in range(17 * 1024):
        low, high = bounds(index)
        assert low == end + 1
        assert high - low <= low / 1000
        end = high
    assert end == (2048 << 15) - 1


def test_an_empty_one_has_no_percentiles() -> None:
    empty = Histogram()
    assert empty.total == 0
    assert empty.percentile(99) is None
    assert empty.mean is None
    assert set(empty.percentiles().values()) == {None}
    assert empty.buckets() == []


@pytest.mark.parametrize(
    ("percent", "value"), [(0, 1), (50, 50), (50.1, 51), (90, 90), (99, 99), (99.9, 100), (100, 100)]
)
def test_percentiles_by_rank(percent: float, value: int) -> None:
    assert Histogram((n, 1) for n in range(1, 101)).percentile(percent) == value / 1e6


@given(st.lists(st.integers(0, 60_000_000), min_size=1, max_size=40), st.sampled_from([50.0, 90.0, 99.0, 99.9, 100.0]))
def test_percentiles_are_those_of_the_values_within_a_thousandth(values: list[int], percent: float) -> None:
    found = Histogram((index_of(value), 1) for value in values).percentile(percent)
    exact = sorted(values)[max(0, math.ceil(len(values) * percent / 100 - 1e-9) - 1)]
    assert found is not None
    assert exact <= found * 1e6 + 0.5
    assert found * 1e6 <= exact * 1.001 + 0.5


@given(st.lists(st.tuples(st.integers(0, 17_000), st.integers(1, 1000)), max_size=20))
def test_merged_is_added(counts: list[tuple[int, int]]) -> None:
    merged, added = Histogram(counts[::2]), Histogram(counts)
    merged.merge(Histogram(counts[1::2]))
    assert merged.buckets() == added.buckets()
    assert merged.total == added.total == sum(count for _, count in counts)


def test_the_mean_is_that_of_the_values() -> None:
    assert Histogram([(10, 1), (30, 3)]).mean == pytest.approx(25e-6)
