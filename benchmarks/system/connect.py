"""CONNECT: TCP connect, handshake, ``sub``, reply.

The first cases have one channel for all clients, and compare the server's CPU with that of a C program that does
nothing but accept, answer a real 101 and send a fixed reply (`connect_floor.c`). On loopback a part of either's CPU is
the kernel's work for what the client receives.

The further cases have settings for which the server must look at each client: they are compared with the server without
these settings. The last one is what the clock shows, with a channel for each client, so that the broker takes part.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt

from benchmarks.results import Result, Target
from benchmarks.system.connect_floor import ConnectFloor
from benchmarks.system.crowd import Crowd
from benchmarks.system.processes import Child, Server
from benchmarks.system.row import Run

TARGET = Target(must=1.5, aim=1.25)
REGRESSED = Target(
    must=2.25, aim=1.5
)  # what the guard allows: beyond other work's noise, and half of what uvloop needs
TARGET_POLICY = Target(must=1.3, aim=1.1)
REGRESSED_POLICY = Target(must=2.0, aim=1.3)  # what the guard allows, likewise
TARGET_RATE = Target(must=6000, aim=15_000, lower=False)
CLIENTS = 3000
UNDER_WAY = (64, 512)
POLICY_UNDER_WAY = 512
CONNECTIONS = 5000  # of the case with a channel each
PATTERN = {"kind": "connect"}
SECRET = "the benchmarks' own secret, which is long enough"
ALL_ALLOWED = '[[grant]]\npattern = { user = "$user" }\n\n[[grant]]\npattern = { kind = "*" }\n'


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings that make the server look at each client, and the header lines that the clients send then."""

    name: str
    headers: tuple[tuple[str, str], ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Side:
    """A process that clients connect to.

    Attributes:
        process: the process.
        url: its address.
        headers: further header lines of the handshakes.
    """

    process: Child
    url: str
    headers: tuple[tuple[str, str], ...] = ()

    def cost(self, run: Run, number: int, under_way: int) -> tuple[float, float]:
        """Connect a crowd, and end it; return the CPU of a connect in microseconds, and the connects a second."""
        size = run.scaled(CLIENTS)
        # An address of its own for each round: the ports of the round before are still in TIME_WAIT.
        source = f"127.0.1.{number % 250 + 1}"
        with Crowd(
            self.url, None, [dict(PATTERN)], [[0]] * size, sources=[source], headers=self.headers, max_pending=under_way
        ) as crowd:
            self.process.settle()
            before = self.process.cpu
            seconds = crowd.join()
            cost = self.process.cpu - before
        self.process.settle()
        return cost / size * 1e6, size / seconds


def measure(run: Run) -> list[Result]:
    """Compare connects with the floor, and connects under policies with those without."""
    return [*against_floor(run), *under_policies(run), _by_the_clock(run)]


def against_floor(run: Run, target: Target = TARGET) -> list[Result]:
    """Compare the server with the floor, which is measured before and after it."""
    results = []
    with plain_and_floor(run) as (plain, floor):
        for under_way in UNDER_WAY:
            case = f"{run.scaled(CLIENTS):,} clients, {under_way} under way"
            result = Result("connect", case, "x C floor", [], target)
            for n in range(run.rounds + 1):
                run.note(f"connect, {under_way} under way: round {n} of {run.rounds}")
                before, _ = floor.cost(run, 3 * n, under_way)
                cost, rate = plain.cost(run, 3 * n + 1, under_way)
                after, _ = floor.cost(run, 3 * n + 2, under_way)
                if n:  # in the first one the server has not allocated anything yet
                    least = (before + after) / 2
                    result.samples.append(cost / least)
                    for name, value in (
                        ("us of CPU a connect", cost),
                        ("us of CPU a connect, C floor", least),
                        ("connects/s", rate),
                    ):
                        result.raw.setdefault(name, []).append(value)
            results.append(result)
    return results


@contextmanager
def plain_and_floor(run: Run) -> Iterator[tuple[Side, Side]]:
    """Set up a server without policies, and the floor."""
    with run.pair() as (_, server), ConnectFloor(run.cores.server, PATTERN) as floor:
        yield Side(server, server.ws_url), Side(floor, floor.ws_url)


def policies(directory: Path) -> list[Policy]:
    """Return the policies, with their files in a directory."""
    grants = directory / "grants.toml"
    grants.write_text(ALL_ALLOWED, encoding="utf-8")
    token = jwt.encode({"sub": "alice", "exp": time.time() + 3600}, SECRET, "HS256")
    identify = {"identify": ("user=X-User",), "trusted_proxies": ("127.0.0.0/8",)}
    tokens = {"jwt_secret": SECRET, "jwt_algorithms": ("HS256",), "jwt_claims": ("user=sub",)}
    return [
        Policy("identity headers", (("X-User", "alice"),), identify),
        Policy("an allowed origin", (("Origin", "https://app.example"),), {"allow_origin": ("https://app.example",)}),
        Policy("identity headers and grants", (("X-User", "alice"),), {**identify, "grants": str(grants)}),
        Policy("--max-per-address", (), {"max_per_address": 1_000_000}),
        Policy("a JWT seen before", (("Authorization", f"Bearer {token}"),), tokens),
    ]


def under_policies(run: Run, target: Target = TARGET_POLICY) -> list[Result]:
    """Compare servers that look at each client with one that does not."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rhb-")))
        valkey = stack.enter_context(run.valkey())

        def side(policy: Policy) -> Side:
            server: Server = stack.enter_context(run.server(valkey, **policy.settings))
            return Side(server, server.ws_url, policy.headers)

        plain = side(Policy("plain"))
        known = [(policy, side(policy)) for policy in policies(directory)]
        results = [Result("connect", policy.name, "x plain", [], target) for policy, _ in known]
        for n in range(run.rounds + 1):
            run.note(f"connect, policies: round {n} of {run.rounds}")
            before, _ = plain.cost(run, n, POLICY_UNDER_WAY)
            for result, (_, each) in zip(results, known, strict=True):
                cost, _ = each.cost(run, n, POLICY_UNDER_WAY)
                after, _ = plain.cost(run, n + 100, POLICY_UNDER_WAY)
                if n:
                    base = (before + after) / 2
                    result.samples.append(cost / base)
                    result.raw.setdefault("us of CPU a connect", []).append(cost)
                    result.raw.setdefault("us of CPU a connect, plain", []).append(base)
                before = after
    return results


def _by_the_clock(run: Run) -> Result:
    result = Result("connect", f"{CONNECTIONS:,} connections, a channel each", "/s", [], TARGET_RATE)
    patterns: list[dict[str, object]] = [{"user": n} for n in range(CONNECTIONS)]
    with run.pair() as (valkey, server):
        for n in range(run.rounds + 1):
            run.note(f"connect, a channel each: round {n} of {run.rounds}")
            with Crowd(server.ws_url, valkey, patterns, [[n] for n in range(CONNECTIONS)]) as crowd:
                before = server.cpu
                seconds = crowd.join()
                cost = (server.cpu - before) / CONNECTIONS
            if n:
                result.samples.append(CONNECTIONS / seconds)
                result.raw.setdefault("us of CPU a connection", []).append(cost * 1e6)
    return result
