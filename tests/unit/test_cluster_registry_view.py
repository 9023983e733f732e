"""A view of a registry that may not be read."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from realizehit.broker.cluster.address import ClusterAddress
from realizehit.broker.cluster.registry_view import RegistryView
from realizehit.broker.projections import ProjectionCounts
from realizehit.errors import BrokerRefused

ADDRESS = ClusterAddress("redis+cluster://127.0.0.1:1")


class Registry:
    """Answers for the registry, or refuses."""

    def __init__(self) -> None:
        self.refuses = True

    async def ask(self, *command: bytes | str) -> Any:
        if command[0] == "GET":
            return None
        if self.refuses:
            raise BrokerRefused("NOPERM")
        return []


@pytest.fixture
async def registry() -> Any:
    registry = Registry()
    refusals: list[BrokerRefused] = []
    view = RegistryView(
        ADDRESS,
        registry.ask,
        ProjectionCounts(),
        project=True,
        follow=False,
        on_view=lambda new: None,
        on_rules=lambda rules: None,
        on_refused=refusals.append,
    )
    yield SimpleNamespace(registry=registry, view=view, refusals=refusals)
    await view.close()


async def test_a_view_that_is_refused_is_not_waited_for(registry: Any) -> None:
    view = registry.view
    async with asyncio.timeout(5):
        view.start()
        await view.first(60.0)
        with pytest.raises(BrokerRefused, match="NOPERM"):
            await view.young()
        assert len(registry.refusals) == 2  # it was read again
        registry.registry.refuses = False
        await view.young()
    assert view.refusal is None


async def test_a_failing_listener_does_not_end_the_reads(registry: Any) -> None:
    view = registry.view

    def fail(error: BrokerRefused) -> None:
        raise ValueError

    view._on_refused = fail
    async with asyncio.timeout(5):
        with pytest.raises(BrokerRefused):
            await view.young()
        registry.registry.refuses = False
        await view.young()
