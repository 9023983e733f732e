"""What a row measured, what it is held against, and whether that is met."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum
from statistics import median
from typing import Any


class Verdict(Enum):
    """How a figure stands to its target."""

    AIM = "aim met"
    MUST = "met"
    MISSED = "missed"
    NONE = ""


@dataclass(frozen=True, slots=True)
class Target:
    """What is demanded of a figure: at least this much, or at most where ``lower`` is better."""

    must: float
    aim: float
    lower: bool = True

    def verdict(self, value: float) -> Verdict:
        """Judge a figure."""
        sign = 1 if self.lower else -1
        if sign * value <= sign * self.aim:
            return Verdict.AIM
        return Verdict.MUST if sign * value <= sign * self.must else Verdict.MISSED


@dataclass(slots=True)
class Result:
    """One line of the table.

    Attributes:
        row: the row's name, ``wide``.
        case: which of its cases, ``1,000 subscribers, 8 outstanding``.
        unit: of the figure that is judged: ``x send loop``, ``/s``, ``KiB``.
        samples: the judged figure, one for each round.
        target: the target of the figure.
        raw: further figures of the row by name, such as microseconds per delivery; for each the values of all
            rounds.
    """

    row: str
    case: str
    unit: str
    samples: list[float]
    target: Target | None
    raw: dict[str, list[float]] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return median(self.samples)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a share of the median; 0 with fewer than four rounds."""
        if len(self.samples) < 4 or not self.value:
            return 0.0
        ordered = sorted(self.samples)
        quarter = len(ordered) // 4
        return (ordered[-1 - quarter] - ordered[quarter]) / 2 / abs(self.value)

    @property
    def verdict(self) -> Verdict:
        """Whether it meets its target."""
        return self.target.verdict(self.value) if self.target else Verdict.NONE

    def merge(self, other: Result) -> None:
        """Add the rounds of another measurement of the same case."""
        self.samples += other.samples
        for name, values in other.raw.items():
            self.raw.setdefault(name, []).extend(values)

    def to_json(self) -> dict[str, Any]:
        """Return it for JSON, with medians and rounds."""
        return {
            **asdict(self),
            "value": self.value,
            "spread": self.spread,
            "verdict": self.verdict.value,
            "raw_medians": {name: median(values) for name, values in self.raw.items()},
        }
