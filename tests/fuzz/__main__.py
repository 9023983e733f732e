"""All fuzzers in turn: ``python -m tests.fuzz [--seconds N for each] [--blind] [NAME …]``."""

from __future__ import annotations

import argparse
import sys

from tests.fuzz.command import run
from tests.fuzz.targets import NAMES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to look with each (60)")
    parser.add_argument("--blind", action="store_true", help="change cases at random, without atheris")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which fuzzers (all)")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(NAMES)
    if unknown:
        parser.error(f"no fuzzer is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    broken = []
    for name in arguments.names or NAMES:
        print(f"==== {name}", flush=True)
        if run(name, arguments.seconds, blind=arguments.blind):
            broken.append(name)
    print(f"==== broken: {', '.join(broken)}" if broken else "==== all held")
    return len(broken)


if __name__ == "__main__":
    sys.exit(main())
