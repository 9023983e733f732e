"""Few and short rounds: the whole suite takes seconds, and only medians count."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.option.benchmark_min_rounds = 5
    config.option.benchmark_max_time = 0.1
    config.option.benchmark_min_time = 0.00002
    config.option.benchmark_group_by = "group"
    config.option.benchmark_columns = ["median", "iqr", "ops", "rounds"]
    config.option.benchmark_sort = "mean"
    config.option.benchmark_warmup = "off"
