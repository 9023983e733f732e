"""LOGGED: what history costs: a delivery with positions, and a publication that is written into a log."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from benchmarks.environment import environment_for_script
from benchmarks.results import Result, Target
from benchmarks.system.publications import LOGGED, PLAIN, Cost, measure_publications
from benchmarks.system.row import Run

TARGET_DELIVERY = Target(must=1.10, aim=1.03)
TARGET_NODE = Target(must=2.0, aim=1.5)
_SCRIPT = Path(__file__).with_name("_logged.py")


def measure(run: Run) -> list[Result]:
    """Measure both sides of each comparison in turn."""
    return [*deliveries(run), *_publications(run)]


def deliveries(run: Run) -> list[Result]:
    """Time deliveries with positions beside plain ones."""
    run.note("logged: deliveries")
    command = [run.python, "-P", str(_SCRIPT), str(run.cores.server), str(run.rounds), str(run.scaled(250))]
    environment = environment_for_script(run.python)
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout
    cases: dict[str, list[tuple[float, float]]] = json.loads(output)
    results = []
    for name, rounds in cases.items():
        result = Result("logged", f"a delivery with positions, {name}", "x plain", [], TARGET_DELIVERY)
        for plain, positions in rounds:
            result.samples.append(positions / plain)
            result.raw.setdefault("ns a delivery", []).append(positions * 1e9)
            result.raw.setdefault("ns a delivery, plain", []).append(plain * 1e9)
        results.append(result)
    return results


def _publications(run: Run) -> list[Result]:
    costs = measure_publications(run, "logged", PLAIN, LOGGED)
    return [
        compared("logged", "a POST under a rule", costs["single"], TARGET_NODE),
        compared("logged", "a message of a batch under a rule", costs["batch"], None),
    ]


def compared(row: str, case: str, rounds: list[list[Cost]], target: Target | None) -> Result:
    """Compare the node's CPU for the second way to publish with that for the first; the broker's stands beside."""
    result = Result(row, case, "x plain", [], target)
    for plain, other in rounds:
        result.samples.append(other.node / plain.node)
        for name, value in (
            ("us of the node's CPU", other.node),
            ("us of the node's CPU, plain", plain.node),
            ("us of the broker's CPU", other.broker),
            ("us of the broker's CPU, plain", plain.broker),
        ):
            result.raw.setdefault(name, []).append(value)
    return result
