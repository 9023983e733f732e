"""A broker that sentinels look after: its address is whatever they name as the master at the moment."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode

from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from realizehit.broker.hosts import hosts_of
from realizehit.broker.url import Address, redacted
from realizehit.common.seldom import LOG_INTERVAL, Seldom, more
from realizehit.errors import BrokerUnavailable, SettingsError

logger: Final = logging.getLogger(__name__)

SCHEMES: Final = ("redis+sentinel", "rediss+sentinel")
PORT: Final = 26379  # of a sentinel whose address has none

ASK_TIMEOUT: Final = 0.5  # seconds for a sentinel to answer
WATCH_INTERVAL: Final = 0.5  # seconds between two questions while everything is fine

GOSSIP_DELAY: Final = 5.0  # seconds within which a sentinel's failover is known to the others; it tells them every two

FORGET_AFTER: Final = 2 * GOSSIP_DELAY  # seconds after which a failover that no sentinel knows any more is forgotten

_DOWN: Final = frozenset({"s_down", "o_down", "disconnected"})
_MOVING: Final = "failover_in_progress"


class _Opinion(NamedTuple):
    """What one sentinel says of the master."""

    place: tuple[str, int]
    epoch: int  # of the latest failover that it knows of
    flags: frozenset[str]


class SentinelAddress(Address):
    """A broker named by its sentinels: ``redis+sentinel://user:password@s1:26379,s2:26379,s3:26379/mymaster/0``.

    User and password, the database and the options are the broker's own; ``sentinel_username`` and
    ``sentinel_password`` among the options are for the sentinels. With ``rediss+sentinel://`` all of them speak TLS.

    Raises:
        SettingsError: the URL cannot be used; the text names what is wrong and never a password.
    """

    def __init__(self, url: str) -> None:
        shown = redacted(url)
        scheme, _, rest = url.partition("://")
        rest, _, query = rest.partition("?")
        login, at, rest = rest.rpartition("@")
        hosts, _, path = rest.partition("/")
        name, _, database = path.partition("/")
        if not name:
            raise SettingsError(f"broker URL {shown}: the master's name is missing; use {scheme}://host:port/name")
        if not database.isdecimal() and database:
            raise SettingsError(f"broker URL {shown}: the database {database[:20]!r} is not a number")
        options = dict(parse_qsl(query, keep_blank_values=True))
        sentinel_login = {
            key: value for key in ("username", "password") if (value := options.pop(f"sentinel_{key}", None))
        }
        self._secret = sentinel_login.get("password")
        # Its host is not used: `connect` asks the sentinels.
        inner = f"{scheme.partition('+')[0]}://{login}{at}sentinels/{database}"
        super().__init__(inner + (f"?{urlencode(options)}" if options else ""), shown=shown)
        self.name: Final = unquote(name)
        self._confirmed: dict[str, float] = {}  # an entry for each master there was
        self._epoch = 0  # of the latest failover that a sentinel has told of
        self._epoch_told = -math.inf  # when one told of it last
        self._seldom = Seldom(LOG_INTERVAL)
        self._odd: set[Redis] = set()  # sentinels whose last answer made no sense
        places = hosts_of(hosts, shown, port=PORT, of="a sentinel")
        self._sentinels = [self._client(host, port, sentinel_login) for host, port in places]

    def _client(self, host: str, port: int, login: dict[str, str]) -> Redis:
        options: dict[str, Any] = {key: value for key, value in self._options.items() if key.startswith("ssl_")}
        if isinstance(self._template, SSLConnection):
            options["connection_class"] = SSLConnection
        options.update(login)
        return Redis.from_pool(
            ConnectionPool(
                host=host,
                port=port,
                protocol=2,
                decode_responses=True,
                socket_timeout=ASK_TIMEOUT,
                socket_connect_timeout=ASK_TIMEOUT,
                retry=Retry(NoBackoff(), 0),
                **options,
            )
        )

    def scrub(self, text: str) -> str:
        """Return a text without secrets; see `Address.scrub`."""
        text = super().scrub(text)
        return text.replace(self._secret, "***") if self._secret else text

    async def connect(self, factory: Callable[[], asyncio.Protocol]) -> str:
        """Open one connection to the master of the moment; see `Address.connect`."""
        place = await self.master()
        if place is None:
            raise BrokerUnavailable(f"no sentinel knows a master {self.name!r} that is up")
        host, port = place
        await self._dial(asyncio.get_running_loop().create_connection(factory, host, port, ssl=self._tls))
        return _text(place)

    async def current(self) -> str:
        """Return where the master is, as `connect` does; empty where no sentinel knows."""
        place = await self.master()
        return "" if place is None else _text(place)

    def confirmed(self, place: str) -> float:
        """Return until when a place was the master, and no other one made; see `Address.confirmed`.

        During a failover the old master may be alive and answer, and publishers may know the new one before this
        process does. So only an answer in which no sentinel reports a failover counts, as of the time of the question.
        """
        return self._confirmed.get(place, -math.inf)

    async def master(self) -> tuple[str, int] | None:
        """Ask all sentinels, and take the answer of the one that knows of the latest failover.

        A sentinel that was cut off from the others may name a master that was replaced long ago. So while those that
        told of a later failover do not answer, the others are not believed for `FORGET_AFTER`.
        """
        asked = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*(self._ask(sentinel) for sentinel in self._sentinels))
        known = [answer for answer in answers if answer is not None]
        if not known:
            return None
        latest = max(known, key=lambda answer: answer.epoch)
        if latest.epoch < self._epoch and len(known) < len(answers) and asked - self._epoch_told < FORGET_AFTER:
            return None
        self._epoch, self._epoch_told = latest.epoch, asked
        if _DOWN & latest.flags:
            return None
        if 2 * len(known) > len(answers) and all(_MOVING not in answer.flags for answer in known):
            # A sentinel that did not answer may have begun a failover, and told the others but not this process.
            certain = asked if len(known) == len(answers) else asked - GOSSIP_DELAY
            place = _text(latest.place)
            self._confirmed[place] = max(certain, self.confirmed(place))
        return latest.place

    async def _ask(self, sentinel: Redis) -> _Opinion | None:
        try:
            answer: Any = await sentinel.execute_command("SENTINEL", "MASTER", self.name)  # type: ignore[no-untyped-call]
            opinion = _read(answer)
        except (RedisError, OSError):  # TimeoutError is an OSError
            return None
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            if sentinel not in self._odd:
                self._odd.add(sentinel)
                left_out = self._seldom.passes(str(self._sentinels.index(sentinel)))
                if left_out is not None:
                    text = "broker %s: a sentinel's answer makes no sense, and is not counted: %r%s"
                    logger.warning(text, self, error, more(left_out))
            return None
        self._odd.discard(sentinel)
        return opinion

    async def close(self) -> None:
        """End the connections to the sentinels."""
        for sentinel in self._sentinels:
            await sentinel.aclose()


def _read(answer: Any) -> _Opinion:
    """Read the reply to ``SENTINEL MASTER``, names and values in turn.

    Raises:
        TypeError, ValueError, KeyError, AttributeError: it is not a valid reply.
    """
    fields = dict(zip(answer[::2], answer[1::2], strict=True))
    place = str(fields["ip"]), int(fields["port"])
    return _Opinion(place, int(fields.get("config-epoch", 0)), frozenset(fields.get("flags", "").split(",")))


def _text(place: tuple[str, int]) -> str:
    return f"{place[0]}:{place[1]}"
