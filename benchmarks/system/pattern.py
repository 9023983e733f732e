"""PATTERN: channel and id of a dict of three filters, compared with the plain-Python model."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from benchmarks.results import Result, Target
from benchmarks.system.row import Run

TARGET = Target(must=10, aim=25, lower=False)
_SCRIPT = Path(__file__).with_name("_pattern.py")


def measure(run: Run) -> list[Result]:
    """Time both in one process, in turn."""
    result = Result("pattern", "3 filters to channel and id", "x plain Python", [], TARGET)
    run.note("pattern")
    command = [run.python, "-P", str(_SCRIPT), str(run.cores.server), str(run.rounds), str(run.scaled(10_000))]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "benchmarks")}
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout
    for engine, model in json.loads(output):
        result.samples.append(model / engine)
        result.raw.setdefault("ns", []).append(engine * 1e9)
        result.raw.setdefault("ns, plain Python", []).append(model * 1e9)
    return [result]
