"""A node in the test's own event loop, and raw WebSocket clients for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from realizehit.server import Node, serve
from realizehit.settings import Settings
from tests.support import Valkey


@pytest.fixture
async def node(shared_valkey: Valkey) -> AsyncIterator[Node]:
    """A server of both roles on a free port, over a real Valkey."""
    async with serve(Settings(port=0, redis=shared_valkey.url)) as node:
        yield node
