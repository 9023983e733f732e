"""Memory that nothing refers to any more: ``python -m tests.fuzz.leaks [rounds]``, under valgrind.

The cases of `engine_calls` and a round of connections, subscriptions and publications are run N and 2 N times, and what
valgrind calls definitely lost at the end of each must be the same: what CPython itself loses does not grow.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys

from realizehit import _fanout
from tests.fuzz.engine_calls import one
from tests.fuzz.targets import cases
from tests.support.engines import TEXT, SocketTransport, bench

VALGRIND = ("valgrind", "--leak-check=full", "--show-leak-kinds=definite", "--trace-children=no", "--num-callers=25")


def rounds(count: int) -> None:
    """Use an engine in every way that takes memory, so many times."""
    data = [path.read_bytes() for path in cases("engine_calls")]
    for n in range(count):
        for case in data:
            one(case[:400])
        with bench() as b:
            for framing in range(8):
                conn, peer = b.connect(b"head", framing=framing)
                for k in range(20):
                    b.engine.subscribe(conn, b"a:%d" % k)
                peer.send(TEXT, b"1")
            ours, theirs = socket.socketpair()
            polling = b.engine.attach(SocketTransport(ours), b.handler, framing=_fanout.POLLING_4)
            other, _ = b.connect(framing=_fanout.ENGINEIO_4)
            for k in range(3):
                b.engine.subscribe(other, b"a:%d" % k)
            for k in range(3):
                b.engine.unsubscribe(other, b"a:%d" % k)
            b.engine.splice(polling, other)
            theirs.close()
            b.poll()
            b.publish(*[(b"a:%d" % (k % 30), b'"%d"' % n * 40) for k in range(60)])
            _fanout.canonical({f"k{k}": k for k in range(16)})


def main(count: int) -> int:
    env = os.environ | {"PYTHONMALLOC": "malloc"}
    runs = [
        subprocess.Popen(
            [*VALGRIND, sys.executable, "-m", "tests.fuzz.leaks", "--rounds", str(times)],
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        for times in (count, 2 * count)
    ]
    reports = [run.communicate()[1] for run in runs]
    lost = []
    for run, report in zip(runs, reports, strict=True):
        found = re.search(r"definitely lost: ([0-9,]+) bytes", report)
        if run.returncode or found is None or "Invalid " in report:
            print(report[-8000:])
            return 1
        lost.append(int(found[1].replace(",", "")))
    print(f"definitely lost after {count} rounds: {lost[0]} bytes; after {2 * count}: {lost[1]} bytes")
    if lost[1] > lost[0]:
        print(reports[1][-8000:])
    return lost[1] > lost[0]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rounds"]:
        rounds(int(sys.argv[2]))
    else:
        sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 3))
