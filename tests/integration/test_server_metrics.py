"""``/metrics`` of a server with workers: any of them answers for all, and no counter falls when one is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from realizehit import __version__
from tests.integration.test_command_workers import publish, subscribed, worker_pids
from tests.support.processes import Server, serving
from tests.support.valkey import Valkey
from tests.support.wire import unique

Sample = tuple[str, tuple[tuple[str, str], ...]]


def scrape(server: Server) -> tuple[dict[Sample, float], set[Sample]]:
    """Return the samples, and which of them must never fall."""
    with urllib.request.urlopen(f"{server.api}metrics", timeout=10) as response:
        text = response.read().decode()
    samples: dict[Sample, float] = {}
    rising: set[Sample] = set()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name, tuple(sorted(sample.labels.items()))
            assert name not in samples, f"{name} is there twice"
            samples[name] = sample.value
            if family.type in ("counter", "histogram"):
                rising.add(name)
    return samples, rising


def value(samples: dict[Sample, float], name: str, **labels: str) -> float:
    return samples[f"realizehit_{name}", tuple(sorted(labels.items()))]


@pytest.mark.slow
async def test_any_worker_answers_for_all_and_no_counter_falls(shared_valkey: Valkey) -> None:
    words = ("--workers", "4", "--drain-seconds", "0.1", "--redis", shared_valkey.url)
    with serving(*words) as server:
        first, *_ = worker_pids(server, 4)
        pattern = unique("metrics")
        clients = await subscribed(server, pattern, 40)
        before: dict[Sample, float] = {}
        killed_after = 20
        for turn in range(40):
            await publish(server, pattern, turn)
            samples, rising = await asyncio.to_thread(scrape, server)
            fallen = {name for name in rising & before.keys() if samples[name] < before[name]}
            assert not fallen
            assert before.keys() - samples.keys() == set()
            before = samples
            assert value(samples, "publications_total", outcome="queued") == turn + 1
            if turn < killed_after:
                assert value(samples, "connections") == 40
                assert value(samples, "workers") == 4
            if turn == killed_after:
                os.kill(first, signal.SIGKILL)
                await asyncio.to_thread(server.find, r"worker \d+ ended")
        await asyncio.to_thread(worker_pids, server, 5)
        samples, _ = await asyncio.to_thread(scrape, server)
        kept = [one for one in clients if not one.closed.is_set()]
        assert 0 < len(kept) < 40
        assert value(samples, "connections") == len(kept)
        assert value(samples, "connects_total") == 40
        assert value(samples, "workers") == 4
        assert value(samples, "worker_ends_total") == 1
        assert value(samples, "build_info", version=__version__) == 1
        assert value(samples, "deliveries_total") >= 40 * killed_after
        for one in kept:
            one.transport.abort()
