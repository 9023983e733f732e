"""Replay real stock prices to clients that follow some symbols or all of them. See README.md beside this file."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import itertools
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from realizehit import APIClient, RealizehitError, WSClient
from realizehit.client.ws import ReceivedMessage

SPARKS = "▁▂▃▄▅▆▇█"
WAIT = 10.0  # seconds for the last prices to arrive
EVERY = "*"  # follows all symbols with one subscription


class Price(NamedTuple):
    """The price of one share on the first day of a month."""

    symbol: str
    date: str  # ISO 8601
    price: float

    @property
    def pattern(self) -> dict[str, str]:
        return pattern_of(self.symbol)


def pattern_of(symbol: str) -> dict[str, str]:
    return {"kind": "stock", "symbol": symbol}


def read_prices() -> list[Price]:
    """Read the prices that come with the vega_datasets package, oldest first."""
    package = find_spec("vega_datasets")  # found, not imported: importing it would load pandas
    if package is None or not package.submodule_search_locations:
        raise click.ClickException("the prices are in the vega_datasets package: pip install vega_datasets")
    file = Path(package.submodule_search_locations[0]) / "_data" / "stocks.csv"
    with file.open(encoding="utf-8", newline="") as rows:
        prices = [
            Price(
                row["symbol"],
                datetime.strptime(row["date"], "%b %d %Y").date().isoformat(),
                float(row["price"]),
            )
            for row in csv.DictReader(rows)
        ]
    return sorted(prices, key=lambda price: (price.date, price.symbol))


async def replay(api: APIClient, prices: Iterable[Price], months_per_second: float | None) -> None:
    """Publish the prices of one month after the other.

    Args:
        api: publishes them.
        prices: in the order of their dates.
        months_per_second: how fast; ``None`` for as fast as it goes.
    """
    loop = asyncio.get_running_loop()
    due = loop.time()
    for _, month in itertools.groupby(prices, key=lambda price: price.date):
        for outcome in await api.publish_many((price.pattern, price._asdict()) for price in month):
            if isinstance(outcome, RealizehitError):
                raise outcome
        if months_per_second is not None:
            due += 1 / months_per_second
            await asyncio.sleep(due - loop.time())


class Board:
    """What one client has seen of the symbols that it follows.

    Args:
        symbols: what it follows; ``["*"]`` for every symbol, with one wildcard subscription.
    """

    def __init__(self, symbols: Sequence[str]) -> None:
        self.follows_all = EVERY in symbols
        self.seen: dict[str, list[Price]] = {} if self.follows_all else {symbol: [] for symbol in symbols}
        self.gaps: list[float] = []
        self._arrived = asyncio.Event()

    async def follow(self, client: WSClient) -> None:
        if self.follows_all:
            subscription = await client.subscribe(pattern_of(EVERY))
            subscription.on("message", self.take_message)
            subscription.on("gap", self.gaps.append)
            return
        for symbol in self.seen:
            subscription = await client.subscribe(pattern_of(symbol), callback=self.take)
            subscription.on("gap", self.gaps.append)

    def follows(self, symbol: str) -> bool:
        return self.follows_all or symbol in self.seen

    def take(self, payload: Any) -> None:
        price = Price(**payload)
        self._add(price.symbol, price)

    def take_message(self, message: ReceivedMessage) -> None:
        """Take a message of the wildcard subscription: its pattern says which symbol it is about."""
        self._add(message.pattern["symbol"], Price(**message.payload))

    def _add(self, symbol: str, price: Price) -> None:
        self.seen.setdefault(symbol, []).append(price)
        self._arrived.set()

    def forget(self) -> None:
        for prices in self.seen.values():
            prices.clear()

    async def wait_for(self, count: int, seconds: float = WAIT) -> None:
        """Wait until so many prices have arrived, or the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while sum(map(len, self.seen.values())) < count:
                    self._arrived.clear()
                    await self._arrived.wait()

    def render(self) -> RenderableType:
        away = f" (was away {len(self.gaps)} times)" if self.gaps else ""
        table = Table(
            "symbol",
            "date",
            title=f"follows {'every symbol' if self.follows_all else ', '.join(self.seen)}{away}",
            title_justify="left",
        )
        for heading in ("price", "change"):
            table.add_column(heading, justify="right", min_width=8)
        table.add_column("the last two years", width=24, no_wrap=True)
        for symbol, prices in self.seen.items():
            if not prices:
                table.add_row(symbol, "", "", "", "")
                continue
            last, before = prices[-1], prices[-2] if len(prices) > 1 else prices[-1]
            change = (last.price / before.price - 1) * 100
            colour = "green" if change >= 0 else "red"
            table.add_row(
                f"[bold]{symbol}", last.date, f"{last.price:.2f}", f"[{colour}]{change:+.1f} %", sparkline(prices[-24:])
            )
        return table


def sparkline(prices: Sequence[Price]) -> str:
    values = [price.price for price in prices]
    low, high = min(values), max(values)
    scale = (len(SPARKS) - 1) / (high - low) if high > low else 0
    return "".join(SPARKS[round((value - low) * scale)] for value in values)


async def show(boards: Sequence[Board], console: Console) -> None:
    """Draw the boards ten times a second, until cancelled; nothing where there is no terminal."""
    if not console.is_terminal:
        return
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                live.update(Columns([board.render() for board in boards]), refresh=True)
                await asyncio.sleep(0.1)
        finally:
            live.update(Columns([board.render() for board in boards]), refresh=True)


async def run(
    api_url: str, ws_url: str, follow: Sequence[Sequence[str]], months_per_second: float | None, once: bool
) -> bool:
    """Follow and replay; return whether everything that was published arrived, in order."""
    console = Console()
    prices = read_prices()
    boards = [Board(symbols) for symbols in follow]
    async with contextlib.AsyncExitStack() as stack:
        for board in boards:
            await board.follow(await stack.enter_async_context(WSClient(ws_url)))
        api = await stack.enter_async_context(APIClient(api_url))
        drawing = asyncio.create_task(show(boards, console))
        try:
            await replay(api, prices, months_per_second)
            while not once:
                for board in boards:
                    board.forget()
                await replay(api, prices, months_per_second)
            for board in boards:
                await board.wait_for(sum(board.follows(price.symbol) for price in prices))
        finally:
            drawing.cancel()
            await asyncio.wait({drawing})
    complete = True
    for number, board in enumerate(boards, 1):
        for symbol in dict.fromkeys(price.symbol for price in prices if board.follows(price.symbol)):
            seen = board.seen.get(symbol, [])
            published = [price for price in prices if price.symbol == symbol]
            complete &= seen == published
            verdict = "all, in order" if seen == published else "NOT what was published"
            console.print(f"client {number}: {len(seen)} of {len(published)} prices of {symbol}: {verdict}")
    return complete


def symbols_of(_: click.Context, __: click.Parameter, values: Sequence[str]) -> list[list[str]]:
    known = sorted({price.symbol for price in read_prices()})
    followed = [[symbol.strip().upper() for symbol in value.split(",")] for value in values]
    for symbol in itertools.chain.from_iterable(followed):
        if symbol not in known and symbol != EVERY:
            raise click.BadParameter(
                f"there are no prices of {symbol!r}; there are {', '.join(known)}, and {EVERY} for all"
            )
    return [list(dict.fromkeys(symbols)) for symbols in followed]


@click.command()
@click.option("--api", "api_url", default="http://127.0.0.1:8080/", show_default=True, help="Address of the API.")
@click.option("--ws", "ws_url", default="ws://127.0.0.1:8080/ws", show_default=True, help="Address for subscribers.")
@click.option(
    "--follow",
    multiple=True,
    default=("AAPL,MSFT", "GOOG,IBM", EVERY),
    show_default=True,
    callback=symbols_of,
    help="What one client follows, * for every symbol; give it once for each client.",
)
@click.option("--speed", type=click.FloatRange(0.01, 1000), default=4.0, show_default=True, help="Months per second.")
@click.option("--full-speed", is_flag=True, help="As fast as it goes, instead of --speed.")
@click.option("--once", is_flag=True, help="Replay once, check that everything arrived, and end.")
def main(
    *, api_url: str, ws_url: str, follow: Sequence[Sequence[str]], speed: float, full_speed: bool, once: bool
) -> None:
    """Replay ten years of real stock prices through a realizehit server, to clients that follow some of them."""
    try:
        complete = asyncio.run(run(api_url, ws_url, follow, None if full_speed else speed, once))
    except RealizehitError as error:
        raise click.ClickException(f"{error}\nIs a server running? Start one with: realizehit-server") from None
    except KeyboardInterrupt:
        return
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
