"""RECOVER: thousands of clients that come back at once, each of which missed messages of one of 100 logs.

All clients have left before, so that the node keeps nothing of the logs and must read them at the broker. The baseline
is the same crowd that comes back to channels without history. Meanwhile messages are published at the server on a
schedule, to a channel without and to one with history; the delay of the latest one is compared as well. The clients are
a process with a lower priority than the reader of these messages.
"""

from __future__ import annotations

import json
import socket
import sys
from typing import Any, NamedTuple

import orjson

from benchmarks.results import Result, Target
from benchmarks.system.crowd import Crowd
from benchmarks.system.histogram import percentile
from benchmarks.system.history_rules import KIND, rules_file
from benchmarks.system.http_client import request
from benchmarks.system.processes import START_TIMEOUT, Child, Server, Valkey
from benchmarks.system.row import Run

TARGET_READS = Target(must=2.0, aim=1.0)
TARGET_LATE = Target(must=100.0, aim=20.0)
# Against clients that get no messages. Most of the others are subscribed by the engine, too, and get 20 messages.
TARGET_CPU = Target(must=2.0, aim=1.5)
# Of a short run most clients come before the logs have been read, and are subscribed in Python.
TARGET_SHORT = Target(must=3.0, aim=2.0)
TARGET_TIME = Target(must=1.2, aim=1.1)
CLIENTS = 10_000
LOGS = 100
MISSED = 20  # messages of each log
LIVE: list[dict[str, object]] = [{"live": 1}, {"kind": KIND, "room": "live"}]  # channels that get live messages
READERS = 10  # of each of them
RATE = 100.0  # live messages a second, to each in turn
TIMEOUT = 90.0  # seconds
PAYLOAD = '"' + "x" * 118 + '%08d"'  # 128 bytes


class Return(NamedTuple):
    """What it cost that all clients came back.

    Attributes:
        seconds: until the last one had everything.
        cpu: seconds of the server's CPU.
        latest: milliseconds after its time at which the latest live message arrived.
        reads: logs that were read at the broker.
        waited: share of the time in which the server waited for its core.
    """

    seconds: float
    cpu: float
    latest: float
    reads: int
    waited: float


def measure(run: Run) -> list[Result]:
    """Let the clients come back to channels without and with history, in turn."""
    size = run.scaled(CLIENTS)
    case = f"{size:,} clients, {MISSED} messages each of {LOGS} logs"
    cpu = Result("recover", case, "x no history", [], TARGET_SHORT if run.quick else TARGET_CPU)
    time = Result("recover", "until all clients have everything", "x its time", [], TARGET_TIME)
    reads = Result("recover", "reads at the broker", "x logs", [], TARGET_READS)
    late = Result("recover", "latest live message, against no history", "ms", [], TARGET_LATE)
    with rules_file() as history, run.pair(history=history, heartbeat_interval=3600.0) as (valkey, server):
        options = {"port": server.port, "size": size, "core": run.cores.client}
        with (
            Crowd(server.ws_url, valkey, LIVE, [[0], [1]] * READERS, over_http=True) as live,
            Child([sys.executable, "-m", "benchmarks.system._herd", json.dumps(options)]) as herd,
        ):
            live.join()
            for n in range(run.rounds + 1):
                run.note(f"recover: round {n} of {run.rounds}")
                without = _return(server, valkey, live, herd, [_without_history(log) for log in range(LOGS)])
                recovered = _return(server, valkey, live, herd, _miss_messages(server, n))
                if not n:  # the first fills the memory pools
                    continue
                cpu.samples.append(recovered.cpu / without.cpu)
                time.samples.append(recovered.seconds / without.seconds)
                reads.samples.append((recovered.reads - without.reads) / LOGS)
                late.samples.append(max(recovered.latest - without.latest, 0.0))
                for name, one in (("", recovered), (", no history", without)):
                    time.raw.setdefault("s" + name, []).append(one.seconds)
                    for what, value in (
                        ("us of CPU a client", one.cpu / size * 1e6),
                        ("clients/s", size / one.seconds),
                        ("share of the time that the server waited for its core", one.waited),
                    ):
                        cpu.raw.setdefault(what + name, []).append(value)
                    late.raw.setdefault("ms, latest live message" + name, []).append(one.latest)
    return [cpu, time, reads, late]


def _without_history(log: int) -> dict[str, Any]:
    return {"pattern": {"kind": "plain", "room": log}, "since": None, "missed": []}


def _miss_messages(server: Server, number: int) -> list[dict[str, Any]]:
    """Publish to all logs while no client is there; return what each client has seen before, and what it missed."""
    channels: list[dict[str, Any]] = []
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        for log in range(LOGS):
            pattern = {"kind": KIND, "room": log}
            texts = [PAYLOAD % (number * 1_000_000 + log * 1000 + n) for n in range(MISSED + 1)]
            messages = [{"pattern": pattern, "payload": orjson.Fragment(text)} for text in texts]
            sock.sendall(request("/batch", orjson.dumps({"messages": messages})))
            results = _answer(sock)["results"]
            channels.append({"pattern": pattern, "since": results[0]["at"], "missed": texts[1:]})
    return channels


def _answer(sock: socket.socket) -> dict[str, Any]:
    data = b""
    while True:
        head, found, body = data.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]):
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"the server answered {data[:300]!r}")
            answer: dict[str, Any] = orjson.loads(body)
            return answer
        part = sock.recv(1 << 16)
        if not part:
            raise RuntimeError("the server closed the connection")
        data += part


def _return(server: Server, valkey: Valkey, live: Crowd, herd: Child, channels: list[dict[str, Any]]) -> Return:
    reads, cpu, waited = _reads(valkey), server.cpu, server.waited
    live.fleet.take_latencies()
    live.fleet.schedule(rate=RATE)
    herd.tell({"channels": channels})
    live.fleet.run(0.1)
    while not herd.has_said():
        live.fleet.run(0.1)
    said = herd.hear(TIMEOUT)
    live.fleet.unschedule()
    live.fleet.run(0.5)
    cpu, waited, reads = server.cpu - cpu, server.waited - waited, _reads(valkey) - reads
    if "error" in said:
        raise RuntimeError(said["error"])
    live.check()
    if live.fleet.missing():
        raise RuntimeError(f"{live.fleet.missing()} live messages never came")
    herd.tell({})
    herd.hear(START_TIMEOUT)
    return Return(
        said["seconds"], cpu, percentile(live.fleet.take_latencies(), 100) / 1000, reads, waited / said["seconds"]
    )


def _reads(valkey: Valkey) -> int:
    """Return how many logs were read: only the script that reads asks for the length of a log, and it does so once."""
    calls: dict[str, dict[str, int]] = valkey.client.info("commandstats")
    return calls["cmdstat_llen"]["calls"] if "cmdstat_llen" in calls else 0
