"""A shop whose orders are shown on a board that misses none. See README.md beside this file."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import click

from examples.orders.board import Board
from examples.orders.shop import Shop
from realizehit import RealizehitError, WSClient
from realizehit.sync import APIClient


@click.group()
@click.option("--api", default="http://127.0.0.1:8080/", show_default=True, help="Address of the API.")
@click.option(
    "--database",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("orders.sqlite"),
    show_default=True,
    help="The shop's database.",
)
@click.pass_context
def main(context: click.Context, *, api: str, database: Path) -> None:
    """Take orders in a shop, and show the open ones on a board."""
    context.obj = (api, context.with_resource(Shop(database)))


@main.command()
@click.argument("text")
@click.pass_obj
def place(obj: tuple[str, Shop], text: str) -> None:
    """Place an order."""
    api, shop = obj
    click.echo(f"order {shop.place(text)}")
    publish(api, shop)


@main.command()
@click.argument("number", type=int)
@click.pass_obj
def finish(obj: tuple[str, Shop], number: int) -> None:
    """Say that an order is ready."""
    api, shop = obj
    if not shop.finish(number):
        raise click.ClickException(f"there is no open order {number}")
    publish(api, shop)


def publish(api: str, shop: Shop) -> None:
    """Publish what has changed; what cannot be published now is published with the next change."""
    with APIClient(api) as client:
        try:
            shop.publish_changes(client)
        except RealizehitError as error:
            click.echo(f"saved, to be published with the next change: {error}", err=True)


@main.command()
@click.option("--ws", default="ws://127.0.0.1:8080/ws", show_default=True, help="Address for subscribers.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("board.json"),
    show_default=True,
    help="Where the board remembers what it has shown.",
)
@click.pass_obj
def board(obj: tuple[str, Shop], ws: str, state: Path) -> None:
    """Show the open orders, until Ctrl+C."""
    _, shop = obj

    async def follow() -> None:
        async with WSClient(ws) as client:
            await Board(shop, state, click.echo).run(client)

    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(follow())
    except RealizehitError as error:
        raise click.ClickException(
            f"{error}\nIs a server running? Start one with: realizehit-server --history examples/orders/history.toml"
        ) from None


if __name__ == "__main__":
    main()
