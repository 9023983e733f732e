"""``python -m benchmarks.instructions``: count the instructions of each delivery with callgrind, and compare them.

The counts do not depend on other work of the machine, so they show small changes. They depend on the compiler, its
flags and Python: ``instructions.json`` has a record for each counted combination, and only the same combination is
compared within 5 %. For others the bound is loose, twice the largest record, and the output says so. The kernel's
instructions do not count.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from benchmarks import _counted, machine
from realizehit import _fanout

RECORD = Path(__file__).with_name("instructions.json")
ROOT = Path(__file__).parents[1]
TOLERANCE = 0.05
ROUNDS = (2, 6)  # the difference of both counts is the work alone

DELIVERIES = {  # of a round
    "dispatch": _counted.MESSAGES * _counted.NULL_SUBSCRIBERS,
    "dispatch wildcard": _counted.MESSAGES * _counted.NULL_SUBSCRIBERS,
    "dispatch untraced": _counted.MESSAGES * _counted.NULL_SUBSCRIBERS,  # they ask for traceparents
    "dispatch traced": _counted.MESSAGES * _counted.NULL_SUBSCRIBERS,
    "dispatch positions": _counted.MESSAGES * _counted.NULL_SUBSCRIBERS,
    "flush 1": _counted.SOCKET_SUBSCRIBERS,
    "flush 16": _counted.MESSAGES * _counted.SOCKET_SUBSCRIBERS,
    "projections": _counted.PROJECTED,  # of a publication, rather
}

Counts = dict[str, float]


def combination() -> str:
    """Return a name for everything that the counts depend on."""
    python = ".".join(map(str, sys.version_info[:2]))
    cython = type(_fanout.canonical).__module__.strip("_").replace("_", ".")  # its type says which Cython made it
    flags = sysconfig.get_config_var("OPT") or ""
    return f"{machine.compiler()}; {flags}; {cython}; CPython {python}; {platform.machine()}"


def instructions(kind: str, rounds: int) -> int:
    """Return how many instructions a process runs for a number of rounds of a kind of work.

    Raises:
        RuntimeError: valgrind failed; the text is the end of its output.
    """
    command = [
        "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
        sys.executable, "-P", str(ROOT / "benchmarks" / "_counted.py"), kind, str(rounds),
    ]  # fmt: skip
    # One hash seed and equal addresses, so that two runs differ only by their work.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    found = re.search(r"Collected : (\d+)", result.stderr)
    if result.returncode or not found:
        raise RuntimeError(f"valgrind failed:\n{result.stderr[-2000:]}")
    return int(found[1])


def count() -> Counts:
    """Return the instructions for each delivery, by kind of work."""
    jobs = [(kind, rounds) for kind in DELIVERIES for rounds in ROUNDS]
    with ThreadPoolExecutor(2) as pool:
        totals = dict(zip(jobs, pool.map(lambda job: instructions(*job), jobs), strict=True))
    few, many = ROUNDS
    return {
        kind: round((totals[kind, many] - totals[kind, few]) / (many - few) / deliveries, 1)
        for kind, deliveries in DELIVERIES.items()
    }


def compare(counts: Counts, records: dict[str, Counts], name: str) -> tuple[list[str], list[str]]:
    """Compare counts with the records.

    Returns:
        Lines to print, and errors.
    """
    same = records.get(name)
    said, wrong = [], []
    if same is None:
        said.append(f"NOT COMPARED within {TOLERANCE:.0%}: there is no record for {name}")
    for kind, value in counts.items():
        if same is None:
            bound = 2 * max(record[kind] for record in records.values())
            said.append(f"{kind}: {value} instructions a delivery, at most {bound:.1f} anywhere")
        else:
            bound = same[kind] * (1 + TOLERANCE)
            said.append(f"{kind}: {value} instructions a delivery, {same[kind]} recorded")
            if value < same[kind] * (1 - TOLERANCE):
                said.append(f"{kind}: better than the record by more than {TOLERANCE:.0%}; run this with --record")
        if value > bound:
            wrong.append(f"{kind}: {value} instructions a delivery are more than {bound:.1f}")
    return said, wrong


@click.command()
@click.option("--record", is_flag=True, help="write the counts into benchmarks/instructions.json")
def main(record: bool) -> None:
    """Count instructions for each delivery, and compare them with the record."""
    if shutil.which("valgrind") is None:
        raise click.ClickException("valgrind is not installed")
    counts, name = count(), combination()
    records: dict[str, Counts] = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    if record:
        records[name] = counts
        RECORD.write_text(json.dumps(records, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    said, wrong = compare(counts, records, name)
    for line in said:
        click.echo(line)
    if wrong:
        raise click.ClickException("; ".join(wrong))


if __name__ == "__main__":
    main()
