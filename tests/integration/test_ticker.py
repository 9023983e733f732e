"""The ticker example: real prices, a real Valkey, an API server and a WebSocket server in processes of their own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from examples.ticker.ticker import Board, pattern_of, read_prices, replay
from realizehit import APIClient, WSClient
from tests.processes import Server, serving
from tests.support import Valkey

ROOT = Path(__file__).parents[2]


@pytest.fixture
def servers(valkey: Valkey) -> Iterator[tuple[Server, Server]]:
    with ExitStack() as stack:
        yield (
            stack.enter_context(serving("--role", "api", "--redis", valkey.url)),
            stack.enter_context(serving("--role", "ws", "--redis", valkey.url)),
        )


def test_the_prices() -> None:
    prices = read_prices()
    assert len(prices) == 560
    assert prices[0] == ("AAPL", "2000-01-01", 25.94)
    assert [price.date for price in prices] == sorted(price.date for price in prices)


async def test_every_price_arrives_in_order_at_whoever_follows_it(servers: tuple[Server, Server]) -> None:
    api_server, ws_server = servers
    prices = read_prices()
    followed = [["AAPL", "MSFT"], ["GOOG", "IBM"], ["IBM"]]
    boards = [Board(symbols) for symbols in followed]
    nobody = Board(["NONE"])
    async with (
        WSClient(ws_server.ws, proxy=None) as first,
        WSClient(ws_server.ws, proxy=None) as second,
        WSClient(ws_server.ws, proxy=None) as third,
        APIClient(api_server.api, trust_env=False) as api,
    ):
        for board, client in zip(boards, (first, second, third), strict=True):
            await board.follow(client)
        await nobody.follow(third)
        await replay(api, prices, None)
        for board in boards:
            await board.wait_for(sum(price.symbol in board.seen for price in prices))
        for board, symbols in zip(boards, followed, strict=True):
            assert board.seen == {symbol: [p for p in prices if p.symbol == symbol] for symbol in symbols}
            assert board.gaps == []
        assert nobody.seen == {"NONE": []}
        assert (await api.publish(pattern_of("AMZN"), 1)).nodes == 0
        assert (await api.publish(pattern_of("AAPL"), prices[0]._asdict())).nodes == 1


@pytest.mark.parametrize("how", [["-m", "examples.ticker"], ["examples/ticker/ticker.py"]])
async def test_the_command(servers: tuple[Server, Server], how: list[str]) -> None:
    api_server, ws_server = servers
    words = [*how, "--api", api_server.api, "--ws", ws_server.ws, "--full-speed", "--once", "--follow", "amzn,GOOG"]
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, *words], cwd=ROOT, check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "client 1: 123 of 123 prices of AMZN: all, in order",
        "client 1: 68 of 68 prices of GOOG: all, in order",
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--follow", "TSLA"], "there are no prices of 'TSLA'; there are AAPL, AMZN, GOOG, IBM, MSFT"),
        (["--ws", "ws://127.0.0.1:9/ws", "--once"], "Is a server running?"),
    ],
)
def test_what_the_command_says_when_it_cannot(words: list[str], text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.ticker", *words],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert text in done.stderr.replace("\n", " ")
