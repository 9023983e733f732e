from __future__ import annotations

from collections import Counter

import pytest

from realizehit.errors import SettingsError
from realizehit.loadtest.plan import SCENARIOS, Plan, make_plan


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_every_scenario_makes_a_plan(name: str) -> None:
    plan = make_plan(name, {"duration": 1.0, "ramp": None})
    assert plan.duration == 1.0
    assert plan.ramp == 0.0
    assert SCENARIOS[name].summary


def test_a_rate_and_outstanding_replace_each_other() -> None:
    assert make_plan("deep", {}).outstanding == 512
    assert make_plan("deep", {"rate": 5.0}).outstanding == 0
    assert make_plan("deep", {"rate": 5.0, "outstanding": 3}).outstanding == 3
    assert make_plan("wide", {"outstanding": 8}).rate == 0


@pytest.mark.parametrize(
    ("numbers", "error"),
    [
        ({"connections": 0}, "--connections must be at least 1"),
        ({"processes": 5, "connections": 4}, "--processes 5 is more than --connections 4"),
        ({"payload_bytes": 41}, "--payload-bytes must be from 42"),
        ({"payload_bytes": 2 << 20}, "--payload-bytes"),
        ({"subscriptions_per_connection": 2}, "needs as many --patterns"),
        ({"rate": 0.0}, "give a --rate"),
        ({"rate": -1.0}, "--rate must be from 0"),
        ({"duration": 0.0}, "--duration"),
        ({"duration": float("nan")}, "--duration"),
        ({"outstanding": 5, "processes": 2}, "--outstanding needs --processes 1"),
        ({"outstanding": 5, "reconnects": 1.0}, "subscribers that stay"),
        ({"outstanding": 1 << 20}, "must be below"),
        ({"publish": "post"}, "not one of api, batch, redis"),
    ],
)
def test_numbers_that_cannot_be_are_named_by_their_flag(numbers: dict[str, object], error: str) -> None:
    with pytest.raises(SettingsError, match=error):
        make_plan("wide", numbers)


def test_an_unknown_scenario_is_an_error() -> None:
    with pytest.raises(SettingsError, match="'tall'; use wide, deep, many, churn, storm"):
        make_plan("tall", {})


@pytest.mark.parametrize(("connections", "patterns", "each"), [(10, 5, 2), (12, 8, 3), (5, 5, 5), (7, 100, 1)])
def test_subscriptions_are_spread_evenly(connections: int, patterns: int, each: int) -> None:
    plan = Plan(connections=connections, patterns=patterns, subscriptions_per_connection=each)
    counts: Counter[int] = Counter()
    for connection in range(connections):
        channels = plan.channels_of(connection)
        assert len(set(channels)) == each
        counts.update(channels)
    assert max(counts.values()) - min(counts[n] for n in range(patterns)) <= 1
    assert counts.total() / patterns == plan.deliveries_per_message
