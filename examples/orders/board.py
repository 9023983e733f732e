"""The board: it shows the open orders, and goes on where it was when it is started again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples.orders.shop import PATTERN, Shop, Snapshot
from realizehit import WSClient


class Board:
    """The open orders, and the position of the last message that changed them, both kept in a file.

    Args:
        shop: where the present state is loaded from, if messages are missing.
        file: for the state.
        say: prints a line.
    """

    def __init__(self, shop: Shop, file: Path, say: Callable[[str], None] = print) -> None:
        self.change = 0
        self.orders: dict[int, str] = {}
        self._position: str | None = None
        self._shop = shop
        self._file = file
        self._say = say
        if file.exists():
            saved: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            self._position = saved["position"]
            self.change, self.orders = saved["change"], {int(number): text for number, text in saved["orders"].items()}

    async def run(self, client: WSClient) -> None:
        """Follow the orders, until cancelled."""
        subscription = await client.subscribe(PATTERN, since=self._position, offsets=True)
        if self._position is not None and subscription.recovered:
            self._say(f"{len(self.orders)} open orders; going on after {self._position}")
        else:
            self._load()
        subscription.on("recovered", lambda: self._say("connected again, nothing is missing"))
        subscription.on("gap", lambda _: self._load())
        self._save(subscription.position)
        async for message in subscription.messages():
            self.apply(message.payload)
            self._save(message.position)

    def _load(self) -> None:
        """Take the state from the shop. The subscription is in force, so that later changes follow."""
        self._take(self._shop.snapshot())
        self._say(f"{len(self.orders)} open orders; loaded from the shop")

    def _take(self, snapshot: Snapshot) -> None:
        self.change, self.orders = snapshot

    def apply(self, message: dict[str, Any]) -> None:
        """Change the board, unless the state that was loaded contains the change."""
        if message["change"] <= self.change:
            return
        self.change = message["change"]
        number, text = message["order"], message["text"]
        if text is None:
            self.orders.pop(number, None)
            self._say(f"order {number} is ready")
        else:
            self.orders[number] = text
            self._say(f"order {number}: {text}")

    def _save(self, position: str | None) -> None:
        """Write state and position together, so that they fit each other after a crash."""
        self._position = position
        text = json.dumps({"position": position, "change": self.change, "orders": self.orders})
        fresh = self._file.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(self._file)
