"""The part of a publisher's connection that follows the rules of history.

The rules are read before anything is published, and again after news on the control channel. Where they cannot be read,
messages are published without logs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis

from realizehit.broker.history.rules import Rules
from realizehit.broker.history.scripts import NO_RUN_ID
from realizehit.broker.mode import mode_of, wrong_mode
from realizehit.broker.publish_errors import NamedBroker, PublishErrors
from realizehit.broker.publish_script import PublishScript
from realizehit.broker.resp import CommandConnection, pack
from realizehit.broker.rules_reader import READ_RULES, READ_RUN_ID, RulesReader, run_id_of
from realizehit.broker.shapes.expected import Reply
from realizehit.broker.shapes.registry import CONTROL
from realizehit.errors import BrokerError, BrokerRefused, BrokerUnavailable


class RulesFollower:
    """Keeps the rules of a `PublishScript`, and the run id of the broker, up to date.

    Args:
        broker: named in the log.
        script: gets both.
        errors: builds the errors.
        expected: the replies that the connection awaits; what is asked here is appended.
        on_rules: told the rules for the first time and after each change.
    """

    def __init__(
        self,
        broker: NamedBroker,
        script: PublishScript,
        errors: PublishErrors,
        expected: deque[Any],
        on_rules: Callable[[Rules], None],
    ) -> None:
        self._broker = broker
        self._reader = RulesReader(broker, on_rules)
        self._script = script
        self._errors = errors
        self._expected = expected
        self._asked_run_id = False
        self._subscribed: asyncio.Future[Any] | None = None

    def begin(self) -> None:
        """Learn that there is a new connection."""
        self._script.run_id = NO_RUN_ID
        self._asked_run_id = False
        self._subscribed = None

    async def follow_alone(self, connection: CommandConnection) -> BrokerError | None:
        """Follow the rules on a connection that follows no shapes.

        The broker may refuse each step; then the rules are only read from time to time, or there are none.
        """
        greeting = await self._ask(connection, ("HELLO", "3"))
        if (error := wrong_mode(mode_of(greeting), sharded=False)) is not None:
            return BrokerRefused(f"broker {self._broker}: {error}")
        if not isinstance(greeting, hiredis.ReplyError):
            # A push confirms it; only its error is a reply.
            self._subscribed = connection.loop.create_future()
            await self._ask(connection, ("SUBSCRIBE", CONTROL), self._subscribed)
        return self.take_first(await self._ask(connection, READ_RULES))

    def confirmed(self) -> None:
        """Take the push that confirms the subscription to the control channel."""
        if self._subscribed is not None and not self._subscribed.done():
            self._expected.popleft()  # its error does not come
            self._subscribed.set_result(None)

    def take_first(self, reply: Any) -> BrokerError | None:
        """Take the first reply of a connection to `READ_RULES`; return the error if the broker does not serve now."""
        if isinstance(reply, hiredis.ReplyError):
            error = self._errors.of_reply(str(reply))
            if isinstance(error, BrokerUnavailable):
                return error
        self._take(reply)
        return None

    async def read_run_id(self, connection: CommandConnection) -> None:
        """Read the run id if there are rules."""
        if self._reader.rules:
            self._asked_run_id = True
            self._script.run_id = run_id_of(await self._ask(connection, READ_RUN_ID))

    def read_now_and_then(self, connection: CommandConnection) -> None:
        """Read the rules again, unless the broker refused that."""
        if self._reader.readable:
            self.read(connection)

    def read(self, connection: CommandConnection) -> None:
        """Read the rules again, and the run id if it was not needed so far."""

        def has_run_id(reply: Any) -> None:
            self._script.run_id = run_id_of(reply)

        def has_rules(reply: Any) -> None:
            self._take(reply)
            if self._reader.rules and not self._asked_run_id:
                self._asked_run_id = True
                self._expected.append(Reply(has_run_id))
                connection.write(pack(READ_RUN_ID))

        self._expected.append(Reply(has_rules))
        connection.write(pack(READ_RULES))

    def _take(self, reply: Any) -> None:
        self._script.rules = self._reader.take(reply)

    async def _ask(
        self,
        connection: CommandConnection,
        command: tuple[bytes | str, ...],
        answer: asyncio.Future[Any] | None = None,
    ) -> Any:
        """Send a command on a connection that is being prepared, and return its reply."""
        reply = connection.loop.create_future() if answer is None else answer

        def answered(value: Any) -> None:
            if not reply.done():
                reply.set_result(value)

        self._expected.append(Reply(answered))
        connection.write(pack(command))
        await asyncio.wait({reply, connection.closed}, return_when=asyncio.FIRST_COMPLETED)
        if not reply.done():
            raise BrokerUnavailable(connection.closed.result())
        return reply.result()
