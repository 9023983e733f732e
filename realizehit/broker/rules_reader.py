"""What a publisher reads of history before it publishes: the rules, and the run id of the broker's process."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any, Final, Protocol

from realizehit.broker.history.rules import KEY, NO_RULES, Rules
from realizehit.broker.history.scripts import NO_RUN_ID
from realizehit.common.seldom import REMINDER, Seldom, more
from realizehit.errors import BrokerRefused

logger: Final = logging.getLogger(__name__)

READ_RULES: Final = ("GET", KEY)
READ_RUN_ID: Final = ("INFO", "server")

_RUN_ID: Final = re.compile(rb"run_id:([0-9a-f]{16})")
"""Half of it is enough to tell processes apart, and each log has it."""


class NamedBroker(Protocol):
    """A broker whose ``str`` is for people and holds no secret."""

    def scrub(self, text: str) -> str:
        """Return a text of the broker's without secrets."""


class RulesReader:
    """Takes the replies to `READ_RULES` and `READ_RUN_ID`.

    Args:
        broker: named in the log.
        on_rules: told the rules after each reply, if they changed or this is the first one.

    Attributes:
        rules: as they were read last; none where they cannot be read.
        readable: whether the broker allows to read them.
    """

    def __init__(self, broker: NamedBroker, on_rules: Callable[[Rules], None] = lambda rules: None) -> None:
        self.rules: Rules = NO_RULES
        self.readable = True
        self._broker = broker
        self._on_rules = on_rules
        self._told = False
        self._text: bytes | None = None
        self._seldom = Seldom(REMINDER)

    def take(self, reply: Any) -> Rules:
        """Take the reply to `READ_RULES`, which may be an error; return the rules.

        Rules that make no sense change nothing, nor does an error that may pass. Rules that may not be read are none.
        """
        self.readable = "NOPERM" not in str(reply) if isinstance(reply, Exception) else True
        if reply is None or isinstance(reply, bytes):
            self._take_text(reply)
        elif self.readable:
            self._warn("cannot be read", str(reply))
            self._change(self.rules, self._text)
        else:
            self._warn("cannot be read, and messages are published without history", str(reply))
            self._change(NO_RULES, None)
        return self.rules

    def _take_text(self, text: bytes | None) -> None:
        if text == self._text and self._told:
            return
        try:
            rules = Rules.from_json(text)
        except BrokerRefused as error:
            self._warn("are ignored", str(error))
            rules, text = self.rules, self._text
        self._change(rules, text)

    def _change(self, rules: Rules, text: bytes | None) -> None:
        if self._told and rules.version == self.rules.version:
            return
        self.rules, self._text, self._told = rules, text, True
        self._on_rules(rules)

    def _warn(self, what: str, reason: str) -> None:
        if (left_out := self._seldom.passes(what)) is not None:
            reason = self._broker.scrub(reason)[:200]
            logger.warning("broker %s: the rules of history %s: %s%s", self._broker, what, reason, more(left_out))


def run_id_of(reply: Any) -> bytes:
    """Return the run id from the reply to `READ_RUN_ID`, or `NO_RUN_ID` where the broker does not tell it."""
    text = reply.encode() if isinstance(reply, str) else reply
    found = _RUN_ID.search(text) if isinstance(text, bytes) else None
    return found[1] if found else NO_RUN_ID
