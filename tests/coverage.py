"""Measure how much of the package the fast tests run: ``python -m tests.coverage [pytest's arguments]``.

It builds the extensions in a copy of the checkout with ``REALIZEHIT_COVERAGE=1``, which lets coverage.py see the lines
of Cython. It runs the unit, property and integration tests there, measures all of their processes, and prints two
tables: lines and branches of Python, and lines of Cython (all ``.pyx`` and ``.pxd`` files together). Each total has a
floor. The exit status is not 0 if a test failed or a total is below its floor. With arguments it runs only these tests,
and the floors do not apply.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.sanitize import build

TESTS = (
    "tests/unit",
    "tests/property",
    "tests/integration",
    # A signal's handler raises inside coverage.py's tracer, which swallows the exception and disables the plugin. The
    # data of such a process cannot be combined with that of others.
    "--deselect=tests/integration/test_load_client.py::test_a_signal_ends_a_run_which_can_go_on",
    "--deselect=tests/integration/test_pid1.py::test_a_signal_at_the_first_moment_ends_it",
    # Traced calls are slower than the allowance returns, so that its loop never ends.
    "--deselect=tests/unit/test_engine_input.py::test_the_allowance_comes_back_and_each_connection_has_its_own",
    # These check how fast a slow reader or a killed broker is handled.
    "--deselect=tests/integration/test_slow_readers.py::test_one_batch_closes_no_reader",
    "--deselect=tests/integration/test_broker_faults.py::test_a_killed_broker",
)
# Seconds for each test: tracing slows the engine's loops down many times. A timeout ends the process, because the
# tracer may swallow the exception of a signal's handler.
TIMEOUT = ("--timeout=300", "--timeout-method=thread")
# Per cent. Which branches a race takes varies between runs. The floors are estimates: no complete run confirmed them.
FLOORS = {"Python": ("*.py", 80), "Cython": ("*.pyx,*.pxd", 88)}


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="realizehit-coverage-") as directory:
        build(directory, REALIZEHIT_COVERAGE="1", REALIZEHIT_DEBUG="1", CFLAGS="-O1 -g0")
        config = f"--rcfile={Path(directory, 'pyproject.toml')}"
        environment = os.environ | {
            "PYTHONPATH": directory,
            "COVERAGE_FILE": str(Path(directory, ".coverage")),
            "REALIZEHIT_EXPECTED_BUILD": "debug",
        }

        def run(*words: str) -> int:
            command = [sys.executable, "-m", *words]
            return subprocess.run(command, cwd=directory, env=environment, check=False).returncode

        where = "import realizehit._fanout as m; print(m.__file__)"
        used = subprocess.run(
            [sys.executable, "-c", where], cwd=directory, env=environment, capture_output=True, text=True, check=False
        )
        if used.returncode or not used.stdout.startswith(directory):
            sys.exit(f"the extension under test is not the one that was built: {used.stdout}{used.stderr}")
        tests = arguments or ["-n", "3", "--durations=15", *TESTS]
        status = run("coverage", "run", config, "-m", "pytest", "-p", "no:cacheprovider", *TIMEOUT, *tests)
        status = run("coverage", "combine", config, "--quiet") or status
        for name, (files, floor) in FLOORS.items():
            sys.stdout.write(f"\n{name}\n")
            sys.stdout.flush()
            limits = [] if arguments else [f"--fail-under={floor}"]
            status = run("coverage", "report", config, f"--include={files}", *limits) or status
        return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
