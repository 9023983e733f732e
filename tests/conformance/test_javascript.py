"""The JavaScript client passes the conformance cases."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conformance.running import failures_of
from tests.support.programs import needs

pytestmark = pytest.mark.slow

CLIENT = Path(__file__).resolve().parents[2] / "clients" / "js"


@pytest.fixture
def websocket() -> None:
    """Install the package `ws` where Node.js has no WebSocket, as before version 22."""
    needs("node")
    version = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout
    if int(version.lstrip("v").partition(".")[0]) < 22 and not (CLIENT / "node_modules" / "ws").exists():
        needs("npm")
        subprocess.run(["npm", "ci", "--silent"], cwd=CLIENT, check=True)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("websocket")
async def test_the_javascript_client_passes_the_cases() -> None:
    assert not await failures_of("javascript")
