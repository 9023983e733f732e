"""The ticker example: real prices, a real Valkey, an API server and a WebSocket server in processes of their own."""

from __future__ import annotations

import asyncio
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from examples.ticker.ticker import Board, Price, pattern_of, read_prices, replay, show, sparkline
from realizehit import APIClient, Pattern, WSClient
from realizehit.client.received_message import ReceivedMessage
from tests.support.processes import Server, serving
from tests.support.valkey import Valkey
from tests.support.wire import act
from tests.support.wire import client as raw_client

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


def test_the_table_shows_the_last_price_its_change_and_a_line() -> None:
    board = Board(["IBM", "MSFT"])
    for price in (
        Price("IBM", "2000-01-01", 100.0),
        Price("IBM", "2000-02-01", 50.0),
        Price("IBM", "2000-03-01", 75.0),
    ):
        board.take(price._asdict())
    board.gaps.append(1.5)
    console = Console(width=100, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(board.render())
    assert isinstance(console.file, io.StringIO)
    shown = [line.strip() for line in console.file.getvalue().splitlines()]
    assert shown[0] == "follows IBM, MSFT (was away 1 times)"
    cells = [
        [cell.strip() for cell in re.split("[│┃]", line.strip("│┃"))] for line in shown if line.startswith(("│", "┃"))
    ]
    assert cells == [
        ["symbol", "date", "price", "change", "the last two years"],
        ["IBM", "2000-03-01", "75.00", "+50.0 %", "█▁▅"],
        ["MSFT", "", "", "", ""],
    ]


async def test_the_tables_are_drawn_on_a_terminal_alone() -> None:
    for terminal in (True, False):
        file = io.StringIO()
        console = Console(width=100, file=file, force_terminal=terminal)
        drawing = asyncio.create_task(show([Board(["IBM"])], console))
        await asyncio.sleep(0)  # it has drawn, and waits to do so again
        drawing.cancel()
        await asyncio.wait({drawing})
        assert ("follows IBM" in file.getvalue()) == terminal


def test_a_line_of_prices() -> None:
    prices = [Price("X", "", value) for value in (1.0, 8.0, 4.5, 1.0)]
    assert sparkline(prices) == "▁█▅▁"
    assert sparkline(prices[:1]) == "▁"


def test_a_board_that_follows_all_uses_the_pattern_of_each_message() -> None:
    board = Board(["*"])
    price = Price("IBM", "2000-01-01", 100.0)
    message = ReceivedMessage(pattern_of("*"), orjson.dumps(price._asdict()), b"kind:stock|symbol:IBM")
    board.take_message(message)
    assert board.seen == {"IBM": [price]}
    assert board.follows("AMZN")
    console = Console(width=100, file=io.StringIO())
    console.print(board.render())
    assert isinstance(console.file, io.StringIO)
    assert "follows every symbol" in console.file.getvalue()


async def test_every_price_reaches_its_followers_in_order(servers: tuple[Server, Server]) -> None:
    api_server, ws_server = servers
    prices = read_prices()
    followed = [["AAPL", "MSFT"], ["GOOG", "IBM"], ["IBM"], ["*"]]
    boards = [Board(symbols) for symbols in followed]
    # Clients drop what is not theirs; what a server sends to whom is seen on the wire alone.
    wired = {"IBM": [price for price in prices if price.symbol == "IBM"], "NONE": []}
    async with (
        raw_client(ws_server.ws) as ibm,
        raw_client(ws_server.ws) as none,
        WSClient(ws_server.ws, proxy=None) as first,
        WSClient(ws_server.ws, proxy=None) as second,
        WSClient(ws_server.ws, proxy=None) as third,
        WSClient(ws_server.ws, proxy=None) as fourth,
        APIClient(api_server.api, trust_env=False) as api,
    ):
        for board, client in zip(boards, (first, second, third, fourth), strict=True):
            await board.follow(client)
        for ws, symbol in ((ibm, "IBM"), (none, "NONE")):
            assert (await act(ws, "sub", pattern_of(symbol)))["ret"] == Pattern(pattern_of(symbol)).id
        await replay(api, prices, None)
        for board in boards:
            await board.wait_for(sum(board.follows(price.symbol) for price in prices))
        known = {price.symbol for price in prices}
        for board, symbols in zip(boards, (*followed[:-1], known), strict=True):
            assert board.seen == {symbol: [p for p in prices if p.symbol == symbol] for symbol in symbols}
            assert board.gaps == []
        for ws, symbol in ((ibm, "IBM"), (none, "NONE")):
            await ws.send('{"id": "p", "act": "ping"}')
            label = Pattern(pattern_of(symbol)).id
            came = [await ws.recv() for _ in range(len(wired[symbol]) + 1)]
            assert came.pop() == '{"id":"p","ret":"pong"}'
            assert [orjson.loads(str(text).removeprefix(label + "?")) for text in came] == [
                price._asdict() for price in wired[symbol]
            ]
        # `nodes` counts a node once for the pattern itself and once for the wildcard.
        assert (await api.publish(pattern_of("AMZN"), prices[0]._asdict())).nodes == 1
        assert (await api.publish(pattern_of("AAPL"), prices[0]._asdict())).nodes == 2
        assert (await api.publish({"kind": "bond", "symbol": "AAPL"}, 1)).nodes == 0


@pytest.mark.parametrize("how", [["-m", "examples.ticker"], ["examples/ticker/ticker.py"]])
async def test_the_command(servers: tuple[Server, Server], how: list[str]) -> None:
    api_server, ws_server = servers
    words = [
        *how,
        "--api",
        api_server.api,
        "--ws",
        ws_server.ws,
        "--full-speed",
        "--once",
        "--follow",
        "amzn,GOOG",
        "--follow",
        "*",
    ]
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, *words], cwd=ROOT, check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "client 1: 123 of 123 prices of AMZN: all, in order",
        "client 1: 68 of 68 prices of GOOG: all, in order",
        "client 2: 123 of 123 prices of AAPL: all, in order",
        "client 2: 123 of 123 prices of AMZN: all, in order",
        "client 2: 123 of 123 prices of IBM: all, in order",
        "client 2: 123 of 123 prices of MSFT: all, in order",
        "client 2: 68 of 68 prices of GOOG: all, in order",
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--follow", "TSLA"], "there are no prices of 'TSLA'; there are AAPL, AMZN, GOOG, IBM, MSFT, and * for all"),
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
