"""Run tests on extensions that AddressSanitizer and UndefinedBehaviorSanitizer watch.

``python -m tests.sanitize [pytest's arguments]`` builds the extensions in a copy of the checkout, with the counts of a
debug build, and runs pytest there: by default the unit and property tests, some integration tests, and the fuzzers'
corpus; then, for some seconds each, the fuzzers whose cases go through an extension. It needs gcc with its sanitizers.

Leaks are not asked for here, since CPython itself leaves memory to the end of the process; see `tests.fuzz.leaks`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from tests.fuzz.targets import NAMES, PYTHON

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = {"build", "dist", "node_modules", "benchmarks"}
TESTS = (
    "tests/unit",
    "tests/property",
    "tests/fuzz",
    # These drive an extension through sockets of their own and start no server.
    "tests/integration/test_front_door.py",
    "tests/integration/test_load_client.py",
    "tests/integration/test_subscriber_connection.py",
)
FUZZ_SECONDS = "3"


def build(directory: str, **flags: str) -> None:
    """Copy the checkout to a directory and build the extensions there, in place, with the flags of ``setup.py``."""
    for item in ROOT.iterdir():
        if item.name in LEFT_OUT or item.name.startswith(".") or item.name.endswith(".egg-info"):
            continue
        if item.is_dir():
            # Without the generated C: Cython would keep it, although it was generated with other directives.
            left_out = shutil.ignore_patterns("__pycache__", "*.so", "_fanout.c", "_load.c", "node_modules")
            shutil.copytree(item, Path(directory, item.name), ignore=left_out)
        else:
            shutil.copy(item, directory)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--parallel", "2"]
    subprocess.run(command, cwd=directory, env=os.environ | flags, check=True)


def library(name: str) -> str:
    """Return where the compiler keeps a sanitizer's runtime."""
    compiler = (sysconfig.get_config_var("CC") or "gcc").split()[0]
    found = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = found.stdout.strip()
    if not Path(path).is_absolute():
        sys.exit(f"{compiler} has no {name}")
    return path


def environment(directory: str) -> dict[str, str]:
    """Return the environment in which the extensions of a directory run under the sanitizers."""
    return os.environ | {
        # The interpreter is not instrumented, so the runtimes must be there before it.
        "LD_PRELOAD": f"{library('libasan.so')} {library('libubsan.so')}",
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "PYTHONMALLOC": "malloc",  # so that Python's objects, too, are watched
        "PYTHONPATH": directory,
    }


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="realizehit-sanitize-") as directory:
        build(directory, REALIZEHIT_SANITIZE="1", REALIZEHIT_DEBUG="1")
        env = environment(directory)
        where = "import realizehit._fanout as m; print(m.__file__)"
        command = [sys.executable, "-c", where]
        used = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, check=False)
        if used.returncode or not used.stdout.startswith(directory):
            sys.exit(f"the extension under test is not the one that was built: {used.stdout}{used.stderr}")
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "3"]
        status = subprocess.run([*command, *(arguments or TESTS)], cwd=directory, env=env, check=False).returncode
        if arguments:
            return status
        env = {"REALIZEHIT_FUZZ_SECONDS": FUZZ_SECONDS, **env}
        names = " or ".join(f"[{name}]" for name in NAMES if name not in PYTHON)
        command += ["-m", "slow", "-k", names, "tests/fuzz/test_fuzz.py"]
        return subprocess.run(command, cwd=directory, env=env, check=False).returncode or status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
