"""A blocking connection to one broker that publishes: what `realizehit.sync.Publisher` does at a Redis or Valkey."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import hiredis
import redis
import redis.exceptions as errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from realizehit.broker.history.scripts import NO_RUN_ID
from realizehit.broker.mode import mode_of, wrong_mode
from realizehit.broker.projections import OutcomeSums, ProjectionCounts, projections_of, with_projections
from realizehit.broker.publication import PUBLISHED, Outcome, Publication, published
from realizehit.broker.publish_script import PublishScript, added, combined, is_unknown_script, outcome_of
from realizehit.broker.resp import pack, pack_publish
from realizehit.broker.rules_reader import READ_RULES, READ_RUN_ID, RulesReader, run_id_of
from realizehit.broker.shapes.view import READ, RIGHTS, RegistryView
from realizehit.broker.url import Address
from realizehit.client.channels import Block
from realizehit.client.reconnect_rules import was_silent
from realizehit.common.backoff import Backoff
from realizehit.errors import BrokerError, BrokerRefused, BrokerUnavailable, BrokerUnclear

PIPELINE_MESSAGES: Final = 1024  # written before the replies are read, which fit into the socket's buffer

RULES_AGE: Final = 1.0  # seconds after which the rules of history are read again before something is published
UNREADABLE_AGE: Final = 60.0  # the same, if the broker does not allow to read them

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


class BrokerSender:
    """Publishes to one broker; each thread that publishes at the same time has a connection of its own, from one pool.

    Args:
        url: of the broker.
        timeout: seconds without progress until a publication fails.
        retries: how often connecting is tried again at most. A publication is not.
        wildcards: whether messages reach wildcard subscriptions too.
        window: seconds for which the broker remembers an idempotency key.

    Raises:
        SettingsError: the URL cannot be used.
    """

    def __init__(self, url: str, *, timeout: float, retries: int, wildcards: bool, window: float) -> None:
        self._window = window
        self._address = Address(url)
        self._rules = RulesReader(self._address)
        self._rules_due = 0.0  # by `time.monotonic`
        self._lock = threading.Lock()
        self._lines: WeakKeyDictionary[Any, _Line] = WeakKeyDictionary()
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

    def ping(self) -> None:
        """Check that the broker answers. See `Publisher.ping`."""
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
        """Disconnect. See `Publisher.close`."""
        self._closed = True
        self._pool.disconnect()

    def exchange(self, block: Block) -> Sequence[Outcome]:
        """Send a block and read what the broker answers; where the connection fails, the rest has that error."""
        outcomes: list[Outcome] = []
        sent = 0
        try:
            connection = self._connect()
            try:
                self._check_mode(connection)
                if self._view is not None and self._view.shapes is None:  # nothing is published before this is known
                    connection.send_packed_command([READ])
                    self._read_registry(connection, self._view)
                script = self._prepared(connection)
                for part in _parts(block, script):
                    sent += len(part)
                    if script.needed_for(part[0]):
                        outcomes += self._publish_scripted(connection, part, script)
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

    def _prepared(self, connection: Any) -> PublishScript:
        """Return the script for a connection, after the rules of history were read if those that are known are old."""
        now = time.monotonic()
        if now >= self._rules_due:
            reply = self._read_reply(connection, READ_RULES)
            with self._lock:
                self._rules.take(reply)
                self._rules_due = now + (RULES_AGE if self._rules.readable else UNREADABLE_AGE)
        line = self._line_of(connection)
        line.script.rules = self._rules.rules
        if line.script.rules and not line.has_run_id:
            line.script.run_id = run_id_of(self._read_reply(connection, READ_RUN_ID))
            line.has_run_id = True
        return line.script

    def _check_mode(self, connection: Any) -> None:
        """Refuse a machine of a cluster, before the first publication of a connection."""
        line = self._line_of(connection)
        if not line.has_mode:
            error = wrong_mode(mode_of(self._read_reply(connection, ("HELLO", "2"))), sharded=False)
            if error is not None:
                raise BrokerRefused(f"broker {self._address}: {error}")
            line.has_mode = True

    def _line_of(self, connection: Any) -> _Line:
        with self._lock:
            line = self._lines.get(connection)
            if line is None:
                line = self._lines[connection] = _Line(PublishScript(self._window, project=self._view is not None))
                connection.register_connect_callback(line.reconnected)  # it keeps only a weak reference
            return line

    def _read_reply(self, connection: Any, command: tuple[str, ...]) -> Any:
        """Send a command and return its reply, or the error that the broker answered; raise if it cannot be reached."""
        connection.send_packed_command([pack(command)])
        try:
            return connection.read_response()
        except _AWAY:
            raise
        except errors.NoPermissionError as error:
            return hiredis.ReplyError(f"NOPERM {error}")
        except errors.ResponseError as error:
            return hiredis.ReplyError(str(error))

    def _publish_scripted(self, connection: Any, part: Block, script: PublishScript) -> list[Outcome]:
        """Publish messages that need the script; again those of which the broker lacked the script."""
        view = self._view
        known = () if view is None else view.shapes or ()
        replies: list[Any] = [None] * len(part)
        projected: list[tuple[bytes, ...]] = [()] * len(part)
        left = list(range(len(part)))
        while left:
            done = [projected[place] for place in left]
            packed = script.pack([part[place] for place in left], known, self._projected, done)
            connection.send_packed_command([packed + (b"" if view is None else READ)])
            for place in left:
                reply = self._read_scripted(connection, part[place], script)
                replies[place] = combined(replies[place], reply) if part[place].key else reply
            shapes = () if view is None else self._read_registry(connection, view)
            new = tuple(shape for shape in shapes if shape not in known)
            known += new
            owed = [(place, found) for place in left if (found := projections_of(part[place], new))]
            if owed:
                connection.send_packed_command(
                    [
                        script.pack_again(part[place], known)
                        if part[place].key
                        else script.pack_projections(part[place], found)
                        for place, found in owed
                    ]
                )
                for place, _ in owed:
                    reply = self._read_scripted(connection, part[place], script)
                    if part[place].key:
                        replies[place] = combined(replies[place], reply)
                    else:
                        projected[place] += new
                        if not is_unknown_script(replies[place]):
                            replies[place] = added(replies[place], reply)
            left = [place for place in left if is_unknown_script(replies[place])]
            if left:
                script.loaded.clear()
        return [outcome_of(reply) or reply for reply in replies]

    def _read_scripted(
        self, connection: Any, publication: Publication, script: PublishScript
    ) -> int | list[Any] | hiredis.ReplyError | BrokerError:
        """Return the reply to the script, the error that it is unknown, or what another error means."""
        try:
            reply = connection.read_response()
        except errors.NoScriptError as error:
            return hiredis.ReplyError(f"NOSCRIPT {error}")
        except errors.NoPermissionError as error:
            return BrokerRefused(f"{self._translated(error)}; {script.rights_for(publication)}")
        except errors.ResponseError as error:
            return self._translated(error)
        if outcome_of(reply) is None:
            return BrokerRefused(f"the script answered {str(reply)[:100]}")
        return cast("int | list[Any]", reply)

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


class _Line:
    """What belongs to one connection.

    Attributes:
        script: knows whether the broker has had the script on it.
        has_run_id: whether the run id of the broker was read.
        has_mode: whether the broker was asked whether it belongs to a cluster.
    """

    def __init__(self, script: PublishScript) -> None:
        self.script = script
        self.has_run_id = False
        self.has_mode = False

    def reconnected(self, connection: Any) -> None:
        """Learn that the connection is a new one, perhaps to another process."""
        self.script.loaded.clear()
        self.has_run_id = self.has_mode = False
        self.script.run_id = NO_RUN_ID


def _parts(block: Block, script: PublishScript) -> Iterable[Block]:
    """Cut a block into parts for one pipeline each; all messages of a part need the script, or none does."""
    needs = list(map(script.needed_for, block))
    runs = [[one for _, one in run] for _, run in groupby(zip(needs, block, strict=True), itemgetter(0))]
    for run in runs if any(needs) else [block]:
        for start in range(0, len(run), PIPELINE_MESSAGES):
            yield run[start : start + PIPELINE_MESSAGES]
