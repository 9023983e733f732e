"""The figures of docs/reliability.md: tests record their measurements, and this prints the medians of several runs.

REALIZEHIT_FIGURES=figures.jsonl pytest -m slow tests/faults tests/soak
python -m tests.support.figures figures.jsonl
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections import defaultdict
from pathlib import Path


def note(name: str, value: float, unit: str) -> None:
    """Record one figure, if the environment names a file for them."""
    file = os.environ.get("REALIZEHIT_FIGURES")
    if file:
        with Path(file).open("a", encoding="utf-8") as out:
            out.write(json.dumps({"name": name, "value": value, "unit": unit}) + "\n")


def main(file: str) -> None:
    figures: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        figure = json.loads(line)
        figures[figure["name"], figure["unit"]].append(figure["value"])
    for (name, unit), values in sorted(figures.items()):
        middle = statistics.median(values)
        sys.stdout.write(f"{name}: {middle:.4g} {unit} (of {len(values)}, {min(values):.4g} to {max(values):.4g})\n")


if __name__ == "__main__":
    main(sys.argv[1])
