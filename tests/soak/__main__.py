"""Runs the soak of history: ``python -m tests.soak --minutes 30``."""

from __future__ import annotations

import argparse
import asyncio
import pickle
import random
import sys
import tempfile
from pathlib import Path

from tests.soak.clients import JavaScriptClient
from tests.soak.run import run
from tests.soak.world import BROKERS, Plan


def main() -> None:
    """Run it for each kind of broker, and print what was counted."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="for how long, in all")
    parser.add_argument("--seed", type=int, default=None, help="of what happens")
    parser.add_argument("--broker", choices=(*BROKERS, "all"), default="all")
    parser.add_argument("--no-javascript", action="store_true", help="leave the JavaScript client out")
    parser.add_argument("--save", type=Path, default=None, help="file for the account, to look at with pickle")
    options = parser.parse_args()
    brokers = BROKERS if options.broker == "all" else (options.broker,)
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    for broker in brokers:
        sys.stdout.write(f"{broker} broker, seed {seed}, {options.minutes / len(brokers):g} minutes\n")
        sys.stdout.flush()
        with tempfile.TemporaryDirectory(prefix="rh-soak-", ignore_cleanup_errors=True) as name:
            directory = Path(name)
            program = directory / "js"
            program.mkdir()
            javascript = None if options.no_javascript else JavaScriptClient.prepare(program)
            plan = Plan(60 * options.minutes / len(brokers), seed, broker, javascript)
            world = asyncio.run(run(plan, directory))
        if options.save is not None:
            options.save.write_bytes(pickle.dumps(world.account))
        try:
            world.check()
        finally:
            sys.stdout.write(f"{dict(world.happened)}\n{world.account.table()}\n")


if __name__ == "__main__":
    main()
