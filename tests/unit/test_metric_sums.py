"""The metrics of several processes as those of one."""

from __future__ import annotations

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from realizehit.node.metric_sums import Family, added_up, counted, families_of, text_of


def process(connections: int, queued: int, up: int, slow: int) -> list[Family]:
    publications = CounterMetricFamily("realizehit_publications", "Messages.", labels=["outcome"])
    publications.add_metric(["queued"], queued)
    publications.add_metric(["denied"], 1)
    seconds = HistogramMetricFamily("realizehit_seconds", "Times.")
    seconds.add_metric([], [("0.1", 1), ("+Inf", 1 + slow)], sum_value=0.0625 + slow)
    return families_of(
        [
            InfoMetricFamily("realizehit_build", "The version.", {"version": "1.2"}),
            GaugeMetricFamily("realizehit_connections", "Clients.", connections),
            GaugeMetricFamily("realizehit_broker_up", "Whether.", up),
            GaugeMetricFamily("realizehit_shapes", "Shapes.", 3),
            publications,
            seconds,
        ]
    )


def values(families: list[Family]) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text_of(families).decode())
        for sample in family.samples
    }


def test_counters_histograms_and_most_gauges_add_up() -> None:
    assert values(added_up([process(10, 5, 1, 0), process(3, 7, 0, 2)])) == {
        ("realizehit_build_info", "1.2"): 1,
        ("realizehit_connections",): 13,
        ("realizehit_broker_up",): 0,  # one of them does not reach the broker
        ("realizehit_shapes",): 3,  # the same ones
        ("realizehit_publications_total", "queued"): 12,
        ("realizehit_publications_total", "denied"): 2,
        ("realizehit_seconds_bucket", "0.1"): 2,
        ("realizehit_seconds_bucket", "+Inf"): 4,
        ("realizehit_seconds_count",): 4,
        ("realizehit_seconds_sum",): 2.125,
    }


def test_two_builds_are_shown_beside_each_other() -> None:
    other = families_of([InfoMetricFamily("realizehit_build", "The version.", {"version": "1.3"})])
    assert set(values(added_up([process(0, 0, 1, 0), other]))) >= {
        ("realizehit_build_info", "1.2"),
        ("realizehit_build_info", "1.3"),
    }


def test_only_what_was_counted_stays_of_a_process_that_ended() -> None:
    assert [family[0] for family in counted(process(10, 5, 1, 0))] == ["realizehit_publications", "realizehit_seconds"]


def test_adding_up_changes_nothing_of_what_it_adds() -> None:
    first = process(10, 5, 1, 0)
    assert added_up([first]) == first
    assert added_up([first, first]) != first
    assert first == process(10, 5, 1, 0)
