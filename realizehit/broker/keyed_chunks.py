"""Chunks of publications with idempotency keys, which are sent again if the broker has lost the script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import hiredis

from realizehit.broker.chunks import Chunk, Settled
from realizehit.broker.idempotency import RIGHTS, KeyedCommands, combined, is_unknown_script
from realizehit.broker.publication import Outcome, Publication
from realizehit.broker.publish_errors import PublishErrors
from realizehit.broker.resp import code_of


class KeyedChunk(Chunk):
    """Publications with idempotency keys that are answered together.

    Args:
        publications: what to publish.
        size: bytes of their payloads.
        commands: packs them.
        send_again: takes a chunk that is to be sent before anything that waits.

    Attributes:
        commands: packs them.
        known: replies from before it was sent again; empty for a chunk that is sent for the first time.
    """

    __slots__ = ("_send_again", "commands", "known")

    def __init__(
        self,
        publications: Sequence[Publication],
        size: int,
        commands: KeyedCommands,
        send_again: Callable[[KeyedChunk], None],
    ) -> None:
        super().__init__(publications, size)
        self.commands = commands
        self.known: list[Any] = []
        self._send_again = send_again

    def pack(self) -> bytes:
        """Return its commands as bytes."""
        return self.commands.pack(self.publications)

    def finish(self, errors: PublishErrors) -> None:
        """Report the outcomes, unless the broker lacked the script: then send it again, together with the script.

        The whole chunk is sent again. What was published is not published twice, as that is what the script is for.
        """
        if self.known:
            self.replies = list(map(combined, self.known, self.replies))
        if not any(map(is_unknown_script, self.replies)):
            super().finish(errors)
            return
        self.commands.loaded = False
        again = KeyedChunk(self.publications, self.size, self.commands, self._send_again)
        again.known = self.replies
        again.deadline = self.deadline
        again.done, self.done = self.done, Settled()
        self._send_again(again)

    def _outcome(self, reply: Any, errors: PublishErrors) -> Outcome:
        outcome = super()._outcome(reply, errors)
        if isinstance(reply, hiredis.ReplyError) and code_of(str(reply)) == "NOPERM":
            return errors.refused(f"{reply}; {RIGHTS}")
        return outcome
