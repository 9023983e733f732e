"""CLUSTER: messages a second and CPU of a cluster with 1, 2 and 3 primaries, and the bytes that it sends.

All machines of the cluster share the client's core, so the rate is worked out: a cluster takes as many messages a
second as its busiest primary allows, when each primary has a core of its own.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import Result, Target
from benchmarks.system.machines import Machines
from benchmarks.system.processes import Child
from benchmarks.system.row import Run
from realizehit.pattern import channel_of

PRIMARIES = (1, 2, 3)
CHANNELS = 1000
MESSAGES = 100_000
IN_ONE = 10_000  # messages of a call of the publisher
TIMEOUT = 60.0  # seconds
OTHERS = 4  # nodes that need none of the messages
GROWTH = {2: Target(must=1.6, aim=1.9, lower=False), 3: Target(must=2.4, aim=2.8, lower=False)}
EGRESS = Target(must=1.02, aim=1.005)
_SCRIPT = Path(__file__).with_name("_cluster.py")


@dataclass(frozen=True, slots=True)
class Figures:
    """The cost of some messages, each of which one node received.

    Attributes:
        busiest, all: seconds of CPU for each message: of the primary that used most, and of all machines.
        egress: bytes that all machines sent for each message.
        seconds: by the clock for each message, with all machines on one core.
        publisher: seconds of the publisher's CPU for each message.
    """

    busiest: float
    all: float
    egress: float
    seconds: float
    publisher: float

    def named(self) -> dict[str, float]:
        """Return the figures that stand beside the judged one."""
        return {
            "us of CPU of the busiest primary a message": self.busiest * 1e6,
            "us of CPU of all machines a message": self.all * 1e6,
            "us of CPU of the publisher a message": self.publisher * 1e6,
            "bytes sent a message": self.egress,
            "messages/s, all machines on one core": 1 / self.seconds,
        }


class Side:
    """A cluster with a node that needs all messages, and a publisher."""

    def __init__(self, run: Run, stack: ExitStack, primaries: int) -> None:
        self._run = run
        self._machines = stack.enter_context(Machines(primaries, run.cores.client))
        self._channels = [channel_of({"cluster": n}).decode() for n in range(CHANNELS)]
        self._node = self._join(stack, self._channels)
        self._publisher = stack.enter_context(self._child())
        self._received = 0
        self.flow(IN_ONE)  # opens the connections

    def _child(self) -> Child:
        return Child([self._run.python, "-P", str(_SCRIPT), str(self._run.cores.server), self._machines.url])

    def _join(self, stack: ExitStack, channels: list[str]) -> Child:
        """Start a node that needs some channels."""
        node = stack.enter_context(self._child())
        node.tell({"subscribe": channels})
        node.hear(TIMEOUT)
        return node

    def add_nodes(self, stack: ExitStack) -> None:
        """Start nodes that need other channels."""
        for other in range(OTHERS):
            self._join(stack, [channel_of({"other": other, "n": n}).decode() for n in range(CHANNELS)])

    def flow(self, messages: int) -> Figures:
        """Publish messages, and wait until the node has them."""
        messages = max(1, messages // IN_ONE) * IN_ONE
        cpu, egress = self._cpu(), self._egress()
        self._publisher.tell({"publish": messages, "channels": self._channels})
        said = self._publisher.hear(TIMEOUT)
        self._received += messages
        self._node.tell({"until": self._received})
        if self._node.hear(TIMEOUT)["received"] != self._received or said["messages"] != messages:
            raise RuntimeError("messages are missing, or came twice")
        used = [after - before for after, before in zip(self._cpu(), cpu, strict=True)]
        return Figures(
            busiest=max(used[: len(self._machines.primaries)]) / messages,
            all=sum(used) / messages,
            egress=(self._egress() - egress) / messages,
            seconds=said["seconds"] / messages,
            publisher=said["cpu"] / messages,
        )

    def _cpu(self) -> list[float]:
        return [machine.cpu for machine in self._machines.all]

    def _egress(self) -> int:
        return sum(machine.egress for machine in self._machines.all)


def measure(run: Run) -> list[Result]:
    """Measure clusters of several sizes in turn, and then the largest with further nodes."""
    rates = [_rate(count) for count in PRIMARIES]
    spread = Result("cluster", f"bytes sent a message, {PRIMARIES[-1]} primaries", "x one", [], EGRESS)
    idle = Result("cluster", f"bytes sent a message, {OTHERS} nodes more that need nothing", "x without", [], EGRESS)
    with ExitStack() as stack:
        sides = []
        for count in PRIMARIES:
            run.note(f"cluster: {count} primaries")
            sides.append(Side(run, stack, count))
        for n in range(run.rounds):
            run.note(f"cluster: round {n + 1} of {run.rounds}")
            figures = [side.flow(run.scaled(MESSAGES)) for side in sides]
            one = figures[0]
            for result, figure in zip(rates, figures, strict=True):
                result.samples.append(1 / one.busiest if figure is one else one.busiest / figure.busiest)
                for name, value in figure.named().items():
                    result.raw.setdefault(name, []).append(value)
            spread.samples.append(figures[-1].egress / one.egress)
            idle.raw.setdefault("bytes, without them", []).append(figures[-1].egress)
        sides[-1].add_nodes(stack)
        for n, before in enumerate(idle.raw["bytes, without them"]):
            run.note(f"cluster, nodes that need nothing: round {n + 1} of {run.rounds}")
            egress = sides[-1].flow(run.scaled(MESSAGES)).egress
            idle.samples.append(egress / before)
            idle.raw.setdefault("bytes, with them", []).append(egress)
    return [*rates, spread, idle]


def _rate(primaries: int) -> Result:
    if primaries == 1:
        return Result("cluster", "one primary, on a core of its own", "messages/s", [], None)
    return Result("cluster", f"messages/s, {primaries} primaries, a core each", "x one", [], GROWTH[primaries])
