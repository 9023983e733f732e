"""Expectations such as ``p99<50ms``: what a figure of the report must be."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from realizehit.common.suggestions import did_you_mean
from realizehit.errors import SettingsError


class Kind(Enum):
    """What a figure measures, which says which units it is written in."""

    TIME = "a time"
    COUNT = "a number"
    RATE = "a rate"
    SHARE = "a share"
    BYTES = "a size"
    CORES = "a number of cores"


UNITS: Final[dict[Kind, dict[str, float]]] = {
    Kind.TIME: {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1},
    Kind.COUNT: {"": 1, "k": 1e3, "M": 1e6},
    Kind.RATE: {"": 1, "k": 1e3, "M": 1e6, "/s": 1, "k/s": 1e3, "M/s": 1e6},
    Kind.SHARE: {"": 1, "%": 0.01},
    Kind.BYTES: {"B": 1, "KiB": 1024, "MiB": 1 << 20, "GiB": 1 << 30},
    Kind.CORES: {"": 1},
}

FIGURES: Final[dict[str, tuple[Kind, str]]] = {
    "p50": (Kind.TIME, "latency that half of the deliveries do not exceed"),
    "p90": (Kind.TIME, "latency that 90 % of the deliveries do not exceed"),
    "p99": (Kind.TIME, "latency that 99 % of the deliveries do not exceed"),
    "p99.9": (Kind.TIME, "latency that 99.9 % of the deliveries do not exceed"),
    "max": (Kind.TIME, "highest latency of a delivery"),
    "mean": (Kind.TIME, "mean latency of the deliveries"),
    "deliveries": (Kind.COUNT, "messages received, each once"),
    "published": (Kind.COUNT, "messages published"),
    "rate_in": (Kind.RATE, "messages published a second"),
    "rate_out": (Kind.RATE, "deliveries a second"),
    "lost": (Kind.COUNT, "messages that a subscriber did not get, also because the server ended its connection"),
    "forgone": (Kind.COUNT, "messages under way when the load test left a subscription: neither delivered nor lost"),
    "duplicates": (Kind.COUNT, "messages that a subscriber got again"),
    "reordered": (Kind.COUNT, "messages that came after a later one of their channel"),
    "unexpected": (Kind.COUNT, "messages without a subscription on that connection"),
    "foreign": (Kind.COUNT, "texts that no load test published"),
    "failed": (Kind.COUNT, "connections that could not be made"),
    "dropped": (Kind.COUNT, "connections that the server ended without a close frame"),
    "closed": (Kind.COUNT, "connections that the server closed"),
    "refused": (Kind.COUNT, "actions that the server refused"),
    "protocol_errors": (Kind.COUNT, "connections that broke the protocol"),
    "publish_errors": (Kind.COUNT, "messages that could not be published"),
    "errors": (Kind.COUNT, "all faults together, those from lost to publish_errors"),
    "connections": (Kind.COUNT, "connections that were ready when publishing began"),
    "connect_rate": (Kind.RATE, "connections made and subscribed a second, while they were opened first"),
    "join_p50": (Kind.TIME, "time from connect to the last reply, median"),
    "join_p99": (Kind.TIME, "time from connect to the last reply, 99th percentile"),
    "join_max": (Kind.TIME, "time from connect to the last reply, highest"),
    "rejoin_p50": (Kind.TIME, "the same of connections that came back, median"),
    "rejoin_p99": (Kind.TIME, "the same of connections that came back, 99th percentile"),
    "rejoin_max": (Kind.TIME, "the same of connections that came back, highest"),
    "storm_seconds": (Kind.TIME, "time until all clients were back after the storm; not measured if one was not"),
    "reconnects": (Kind.COUNT, "connections that left and came back"),
    "resubscribes": (Kind.COUNT, "subscriptions that were left and joined again"),
    "late": (Kind.COUNT, "messages sent more than 10 ms after their time"),
    "client_cpu": (Kind.SHARE, "busiest client process, as a share of a core"),
    "client_kernel_per_connection": (Kind.TIME, "processor time of the client's kernel for opening a connection"),
    "server_cpu": (Kind.CORES, "cores that the server kept busy"),
    "server_cpu_per_delivery": (Kind.TIME, "processor time of the server for each delivery"),
    "server_cpu_per_connection": (Kind.TIME, "processor time of the server for opening and subscribing a connection"),
    "server_rss": (Kind.BYTES, "resident memory of the server, highest"),
    "rss_per_connection": (Kind.BYTES, "by how much opening a connection and subscribing it made the server grow"),
}

_OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}

_FORM: Final = re.compile(r"\s*([a-z][a-z0-9_.]*)\s*(<=|>=|==|!=|<|>)\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*(\S*)\s*")


@dataclass(frozen=True, slots=True)
class Expectation:
    """One parsed expectation.

    Attributes:
        text: the expression as the user wrote it.
        figure: a name of `FIGURES`.
        comparison: one of ``< <= > >= == !=``.
        value: in the figure's base unit: seconds, bytes, or plain.
    """

    text: str
    figure: str
    comparison: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Expectation:
        """Read an expectation.

        Raises:
            SettingsError: it cannot be read; the text says what is wrong with it.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise SettingsError(
                f"{text!r} is not an expectation: write a figure, a comparison and a value, as p99<50ms"
            )
        figure, comparison, number, unit = match.groups()
        if figure not in FIGURES:
            meant = did_you_mean(figure, FIGURES)
            raise SettingsError(f"{text!r}: there is no figure {figure!r}; use one of {', '.join(FIGURES)}{meant}")
        kind = FIGURES[figure][0]
        if unit not in UNITS[kind]:
            units = ", ".join(name or "no unit" for name in UNITS[kind])
            raise SettingsError(f"{text!r}: {figure} is {kind.value}, written with {units}, not {unit or 'no unit'}")
        return cls(text, figure, comparison, float(number.replace("_", "")) * UNITS[kind][unit])

    def failure(self, figures: Mapping[str, float | None]) -> str | None:
        """Return why the figures do not meet it; ``None`` if they do.

        A figure that was not measured holds nothing.
        """
        found = figures.get(self.figure)
        if found is None:
            return f"{self.text}: {self.figure} was not measured"
        if _OPERATORS[self.comparison](found, self.value):
            return None
        return f"{self.text}: {self.figure} is {show(self.figure, found)}"


def show(figure: str, value: float | None) -> str:
    """Write a figure with a unit that suits it."""
    if value is None:
        return "-"
    kind = FIGURES[figure][0]
    if kind is Kind.TIME:
        return show_time(value)
    if kind is Kind.SHARE:
        return f"{value:.0%}"
    if kind is Kind.BYTES:
        return show_bytes(value)
    if kind is Kind.CORES:
        return f"{value:.2f} cores"
    if kind is Kind.RATE:
        return f"{value:,.0f}/s"
    return f"{value:,.0f}"


def show_time(seconds: float) -> str:
    """Write a time in the unit that gives it three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            value = seconds / size
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def show_bytes(size: float) -> str:
    """Write a size in the unit that gives it up to four digits before the point."""
    for unit, divisor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= divisor:
            return f"{size / divisor:.1f} {unit}"
    return f"{size:.0f} B"
