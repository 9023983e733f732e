"""The command line of one fuzzer: ``python -m tests.fuzz.NAME [--seconds N] [--seed N] [--blind] [directory]``."""

from __future__ import annotations

import argparse
import base64
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.targets import CORPUS


def main(module: str) -> None:
    """Run the fuzzer whose module was started, and exit as it did."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to look (60)")
    parser.add_argument("--seed", type=int, help="of what is tried; the same one tries the same cases (random)")
    parser.add_argument("--blind", action="store_true", help="change cases at random, without atheris")
    parser.add_argument("corpus", type=Path, nargs="?", help="where to keep the cases that reach new code")
    arguments = parser.parse_args()
    name = module.rpartition(".")[2]
    sys.exit(run(name, arguments.seconds, blind=arguments.blind, corpus=arguments.corpus, seed=arguments.seed))


def run(name: str, seconds: float, *, blind: bool = False, corpus: Path | None = None, seed: int | None = None) -> int:
    """Run a fuzzer in a process of its own, which must watch every import, and return that one's exit status."""
    if seed is None:
        seed = random.randrange(1, 1 << 31)
    blind = blind or importlib.util.find_spec("atheris") is None
    with tempfile.TemporaryDirectory(prefix="realizehit-fuzz-") as scratch:
        found = corpus or Path(scratch)
        found.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.fuzz.watched", name, str(seconds), str(found), str(CORPUS / name)]
        command += [str(seed), "blind"] if blind else [str(seed)]
        hashes = {"PYTHONHASHSEED": "0"}  # the order of sets must not differ between two runs with one seed
        status = subprocess.run(command, env=os.environ | hashes, check=False).returncode
        if status:
            print(*(how_to_keep(name, case) for case in broken_by(found)), sep="\n", flush=True)
        return status


def broken_by(found: Path) -> list[Path]:
    """Return the files with the cases that broke a fuzzer, by the names that libFuzzer gives them."""
    return sorted(file for file in found.iterdir() if file.name.startswith(("crash-", "timeout-", "oom-", "leak-")))


def how_to_keep(name: str, case: Path) -> str:
    """Return a case as text, as a command that puts it into the corpus: the directory it lies in may be gone."""
    text = base64.b64encode(case.read_bytes()).decode()
    return (
        f"the case that broke {name}; mend what it shows, and keep it with\n"
        f"    echo {text} | base64 -d > tests/fuzz/corpus/{name}/{case.name}"
    )
