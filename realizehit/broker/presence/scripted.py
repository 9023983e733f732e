"""Presence at a Redis, a Valkey or a cluster, by scripts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from realizehit.broker.names import Names
from realizehit.broker.presence.scripts import (
    CHANNELS,
    CLAIM,
    KEPT,
    LEASES,
    RIGHTS,
    Script,
    Scripts,
    channel_keys,
    channels_key,
)
from realizehit.broker.presence.store import MOST_CHANGES, Audit, Changed, Page, PresenceStore
from realizehit.errors import BrokerRefused
from realizehit.pattern import presence_channel

Ask = Callable[..., Awaitable[Any]]
"""Called with a key and a command: sends the command to the machine that has the key, and returns the reply."""

_KEPT: Final = b"%d" % round(KEPT * 1000)


class ScriptedPresence(PresenceStore):
    """Keeps presence at a broker that runs scripts.

    Args:
        ask: asks the broker.
        names: those of the broker.
    """

    def __init__(self, ask: Ask, names: Names) -> None:
        self._ask = ask
        self._scripts = Scripts(names)
        self._known: set[Script] = set()  # those that a machine has had

    async def enter(self, node: bytes, lease: float) -> None:
        await self._renew(node, lease, new=True)

    async def renew(self, node: bytes, lease: float) -> bool:
        return await self._renew(node, lease, new=False)

    async def _renew(self, node: bytes, lease: float, *, new: bool) -> bool:
        arguments = (node, _milliseconds(lease), b"1" if new else b"0", _KEPT)
        return bool(await self._call(self._scripts.renew, (LEASES, channels_key(node)), *arguments))

    async def announce(self, node: bytes, channels: Sequence[bytes]) -> None:
        await self._call(self._scripts.announce, (LEASES, channels_key(node)), node, _KEPT, *channels)

    async def retire(self, node: bytes, channels: Sequence[bytes]) -> None:
        key = channels_key(node)
        await self._ask(key, b"SREM", key, *channels)

    async def change(
        self, channel: bytes, node: bytes, joins: Sequence[bytes], leaves: Sequence[bytes], anonymous: int
    ) -> Changed:
        derived = _derived(channel)
        numbers = b"%d" % anonymous, b"%d" % len(joins)
        arguments = (derived, node, _KEPT, *numbers, *joins, *leaves)
        reply = await self._call(self._scripts.change, channel_keys(derived, node), *arguments)
        return Changed(*reply)

    async def audit(self, channel: bytes, node: bytes) -> Audit:
        keys = channel_keys(_derived(channel), node)
        return Audit(*await self._call(self._scripts.audit, keys, b"", node, _KEPT))

    async def read(self, channel: bytes, after: bytes, most: int) -> Page:
        start = b"(" + after if after else b"-"
        wanted = b"%d" % (most + 1 if most else 0)
        keys = channel_keys(_derived(channel), b"")[:4]
        total, anonymous, members = await self._call(self._scripts.read, keys, start, wanted)
        return Page(total, anonymous, members[:most], len(members) > most)

    async def lapsed(self, reaper: bytes, claim: float) -> list[bytes]:
        found: list[bytes] = await self._call(self._scripts.lapsed, (LEASES, CLAIM), reaper, _milliseconds(claim))
        return found

    async def channels(self, node: bytes) -> list[bytes]:
        key = channels_key(node)
        found: list[bytes] = await self._ask(key, b"SRANDMEMBER", key, b"%d" % CHANNELS)
        return found

    async def remove(self, channel: bytes, node: bytes) -> tuple[int, bool]:
        derived = _derived(channel)
        keys = channel_keys(derived, node)
        left, more = await self._call(self._scripts.remove, keys, derived, node, b"%d" % MOST_CHANGES)
        return left, more > 0

    async def forget(self, node: bytes) -> None:
        await self._call(self._scripts.forget, (LEASES, channels_key(node)), node)

    async def without_lease(self, nodes: Sequence[bytes]) -> list[bytes]:
        scores = await self._ask(LEASES, b"ZMSCORE", LEASES, *nodes) if nodes else []
        return [node for node, score in zip(nodes, scores, strict=True) if score is None]

    async def _call(self, script: Script, keys: Sequence[bytes], *arguments: bytes) -> Any:
        rest = (b"%d" % len(keys), *keys, *arguments)
        try:
            if script in self._known:
                try:
                    return await self._ask(keys[0], b"EVALSHA", script.digest, *rest)
                except BrokerRefused as error:
                    if "NOSCRIPT" not in str(error):
                        raise
            reply = await self._ask(keys[0], b"EVAL", script.text, *rest)
        except BrokerRefused as error:
            raise (BrokerRefused(f"{error}; {RIGHTS}") if _is_missing_right(str(error)) else error) from None
        self._known.add(script)
        return reply


def _derived(channel: bytes) -> bytes:
    derived = presence_channel(channel)
    if derived is None:
        raise ValueError(f"{channel.decode()} has no channel of joins and leaves")
    return derived


def _is_missing_right(text: str) -> bool:
    return "NOPERM" in text or "ACL failure" in text  # the second is said of a command of a script


def _milliseconds(seconds: float) -> bytes:
    return b"%d" % round(seconds * 1000)
