"""All processes of a deployment with their figures, and those that are gone: what operators and the console see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from realizehit.node.fleet import Fleet

FIGURES: Final = "figures"
"""The kind of question, see `realizehit.node.figures.Figures.answer`."""


class Overview:
    """Asks all processes for their figures, and remembers those of processes that died.

    Args:
        fleet: all processes of the deployment.
        own: returns the figures of this process.
    """

    def __init__(self, fleet: Fleet, own: Callable[[], dict[str, Any]]) -> None:
        self._fleet = fleet
        self._own = own
        self._figures: dict[str, dict[str, Any]] = {}  # the last ones of each process, also of one that is gone

    def own(self) -> dict[str, Any]:
        """Return the row of this process, which needs no broker."""
        return self._own()

    async def rows(self, *, watch: bool = False) -> list[dict[str, Any]]:
        """Return the figures of each process, ordered by host and server.

        Args:
            watch: whether the caller goes on asking each second, and wants what is measured only while somebody
                watches: latencies and busiest channels.

        Returns:
            One row for each process. One that is gone has ``gone``, the seconds since its last sign of life, and at
            least what it announced of itself.

        Raises:
            BrokerUnavailable, BrokerRefused: the processes could not be asked.
        """
        answers = await self._fleet.ask(FIGURES, {"watch": True} if watch else None)
        gone = self._fleet.gone()
        known = {**self._figures, **answers}
        self._figures = {node: known[node] for node in known if node in answers or node in gone}
        lost = [
            {**about, **self._figures.get(node, {}), "gone": round(seconds, 1)}
            for node, (seconds, about) in gone.items()
            if about or node in self._figures
        ]
        return sorted([*answers.values(), *lost], key=_place)


def _place(row: dict[str, Any]) -> tuple[str, int, int]:
    """Return what rows are ordered by: the workers of a server stand together."""
    pid, worker = row["pid"], row.get("worker")
    return (row["host"], row["parent"], worker) if worker is not None else (row["host"], pid, 0)
