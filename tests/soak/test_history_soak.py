"""The soak of history, short: each message of each subscription came once and in order, or was told lost.

``python -m tests.soak`` runs it for longer. REALIZEHIT_HISTORY_SOAK_SECONDS says for how long here, and
REALIZEHIT_SOAK_SEED which run it is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.soak.clients import JavaScriptClient
from tests.soak.run import run
from tests.soak.world import Plan
from tests.support.figures import note

SECONDS = float(os.environ.get("REALIZEHIT_HISTORY_SOAK_SECONDS", "45"))
SEED = int(os.environ.get("REALIZEHIT_SOAK_SEED", "1"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 240)]


@pytest.mark.parametrize("broker", ["single", "sentinel", "cluster"])
async def test_every_message_comes_once_or_is_told_lost(broker: str, tmp_path: Path) -> None:
    program = tmp_path / "js"
    program.mkdir()
    seconds = SECONDS * 2 / 3 if broker == "cluster" else SECONDS
    plan = Plan(seconds, SEED, broker, JavaScriptClient.prepare(program))
    world = await run(plan, tmp_path)
    try:
        world.check()
    finally:
        sys.stdout.write(f"seed {SEED}: {dict(world.happened)}\n{world.account.table()}\n")
    counts = world.account.counts
    assert {"js sse", "js websocket", "python client", "slow websocket"} <= set(counts)
    for transport, count in counts.items():
        assert count["delivered"] > seconds, transport
        # Those with positions come back after less than is kept of most patterns, and some of them after more.
        comes_back = transport.endswith("with positions")
        if comes_back or transport in ("js sse", "python client", "slow websocket"):
            assert count["recovered"], transport
        if comes_back or transport in ("js websocket", "python client"):
            assert count["told"], transport
    assert len(world.happened) > 3
    for name in ("delivered", "recovered", "told", "missed", "lost"):
        note(f"Soak of history, {broker}: {name}", sum(count[name] for count in counts.values()), f"in {seconds:g} s")
