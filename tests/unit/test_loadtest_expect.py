from __future__ import annotations

import pytest

from realizehit.errors import SettingsError
from realizehit.loadtest.expect import FIGURES, UNITS, Expectation, show


@pytest.mark.parametrize(
    ("text", "figure", "comparison", "value"),
    [
        ("p99<50ms", "p99", "<", 0.05),
        (" p99.9 <= 1.5 s ", "p99.9", "<=", 1.5),
        ("max>250us", "max", ">", 250e-6),
        ("mean<7µs", "mean", "<", 7e-6),
        ("lost==0", "lost", "==", 0),
        ("deliveries>=1_000_000", "deliveries", ">=", 1e6),
        ("deliveries!=2M", "deliveries", "!=", 2e6),
        ("rate_out>=2M/s", "rate_out", ">=", 2e6),
        ("rate_in>100", "rate_in", ">", 100),
        ("client_cpu<90%", "client_cpu", "<", 0.9),
        ("server_rss<1.5GiB", "server_rss", "<", 1.5 * 2**30),
        ("server_cpu<2", "server_cpu", "<", 2),
    ],
)
def test_expectations_are_read(text: str, figure: str, comparison: str, value: float) -> None:
    found = Expectation.parse(text)
    assert (found.figure, found.comparison) == (figure, comparison)
    assert found.value == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "is not an expectation"),
        ("p99", "is not an expectation"),
        ("p99<", "is not an expectation"),
        ("p99<<5ms", "is not an expectation"),
        ("p99<-5ms", "is not an expectation"),
        ("50ms>p99", "is not an expectation"),
        ("p98<5ms", "no figure 'p98'; use one of p50"),
        ("p99<50", "p99 is a time, written with ns, us, µs, ms, s, not no unit"),
        ("lost==0ms", "lost is a number, written with no unit, k, M, not ms"),
        ("server_rss<5", "server_rss is a size"),
    ],
)
def test_an_invalid_expectation_is_an_error(text: str, error: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Expectation.parse(text)
    assert error in str(caught.value)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("p99<50ms", 0.0499, True),
        ("p99<50ms", 0.05, False),
        ("p99<=50ms", 0.05, True),
        ("p99>50ms", 0.051, True),
        ("p99>=50ms", 0.049, False),
        ("lost==0", 0, True),
        ("lost==0", 1, False),
        ("lost!=0", 1, True),
    ],
)
def test_expectations_hold_or_not(text: str, value: float, holds: bool) -> None:
    expectation = Expectation.parse(text)
    failure = expectation.failure({expectation.figure: value})
    assert (failure is None) == holds
    if failure is not None:
        assert failure.startswith(f"{text}: {expectation.figure} is ")


def test_an_expectation_of_an_unmeasured_figure_fails() -> None:
    assert (
        Expectation.parse("server_cpu<99").failure({"server_cpu": None}) == "server_cpu<99: server_cpu was not measured"
    )
    assert Expectation.parse("p99<99s").failure({}) is not None


@pytest.mark.parametrize(
    ("figure", "value", "text"),
    [
        ("p99", 0.0499, "49.9 ms"),
        ("p99", 0.001234, "1.23 ms"),
        ("p99", 0.000_002, "2.00 us"),
        ("server_cpu_per_delivery", 123e-9, "123 ns"),
        ("max", 61.2, "61.2 s"),
        ("p50", 0.5, "500 ms"),
        ("lost", 1234567, "1,234,567"),
        ("rate_out", 5e6, "5,000,000/s"),
        ("client_cpu", 0.97, "97%"),
        ("server_rss", 3 << 20, "3.0 MiB"),
        ("rss_per_connection", 200, "200 B"),
        ("server_cpu", 0.5, "0.50 cores"),
        ("p99", None, "-"),
    ],
)
def test_figures_are_shown_with_a_unit(figure: str, value: float | None, text: str) -> None:
    assert show(figure, value) == text


def test_every_figure_can_be_expected_and_shown() -> None:
    for figure, (kind, text) in FIGURES.items():
        unit = next(iter(UNITS[kind]))
        assert Expectation.parse(f"{figure}<1{unit}").figure == figure
        assert show(figure, 1.0) != "-"
        assert text
