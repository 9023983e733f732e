"""The table of ``realizehit top``."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from realizehit.cli.top import table_of


def row(host: str, **more: Any) -> dict[str, Any]:
    return {
        "host": host, "pid": 1234, "role": "all", "version": "0.1.0", "uptime": 7300.0, "broker": "up",
        "connections": 1000, "subscriptions": 2000, "channels": 30, "shapes": 2, "messages_rate": 10.4,
        "deliveries_rate": 1200.6, "published_rate": 5.0, "queued_bytes": 2048, "slow_disconnects": 1, **more,
    }  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_it_fits_the_terminal_and_adds_up(width: int) -> None:
    console = Console(width=width, record=True, file=None)
    with console.capture() as capture:
        console.print(table_of([row("web-1"), row("web-2"), row("web-3", gone=12.0)], width))
    lines = capture.get().splitlines()
    assert lines[0].strip() == "2 processes, 1 gone"
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    header, first, _, gone, footer = lines[1:]
    for name in ("host", "pid", "clients", "out/s", "waiting"):
        assert name in header
    assert ("version" in header) == (width >= 120)
    assert "1,000" in first
    assert "gone for 12 s" in gone
    assert "2,000" in footer
    assert "2,401" in footer
