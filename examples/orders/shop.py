"""The shop's database: the orders, and the changes that are yet to be published."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from realizehit.sync import APIClient

PATTERN = {"kind": "order"}

_TABLES = """
CREATE TABLE IF NOT EXISTS shop (name TEXT NOT NULL);
INSERT INTO shop SELECT lower(hex(randomblob(8))) WHERE NOT EXISTS (SELECT 1 FROM shop);
CREATE TABLE IF NOT EXISTS orders (number INTEGER PRIMARY KEY, text TEXT NOT NULL, ready INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS changes (
    number INTEGER PRIMARY KEY AUTOINCREMENT, content TEXT NOT NULL, published INTEGER NOT NULL DEFAULT 0
);
"""


class Snapshot(NamedTuple):
    """The open orders after a change.

    Attributes:
        change: number of the last change that is contained.
        orders: what each open order is, by its number.
    """

    change: int
    orders: dict[int, str]


class Shop:
    """The database in a file.

    An order and the change that tells of it are written in one transaction, so a crash loses neither. A change is
    published until that succeeds, each time with the same idempotency key, so that it is published once.
    """

    def __init__(self, file: Path) -> None:
        self._database = sqlite3.connect(file)
        self._database.executescript(_TABLES)
        (self._name,) = self._database.execute("SELECT name FROM shop").fetchone()  # another database, other keys

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.close()

    def place(self, text: str) -> int:
        """Take an order, and return its number."""
        with self._database:
            number = self._database.execute("INSERT INTO orders (text) VALUES (?)", (text,)).lastrowid
            assert number is not None
            self._note_change({"order": number, "text": text})
        return number

    def finish(self, number: int) -> bool:
        """Note that an order is ready; False if it is not open."""
        with self._database:
            command = "UPDATE orders SET ready = 1 WHERE number = ? AND NOT ready"
            if not self._database.execute(command, (number,)).rowcount:
                return False
            self._note_change({"order": number, "text": None})
        return True

    def _note_change(self, content: dict[str, Any]) -> None:
        self._database.execute("INSERT INTO changes (content) VALUES (?)", (json.dumps(content),))

    def publish_changes(self, api: APIClient) -> None:
        """Publish the changes that are not published yet, oldest first.

        Raises:
            RealizehitError: one could not be published. It and those after it will be published at the next call.
        """
        rows = self._database.execute("SELECT number, content FROM changes WHERE NOT published ORDER BY number")
        for number, content in rows.fetchall():
            change = {"change": number, **json.loads(content)}
            api.publish(PATTERN, change, idempotency_key=f"{self._name}-{number}")
            with self._database:
                self._database.execute("UPDATE changes SET published = 1 WHERE number = ?", (number,))

    def snapshot(self) -> Snapshot:
        """Return the open orders."""
        with self._database:
            self._database.execute("BEGIN")  # both are read from the same state
            (change,) = self._database.execute("SELECT coalesce(max(number), 0) FROM changes").fetchone()
            orders = dict(self._database.execute("SELECT number, text FROM orders WHERE NOT ready ORDER BY number"))
        return Snapshot(change, orders)
