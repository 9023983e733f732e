"""The process in which a fuzzer runs: ``python -m tests.fuzz.watched NAME SECONDS FOUND CORPUS SEED [blind]``.

With atheris, the Python code of the package and of `websockets` is instrumented, so that cases which reach new code are
kept and changed further. The extensions are not: that takes clang, whose instrumentation atheris' runtime understands.
Without atheris (``blind``) cases of the corpus are changed at random; so it works under the sanitizers too.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from tests.fuzz.targets import load

LONGEST = 4096  # bytes of a case
WATCHED = [
    "realizehit",
    "tests.fuzz",
    "websockets.protocol",
    "websockets.frames",
    "websockets.http11",
    "websockets.server",
]


def guided(name: str, seconds: float, found: Path, corpus: Path, seed: int) -> None:
    import atheris

    with atheris.instrument_imports(include=WATCHED):
        one = load(name)
    options = [f"-max_total_time={max(1, round(seconds))}", f"-max_len={LONGEST}", "-timeout=20", "-rss_limit_mb=4096"]
    options += [f"-artifact_prefix={found}/", "-print_final_stats=0", "-verbosity=1", f"-seed={seed}"]
    atheris.Setup([name, *options, str(found), str(corpus)], one)
    atheris.Fuzz()


def blind(name: str, seconds: float, found: Path, corpus: Path, seed: int) -> None:
    one = load(name)
    cases = [path.read_bytes() for path in sorted(corpus.iterdir())] or [b""]
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    runs = 0
    under_way = found / f"crash-{seed:x}"
    while time.monotonic() < end:
        case = changed(chance, cases)[:LONGEST]
        under_way.write_bytes(case)  # beforehand: what breaks an extension ends this process on the spot
        one(case)
        runs += 1
    under_way.unlink(missing_ok=True)
    print(f"{name}: {runs} cases")


def changed(chance: random.Random, cases: list[bytes]) -> bytes:
    """Return a case with some bytes put in, taken out, flipped, repeated, or replaced by those of another case."""
    data = bytearray(chance.choice(cases))
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randint(0, len(data))
        size = chance.choice((1, 1, 2, 4, 8, 32))
        what = chance.randrange(6)
        if what == 0:
            data[at:at] = chance.randbytes(size)
        elif what == 1:
            del data[at : at + size]
        elif what == 2 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif what == 3:
            data[at:at] = data[at : at + size] * chance.choice((1, 2, 8))
        elif what == 4:
            other = chance.choice(cases)
            start = chance.randint(0, len(other))
            data[at : at + size] = other[start : start + size]
        elif at < len(data):
            data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, 0x20, 0x0A))
    return bytes(data)


if __name__ == "__main__":
    _, name, seconds, found, corpus, seed, *rest = sys.argv
    (blind if rest else guided)(name, float(seconds), Path(found), Path(corpus), int(seed))
