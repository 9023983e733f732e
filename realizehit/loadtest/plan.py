"""The plan of a load test: its numbers, and scenarios with numbers of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from realizehit.common.suggestions import did_you_mean
from realizehit.errors import SettingsError
from realizehit.loadtest import _load

Publish = Literal["api", "batch", "redis"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The numbers of a load test.

    Attributes:
        connections: subscribers, over all processes.
        patterns: patterns, each with a channel of its own; messages go to them in turn.
        subscriptions_per_connection: patterns that each connection subscribes to, spread evenly.
        rate: messages per second over all patterns, on a fixed schedule; 0 if only `outstanding` limits them.
        outstanding: messages that may be in flight at once; 0 for any number.
        payload_bytes: size of each payload.
        duration: seconds of publishing.
        ramp: seconds over which connections are opened; 0 for as fast as the server takes them.
        processes: client processes.
        reconnects, resubscribes: connections and subscriptions that end and come back, per second.
        storm: whether all connections reconnect at once after a third of the duration.
        publish: how messages are published; ``None`` to choose what the target offers.

    Raises:
        SettingsError: a number is out of range, or two contradict each other; the text names the flag.
    """

    connections: int = 1000
    patterns: int = 1
    subscriptions_per_connection: int = 1
    rate: float = 200.0
    outstanding: int = 0
    payload_bytes: int = 128
    duration: float = 10.0
    ramp: float = 0.0
    processes: int = 1
    reconnects: float = 0.0
    resubscribes: float = 0.0
    storm: bool = False
    publish: Publish | None = None

    def __post_init__(self) -> None:
        for name in ("connections", "patterns", "subscriptions_per_connection", "processes"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{flag(name)} must be at least 1, not {getattr(self, name)}")
        for name in ("rate", "outstanding", "ramp", "reconnects", "resubscribes"):
            if not 0 <= getattr(self, name) <= 1e9:
                raise SettingsError(f"{flag(name)} must be from 0 to 1e9, not {getattr(self, name)}")
        if not 0 < self.duration <= 86_400:
            raise SettingsError(f"--duration must be from 0 to 86400 seconds, not {self.duration:g}")
        if not _load.STAMPED_MIN <= self.payload_bytes <= 1 << 20:
            raise SettingsError(
                f"--payload-bytes must be from {_load.STAMPED_MIN} (the stamp that is checked) to {1 << 20}, "
                f"not {self.payload_bytes}"
            )
        if self.publish is not None and self.publish not in get_args(Publish):
            raise SettingsError(f"--publish {self.publish!r} is not one of {', '.join(get_args(Publish))}")
        self._check_together()

    def _check_together(self) -> None:
        if self.subscriptions_per_connection > self.patterns:
            raise SettingsError(
                f"--subscriptions-per-connection {self.subscriptions_per_connection} needs as many --patterns, "
                f"not {self.patterns}"
            )
        if self.processes > self.connections:
            raise SettingsError(f"--processes {self.processes} is more than --connections {self.connections}")
        if not self.rate and not self.outstanding:
            raise SettingsError("give a --rate, or a number of --outstanding messages")
        if self.outstanding and self.processes > 1:
            raise SettingsError("--outstanding needs --processes 1: one process must see every delivery to count them")
        if self.outstanding and (self.reconnects or self.resubscribes or self.storm):
            raise SettingsError("--outstanding needs subscribers that stay: without reconnects, resubscribes and storm")
        if self.outstanding >= 1 << 20:
            raise SettingsError(f"--outstanding must be below {1 << 20}, not {self.outstanding}")

    def channels_of(self, connection: int) -> list[int]:
        """Return the numbers of the patterns that a connection subscribes to."""
        first = connection * self.subscriptions_per_connection
        return [(first + k) % self.patterns for k in range(self.subscriptions_per_connection)]

    @property
    def deliveries_per_message(self) -> float:
        """The average number of subscribers of a message."""
        return self.connections * self.subscriptions_per_connection / self.patterns


class Scenario(dict[str, Any]):
    """A set of numbers for a purpose, which `summary` describes."""

    def __init__(self, summary: str, **numbers: Any) -> None:
        super().__init__(numbers)
        self.summary: Final = summary


SCENARIOS: Final[Mapping[str, Scenario]] = {
    "wide": Scenario("one pattern, many subscribers: how many clients one message reaches, and how fast"),
    "deep": Scenario(
        "one pattern, 100 subscribers, as fast as they can read: the highest throughput",
        connections=100,
        rate=0.0,
        outstanding=512,
    ),
    "many": Scenario(
        "many patterns with one subscriber each: messages for one client",
        connections=5000,
        patterns=5000,
        rate=5_000.0,
    ),
    "churn": Scenario(
        "connections and subscriptions come and go while messages flow",
        connections=2000,
        patterns=200,
        subscriptions_per_connection=4,
        rate=500.0,
        reconnects=100.0,
        resubscribes=200.0,
    ),
    "storm": Scenario(
        "everyone reconnects at once, as after a network failure, while messages flow",
        connections=5000,
        patterns=100,
        rate=200.0,
        storm=True,
    ),
}


def make_plan(scenario: str, numbers: Mapping[str, Any]) -> Plan:
    """Combine a scenario's numbers with given ones, which take precedence.

    A given rate alone makes an open-loop test, also of a scenario that limits outstanding messages.

    Raises:
        SettingsError: as `Plan`, or there is no such scenario.
    """
    if scenario not in SCENARIOS:
        meant = did_you_mean(scenario, SCENARIOS) or f"; use {', '.join(SCENARIOS)}"
        raise SettingsError(f"there is no scenario {scenario!r}{meant}")
    given = {name: value for name, value in numbers.items() if value is not None}
    found = {**SCENARIOS[scenario], **given}
    if given.get("rate") and "outstanding" not in given:
        found["outstanding"] = 0
    elif given.get("outstanding") and "rate" not in given:
        found["rate"] = 0.0
    return Plan(**found)


def flag(name: str) -> str:
    """Return the command line's name of a number."""
    return "--" + name.replace("_", "-")


NUMBERS: Final = tuple(field.name for field in dataclasses.fields(Plan))
