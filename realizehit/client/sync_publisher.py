"""Publish straight to the broker, for programs without an event loop."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from types import TracebackType
from typing import Any, Final, Self

import hiredis
import redis
import redis.exceptions as errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from realizehit.broker.idempotency import RIGHTS as KEYED_RIGHTS
from realizehit.broker.idempotency import WINDOW, KeyedCommands, combined, has_keys, is_unknown_script
from realizehit.broker.projections import OutcomeSums, ProjectionCounts, projections_of, with_projections
from realizehit.broker.publication import PUBLISHED, Outcome, published
from realizehit.broker.resp import pack_publish
from realizehit.broker.shapes.view import READ, RIGHTS, RegistryView
from realizehit.broker.url import Address
from realizehit.client.channels import Block, checked_window, encode_message, publish_in_blocks, result_of
from realizehit.client.messages import RETRIES, Message, PublishOutcome, PublishResult
from realizehit.client.publisher import DEFAULT_URL
from realizehit.client.reconnect_rules import was_silent
from realizehit.common.backoff import Backoff
from realizehit.errors import BrokerError, BrokerRefused, BrokerUnavailable, BrokerUnclear

PIPELINE_MESSAGES: Final = 1024  # written before the replies are read, which fit into the socket's buffer

_AWAY: Final = (
    errors.ConnectionError,
    errors.TimeoutError,
    errors.ReadOnlyError,
    errors.ClusterDownError,
    errors.MasterDownError,
    errors.TryAgainError,
    OSError,
)
_NO_ENTRY: Final = (errors.AuthenticationError, errors.AuthorizationError)


class Publisher:
    """Publish to a Redis or Valkey that realizehit servers use; see `realizehit.Publisher`.

    For example::

        with Publisher("redis://localhost:6379") as publisher:
            publisher.publish({"kind": "news", "channel": "CNN"}, {"title": "hello"})

    Each thread that publishes at the same time has a connection of its own, from one pool.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, with user and password, and of redis-py's options
            ``socket_connect_timeout``, ``socket_keepalive`` and those for TLS; others are refused.
        timeout: seconds without progress until a publication fails.
        retries: how often connecting is tried again at most. A publication is not.
        wildcards: whether messages reach wildcard subscriptions too; as `realizehit.Publisher`.
        idempotency_window: seconds for which the broker remembers an idempotency key.

    Raises:
        SettingsError: the URL or the window cannot be used.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = 5.0,
        retries: int = RETRIES,
        wildcards: bool = True,
        idempotency_window: float = WINDOW,
    ) -> None:
        self._keyed = KeyedCommands(checked_window(idempotency_window), project=wildcards)
        self._address = Address(url)
        self._retries = retries
        self._timeout = timeout
        self._closed = False
        self._view = RegistryView() if wildcards else None
        self._projected = ProjectionCounts()
        self._pool = redis.ConnectionPool.from_url(
            url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
        )
        # Publishing knows no databases, and the registry of shapes is in the first one.
        self._pool.connection_kwargs["db"] = 0

    def publish(self, pattern: Mapping[str, Any], payload: Any, *, idempotency_key: str | None = None) -> PublishResult:
        """Publish one message; arguments, result and errors as `realizehit.Publisher.publish`."""
        publication = encode_message(pattern, payload, idempotency_key)
        (outcome,) = self._exchange([publication])
        if isinstance(outcome, BrokerError):
            raise outcome
        return result_of(pattern, publication, outcome)

    def publish_many(self, messages: Iterable[Message]) -> list[PublishOutcome]:
        """Publish any number of messages in order, pipelined; as `realizehit.Publisher.publish_many`."""
        work = publish_in_blocks(messages)
        try:
            block = next(work)
            while True:
                block = work.send(self._exchange(block))
        except StopIteration as done:
            outcomes: list[PublishOutcome] = done.value
            return outcomes

    def ping(self) -> None:
        """Check that the broker answers.

        Raises:
            BrokerUnavailable: it does not.
            BrokerRefused: it refuses the login.
        """
        try:
            connection = self._connect()
            try:
                connection.send_command("PING")
                connection.read_response()
            finally:
                self._pool.release(connection)
        except errors.NoPermissionError:
            pass  # an answer all the same
        except (errors.RedisError, OSError) as error:
            raise self._translated(error) from None

    def close(self) -> None:
        """Disconnect; calling it again does nothing, publishing fails from here on."""
        self._closed = True
        self._pool.disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _exchange(self, block: Block) -> Sequence[Outcome]:
        """Send a block and read what the broker answers; where the connection fails, the rest has that error."""
        outcomes: list[Outcome] = []
        sent = 0
        try:
            connection = self._connect()
            try:
                if self._view is not None and self._view.shapes is None:  # nothing is published before this is known
                    connection.send_packed_command([READ])
                    self._read_registry(connection, self._view)
                for part in _parts(block):
                    sent += len(part)
                    if part[0].key:
                        outcomes += self._publish_keyed(connection, part)
                    elif self._view is None:
                        connection.send_packed_command([pack_publish(part)])
                        self._read(connection, len(part), outcomes)
                    else:
                        outcomes += self._publish_projected(connection, part, self._view)
            except BaseException:
                connection.disconnect()  # replies that were not read would answer the next command
                raise
            finally:
                self._pool.release(connection)
        except (errors.RedisError, OSError, BrokerError) as error:
            failure = error if isinstance(error, BrokerError) else self._translated(error)
            if isinstance(failure, BrokerUnavailable) and sent > len(outcomes):
                unclear = BrokerUnclear(f"{failure}; it may have taken the message")
                outcomes += [unclear] * (sent - len(outcomes))
            outcomes += [failure] * (len(block) - len(outcomes))
        return outcomes

    def _publish_projected(self, connection: Any, part: Block, view: RegistryView) -> list[Outcome]:
        """Publish messages with their projections, then the projections by shapes that were new meanwhile."""
        known = view.shapes
        if known:
            items, places = with_projections(part, known, self._projected)
            connection.send_packed_command([pack_publish(items) + READ])
            sums = OutcomeSums([published(0)] * len(part))
            for place, outcome in zip(places, self._read(connection, len(places), []), strict=True):
                sums.add(place, outcome)
        else:
            connection.send_packed_command([pack_publish(part) + READ])
            sums = OutcomeSums(self._read(connection, len(part), []))
        shapes = self._read_registry(connection, view)
        if shapes is not known:
            new = tuple(shape for shape in shapes if shape not in (known or ()))
            owed = [(place, projection) for place, one in enumerate(part) for projection in projections_of(one, new)]
            if owed:
                connection.send_packed_command([pack_publish(projection for _, projection in owed)])
                for (place, _), outcome in zip(owed, self._read(connection, len(owed), []), strict=True):
                    sums.add(place, outcome)
        return sums.outcomes

    def _publish_keyed(self, connection: Any, part: Block) -> list[Outcome]:
        """Publish messages with idempotency keys; again those of which the broker lacked the script."""
        view, commands = self._view, self._keyed
        known = () if view is None else view.shapes or ()
        replies: list[Any] = [None] * len(part)
        left = list(range(len(part)))
        while left:
            packed = commands.pack([part[place] for place in left], known, self._projected)
            connection.send_packed_command([packed + (b"" if view is None else READ)])
            for place in left:
                replies[place] = combined(replies[place], self._read_keyed(connection))
            shapes = () if view is None else self._read_registry(connection, view)
            new = tuple(shape for shape in shapes if shape not in known)
            known += new
            owed = [place for place in left if projections_of(part[place], new)]
            if owed:
                packed = b"".join(commands.pack_again(part[place], known) for place in owed)
                connection.send_packed_command([packed])
                for place in owed:
                    replies[place] = combined(replies[place], self._read_keyed(connection))
            left = [place for place in left if is_unknown_script(replies[place])]
            commands.loaded = not left
        return [published(reply) if type(reply) is int else reply for reply in replies]

    def _read_keyed(self, connection: Any) -> int | hiredis.ReplyError | BrokerError:
        """Return the reply to the script: a number, the error that it is unknown, or what another error means."""
        try:
            reply = connection.read_response()
        except errors.NoScriptError as error:
            return hiredis.ReplyError(f"NOSCRIPT {error}")
        except errors.NoPermissionError as error:
            return BrokerRefused(f"{self._translated(error)}; {KEYED_RIGHTS}")
        except errors.ResponseError as error:
            return self._translated(error)
        return reply if type(reply) is int else BrokerRefused(f"the script answered {str(reply)[:100]}")

    def _read_registry(self, connection: Any, view: RegistryView) -> tuple[bytes, ...]:
        try:
            reply = connection.read_response()
        except errors.NoPermissionError as error:
            raise BrokerRefused(f"{self._translated(error)}; {RIGHTS}") from None
        if not isinstance(reply, list):
            raise BrokerRefused(f"broker {self._address}: ZRANGE answered {str(reply)[:100]}")
        return view.take(reply)

    def _connect(self) -> Any:
        """Take a connection that stands. Only this is tried again: it publishes nothing."""
        if self._closed:
            raise BrokerUnavailable(f"broker {self._address}: this side is closed")
        backoff = Backoff(0.1, 2.0)
        left = self._retries
        while True:
            began = time.monotonic()
            try:
                return self._pool.get_connection()
            except (errors.RedisError, OSError) as error:
                failure = self._translated(error)
                if not left or isinstance(failure, BrokerRefused) or was_silent(began, self._timeout):
                    raise failure from None
            left -= 1
            time.sleep(backoff.next())

    def _read(self, connection: Any, count: int, outcomes: list[Outcome]) -> list[Outcome]:
        """Append the outcomes of so many PUBLISH commands; where the connection fails, those before count."""
        read = connection.read_response
        for _ in range(count):
            try:
                reply = read()
            except errors.ResponseError as error:
                outcomes.append(self._translated(error))
                continue
            outcome = PUBLISHED.get(reply) if type(reply) is int else None
            outcomes.append(outcome or self._unusual(reply))
        return outcomes

    def _unusual(self, reply: Any) -> Outcome:
        return published(reply) if type(reply) is int else BrokerRefused(f"PUBLISH answered {str(reply)[:100]}")

    def _translated(self, error: Exception) -> BrokerError:
        text = self._address.scrub(str(error) or type(error).__name__)
        if isinstance(error, _AWAY) and not isinstance(error, _NO_ENTRY):
            return BrokerUnavailable(f"broker {self._address}: {text}")
        return BrokerRefused(f"broker {self._address} refused: {text}")


def _parts(block: Block) -> Iterable[Block]:
    """Cut a block into parts for one pipeline each; all messages of a part have idempotency keys, or none has."""
    runs = (
        [list(run) for _, run in groupby(block, lambda publication: bool(publication.key))]
        if has_keys(block)
        else [block]
    )
    for run in runs:
        for start in range(0, len(run), PIPELINE_MESSAGES):
            yield run[start : start + PIPELINE_MESSAGES]
