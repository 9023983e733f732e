"""The example of a board of orders: what it shows after it was away, and what is published when a server was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from examples.orders.board import Board
from examples.orders.orders import main
from examples.orders.shop import PATTERN, Shop
from realizehit import WSClient
from realizehit.broker.history.rules_file import read_rules
from realizehit.broker.history.scripts import log_key
from realizehit.pattern import channel_of
from realizehit.process.server import Node
from realizehit.sync import APIClient
from tests.integration.test_history_node import node_at
from tests.support.history import SECONDS, set_rules
from tests.support.valkey import Valkey

ROOT = Path(__file__).parents[2]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Valkey]:
    """A broker of the test's own, since all tests publish to the same pattern."""
    with Valkey(tmp_path) as valkey:
        set_rules(valkey, *read_rules(str(ROOT / "examples/orders/history.toml")).rules)
        yield valkey


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with Shop(tmp_path / "orders.sqlite") as shop:
        yield shop


class Watched:
    """A board, and the lines that it printed."""

    def __init__(self, shop: Shop, file: Path) -> None:
        self.lines: list[str] = []
        self._printed = asyncio.Event()
        self.board = Board(shop, file, self._print)

    def _print(self, line: str) -> None:
        self.lines.append(line)
        self._printed.set()

    async def wait_for(self, line: str) -> None:
        async with asyncio.timeout(SECONDS):
            while line not in self.lines:
                self._printed.clear()
                await self._printed.wait()


@asynccontextmanager
async def running(shop: Shop, node: Node, file: Path) -> AsyncIterator[Watched]:
    watched = Watched(shop, file)
    async with WSClient(node.ws_url) as client:
        task = asyncio.create_task(watched.board.run(client))
        try:
            yield watched
        finally:
            task.cancel()
            await asyncio.wait({task})


def publish(shop: Shop, node: Node, path: Path) -> None:
    """Publish from another thread, with a connection of its own to the same database."""
    with Shop(path / "orders.sqlite") as own, closing(APIClient(node.api_url)) as api:
        own.publish_changes(api)


async def test_a_board_goes_on_where_it_was(broker: Valkey, shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "board.json"
    async with node_at(broker) as (node, _):
        shop.place("tea")
        async with running(shop, node, file) as board:
            await board.wait_for("1 open orders; loaded from the shop")
            shop.place("espresso")
            await asyncio.to_thread(publish, shop, node, tmp_path)
            await board.wait_for("order 2: espresso")
            assert "order 1: tea" not in board.lines  # it was loaded
        assert shop.finish(1)
        shop.place("water")
        await asyncio.to_thread(publish, shop, node, tmp_path)
        async with running(shop, node, file) as board:
            await board.wait_for("order 3: water")
            assert board.lines[0].startswith("2 open orders; going on after ")
            assert board.lines[1:] == ["order 1 is ready", "order 3: water"]
            assert board.board.orders == shop.snapshot().orders == {2: "espresso", 3: "water"}


async def test_a_board_loads_what_is_not_kept(broker: Valkey, shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "board.json"
    async with node_at(broker) as (node, _):
        async with running(shop, node, file) as board:
            await board.wait_for("0 open orders; loaded from the shop")
        shop.place("tea")
        await asyncio.to_thread(publish, shop, node, tmp_path)
        broker.command("DEL", log_key(channel_of(PATTERN)).decode())
        async with running(shop, node, file) as board:
            await board.wait_for("1 open orders; loaded from the shop")


async def test_a_change_is_published_once_although_its_answer_was_lost(
    broker: Valkey, shop: Shop, tmp_path: Path
) -> None:
    async with node_at(broker) as (node, _):
        async with running(shop, node, tmp_path / "board.json") as board:
            await board.wait_for("0 open orders; loaded from the shop")
            shop.place("tea")
            await asyncio.to_thread(publish, shop, node, tmp_path)
            shop._database.execute("UPDATE changes SET published = 0")  # as if the program had ended before
            shop._database.commit()
            shop.place("water")
            await asyncio.to_thread(publish, shop, node, tmp_path)
            await board.wait_for("order 2: water")
            assert board.lines[1:] == ["order 1: tea", "order 2: water"]
        with closing(APIClient(node.api_url)) as api:
            kept = await asyncio.to_thread(api.history, PATTERN, last=10)
        assert [message.payload["change"] for message in kept.messages] == [1, 2]


def test_an_order_is_taken_without_a_server(tmp_path: Path) -> None:
    database = tmp_path / "orders.sqlite"
    options = ["--api", "http://127.0.0.1:9/", "--database", str(database)]
    for text in ("tea", "water"):
        done = CliRunner().invoke(main, [*options, "place", text])
        assert done.exit_code == 0
        assert "saved, to be published with the next change" in done.stderr
    with Shop(database) as shop:
        assert shop.snapshot() == (2, {1: "tea", 2: "water"})
