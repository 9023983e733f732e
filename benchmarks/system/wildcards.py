"""WILDCARDS: what their subscribers, their number and their shapes cost."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from benchmarks.environment import environment_for_script
from benchmarks.results import Result, Target
from benchmarks.system.row import Run

TARGET_DELIVERY = Target(must=1.03, aim=1.01)
TARGET_CROWD = Target(must=1.10, aim=1.03)
TARGET_PROJECTIONS = Target(must=1.5, aim=1.4)
_SCRIPT = Path(__file__).with_name("_wildcards.py")


def measure(run: Run) -> list[Result]:
    """Time each case in a process of its own, both sides of a comparison in turn."""
    run.note("wildcards")
    command = [run.python, "-P", str(_SCRIPT), str(run.cores.server), str(run.rounds), str(run.scaled(250))]
    environment = environment_for_script(run.python)
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout
    cases: dict[str, list[list[float]]] = json.loads(output)
    delivery = Result("wildcards", "a delivery, 16 at once", "x exact", [], TARGET_DELIVERY)
    crowd = Result("wildcards", "a publication, 100,000 subscriptions", "x 100", [], TARGET_CROWD)
    for result, name in ((delivery, "delivery"), (crowd, "crowd")):
        for one, other in cases[name]:
            result.samples.append(other / one)
            result.raw.setdefault("ns", []).append(other * 1e9)
            result.raw.setdefault("ns, of what it is compared with", []).append(one * 1e9)
    samples = [seconds * 1e6 for (seconds,) in cases["projections"]]
    return [delivery, crowd, Result("wildcards", "64 shapes, of which 8 apply", "us", samples, TARGET_PROJECTIONS)]
