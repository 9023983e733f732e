"""How the scripts are called that publish with an idempotency key or into a log, and what their replies mean.

There is one script for keys alone (`realizehit.broker.idempotency`), which costs less, and one that also writes logs
(`realizehit.broker.history.scripts`). Both read the same keys, so rules may change at any time.

A script publishes a message and its projections. With an idempotency key it remembers both for the window: when the
same publication comes again within the window, it publishes only the projections that are not remembered. So such a
publication may be sent again at any time: after a lost connection, and for a new shape. While a bridge runs
(`realizehit.broker.shapes.bridge`), it publishes the projections. The script remembers that too, so that a repetition
after the end of the bridge does not publish them a second time.

A channel under a rule of history has a log, see `realizehit.broker.history.scripts`. A publication without a key is not
remembered, so it may be sent again only if the broker did not have the script: then nothing was done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import hiredis

from realizehit.broker.history.epochs import new_epoch
from realizehit.broker.history.rules import NO_RULES, Rule, Rules
from realizehit.broker.history.scripts import NO_RUN_ID, PUBLISH, PUBLISH_SHARDED, SHAPES_KEY, log_key
from realizehit.broker.history.scripts import RIGHTS as LOG_RIGHTS
from realizehit.broker.idempotency import REGISTRY, SCRIPT, SCRIPT_SHARDED, key_name
from realizehit.broker.idempotency import RIGHTS as KEY_RIGHTS
from realizehit.broker.projections import ProjectionCounts, projections_of
from realizehit.broker.publication import Publication, Published, published
from realizehit.broker.resp import code_of, pack, pack_publish, pack_spublish
from realizehit.common.durations import Durations
from realizehit.pattern import is_wildcard, shape_of

_SHA: Final = {
    script: hashlib.sha1(script, usedforsecurity=False).hexdigest().encode()  # the broker's name for it
    for script in (SCRIPT, PUBLISH, SCRIPT_SHARDED, PUBLISH_SHARDED)
}

_APPEND_HEAD: Final = b"*12\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n1\r\n"
_APPEND: Final = (
    b"$%d\r\n%b\r\n$1\r\n0\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"  # log; window, channel, payload
    b"$8\r\n%b\r\n$%d\r\n%b\r\n$1\r\n-\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"  # epoch, run id, mode, size, time to live
)


def is_unknown_script(reply: object) -> bool:
    """Whether a reply says that the broker does not have the script, so that nothing was done."""
    return isinstance(reply, hiredis.ReplyError) and code_of(str(reply)) == "NOSCRIPT"


def outcome_of(reply: Any) -> Published | None:
    """Return what a reply of the script says, or None if it is neither a number nor a number and a position.

    The number is that of the nodes, ``-1 - nodes`` for a duplicate.
    """
    if type(reply) is int:
        return published(reply)
    if type(reply) is list and len(reply) == 2 and type(reply[0]) is int and type(reply[1]) is bytes:
        nodes, at = reply
        return Published(nodes if nodes >= 0 else -1 - nodes, nodes < 0, at.decode("ascii", "replace"))
    return None


def combined(first: Any, again: Any) -> Any:
    """Return what two replies for one publication with a key say together: the nodes of the later one, and its error.

    A publication is a duplicate if the first reply says so: the later one knows it from that call.
    """
    if first is None or is_unknown_script(first):
        return again
    count, at = _count_and_position(first)
    if count is None:
        return first
    nodes, _ = _count_and_position(again)
    if nodes is None:
        return again
    nodes = nodes if nodes >= 0 else -1 - nodes
    count = nodes if count >= 0 else -1 - nodes
    return [count, at] if at else count


def added(first: Any, later: Any) -> Any:
    """Return what two replies for one publication without a key say together: the sum of nodes, or the first error.

    Args:
        first: about the publication itself.
        later: about further projections of it.
    """
    count, at = _count_and_position(first)
    more, _ = _count_and_position(later)
    if count is None:
        return first
    if more is None:
        return later
    return [count + more, at] if at else count + more


def _milliseconds(seconds: float) -> bytes:
    return b"%d" % max(1, round(seconds * 1000))


def _count_and_position(reply: Any) -> tuple[int | None, bytes]:
    if type(reply) is int:
        return reply, b""
    return (reply[0], reply[1]) if outcome_of(reply) else (None, b"")


class PublishScript:
    """Packs the calls of the scripts for one publisher.

    Args:
        window: seconds for which an idempotency key is remembered.
        project: whether projections are published here, so that the script has to know of a bridge.
        registrations: for a cluster, where a projection is a publication of its own: the registration of each shape.

    Attributes:
        loaded: the scripts that were sent on this connection; the first call of another one brings it along.
        rules: which channels have a log.
        run_id: of the broker at this connection.
        pack_plain: returns the commands for publications that need no script.
        durations: from sending a chunk of publications to its last reply.
    """

    def __init__(self, window: float, *, project: bool, registrations: Mapping[bytes, bytes] | None = None) -> None:
        self.loaded: set[bytes] = set()
        self.rules: Rules = NO_RULES
        self.run_id = NO_RUN_ID
        self.durations = Durations()
        self._window = _milliseconds(window)
        self._registry = (REGISTRY.encode(),) if project else ()
        self.registrations = registrations
        sharded = registrations is not None
        self._script, self._log_script = (SCRIPT_SHARDED, PUBLISH_SHARDED) if sharded else (SCRIPT, PUBLISH)
        self._append_format = _APPEND_HEAD % _SHA[self._log_script] + _APPEND
        self.pack_plain: Callable[[Sequence[Publication]], bytes] = pack_spublish if sharded else pack_publish

    def has_log(self, channel: bytes) -> bool:
        """Whether a channel is under a rule."""
        return self.rules.rule_of(channel) is not None

    def needed_for(self, publication: Publication) -> bool:
        """Whether a publication needs the script: it has a key or a log.

        A channel has a log if one of its projections has: a rule that contains the wildcard contains all that matches.
        """
        return bool(publication.key) or self.rules.rule_of(publication.channel) is not None

    def pack(
        self,
        publications: Sequence[Publication],
        shapes: tuple[bytes, ...] = (),
        counts: ProjectionCounts | None = None,
        done: Sequence[tuple[bytes, ...]] = (),
    ) -> bytes:
        """Return one command for each publication, which publishes also its projections.

        Args:
            publications: in order.
            shapes: those to project by.
            counts: counts the projections.
            done: for each publication the shapes by which it was projected before; empty if there are none.
        """
        parts: list[bytes] = []
        for place, publication in enumerate(publications):
            by = shapes
            if done and done[place]:
                by = tuple(shape for shape in shapes if shape not in done[place])
            projections = projections_of(publication, by) if by else ()
            if projections and counts is not None:
                counts.add(projections)
            if projections or publication.key:
                parts.append(self._call(publication, projections))
            elif (rule := self.rules.rule_of(publication.channel)) is None:
                parts.append(self.pack_plain((publication,)))
            elif self._log_script in self.loaded and (
                self.registrations is None or not is_wildcard(publication.channel)
            ):
                parts.append(self._append(publication, rule))
            else:
                parts.append(self._call(publication, projections))
        return b"".join(parts)

    def pack_again(self, publication: Publication, shapes: tuple[bytes, ...]) -> bytes:
        """Return a call for a publication with a key that was sent, so that it has projections by further shapes.

        Args:
            publication: the message.
            shapes: all, also those of the first call, which the broker may not have carried out for lack of the script.
        """
        return self._call(publication, projections_of(publication, shapes), bring=True)

    def pack_projections(
        self, publication: Publication, projections: Sequence[Publication], *, bring: bool = True
    ) -> bytes:
        """Return a call that publishes only projections of a publication.

        Args:
            publication: the message.
            projections: of it.
            bring: whether the call brings the script along, so that the broker cannot lack it.
        """
        return self._call(publication, projections, bring=bring, alone=True)

    def _call(
        self, publication: Publication, projections: Sequence[Publication], *, bring: bool = False, alone: bool = False
    ) -> bytes:
        keys: list[bytes] = []
        window, mode = b"0", b"l" if alone else b"-"
        if publication.key and not alone:
            window = self._window
            keys.append(key_name(publication))
            if self._registry:
                mode = b"r"
                keys += self._registry
        others = len(keys)
        items: list[bytes] = []
        items += (b"0", b"0") if alone else self._log_of(publication.channel, keys)
        own = len(keys)
        for projection in projections:
            items += (projection.channel, *self._log_of(projection.channel, keys))
        if len(keys) > own:
            keys.append(SHAPES_KEY.encode())
        message: tuple[bytes, ...]
        if len(keys) == others and publication.key and not alone:
            script, message = self._script, (window, publication.channel, publication.payload)
            items = items[2::3]
        else:
            epoch = new_epoch() if len(keys) > others else b"-"
            if self.registrations is not None:
                mode = self.registration_of(publication.channel)
            script, message = (
                self._log_script,
                (window, publication.channel, publication.payload, epoch, self.run_id, mode),
            )
        command = (b"EVALSHA", _SHA[script]) if script in self.loaded and not bring else (b"EVAL", script)
        self.loaded.add(script)
        return pack((*command, b"%d" % len(keys), *keys, *message, *items))

    def _append(self, publication: Publication, rule: Rule) -> bytes:
        """Return what `_call` returns for a publication without a key and without projections, not for a projection.

        Cost: one formatting, a third of what `_call` takes.
        """
        key, channel, payload = log_key(publication.channel), publication.channel, publication.payload
        run_id, size, ttl = self.run_id, b"%d" % rule.size, _milliseconds(rule.ttl)
        return self._append_format % (
            len(key), key, len(channel), channel, len(payload), payload, new_epoch(), len(run_id), run_id,
            len(size), size, len(ttl), ttl,
        )  # fmt: skip

    def _log_of(self, channel: bytes, keys: list[bytes]) -> tuple[bytes, bytes]:
        """Return size and time to live of a channel's log, and add its key; zeros if it has none."""
        rule = self.rules.rule_of(channel)
        if rule is None:
            return b"0", b"0"
        keys.append(log_key(channel))
        return b"%d" % rule.size, _milliseconds(rule.ttl)

    def registration_of(self, channel: bytes) -> bytes:
        """Return the registration of a wildcard's shape in a cluster, ``-`` for other channels.

        Without a known one it is 0, which never is newer than that of a log.
        """
        if self.registrations is None or not is_wildcard(channel):
            return b"-"
        return self.registrations.get(shape_of(channel), b"0")

    def rights_for(self, publication: Publication) -> str:
        """Return which rights the broker's user needs for a publication that needs the script."""
        texts = ([KEY_RIGHTS] if publication.key else []) + ([LOG_RIGHTS] if self.has_log(publication.channel) else [])
        return "; ".join(texts)
