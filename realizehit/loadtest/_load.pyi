"""Types of the load client; the docstrings are in ``_load.pyx``.

`Fleet.counts` holds these counts of connections: ``connections`` (handshake done), ``ready`` (all replies received),
``pending`` (planned, not ready yet), ``subscriptions`` (in force), ``failed`` (connecting failed), ``dropped`` (ended
by the server without a close frame), ``closed`` (with a close frame), ``protocol_errors``, ``refused`` (error replies),
``pings``, ``bytes_in``, ``reconnects`` and ``resubscribes`` (by `churn`).

Counts of received messages: ``deliveries`` (each counted once), ``expected`` (the sum, over the messages of this fleet,
of the subscriptions that were in force at the time of sending or were cut off by the server), ``lost`` (gaps, and
messages missed by subscriptions that were cut off), ``forgone`` (in flight when this side left a subscription: neither
delivered nor lost), ``duplicates``, ``reordered`` (arrived after a later one), ``unexpected`` (not subscribed to, or
labelled with a wrong id), ``foreign`` (texts without a stamp).

Counts of published messages: ``published``, ``acknowledged``, ``heard`` (the sum of servers that the broker reached;
not with batches), ``publish_errors``, ``outstanding``, ``abandoned`` (outstanding ones that are given up: lost or
unsubscribed at a subscriber, overtaken by later ones for 5 s, or all after 5 s without a delivery), ``late`` (sent more
than 10 ms after the scheduled time).

Latencies are lists of ``(index, count)`` over the buckets of an HdrHistogram of 3 significant figures from 1 us to
67 s: index ``i`` below 2,048 is ``i`` us; above, with ``b = (i >> 10) - 1``, it begins at ``(i % 1024 + 1024) << b`` us
and is ``1 << b`` us wide.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, final

HAVE_EPOLL: Final[bool]
STAMPED_MIN: Final[int]

TIME: Final[int]
READY: Final[int]
SENT: Final[int]
DELIVERED: Final[int]

@final
class Fleet:
    def __init__(
        self,
        address: tuple[str, int],
        channels: Sequence[tuple[bytes, bytes]],
        subscriptions: Sequence[Sequence[int]],
        *,
        path: str = ...,
        host: str | None = ...,
        headers: Iterable[tuple[str, str]] = ...,
        sources: Sequence[str] = ...,
        sent: Any = ...,
        stamped: bool = ...,
        max_pending: int = ...,
        kernel_times: bool = ...,
    ) -> None: ...
    def connect(
        self, rate: float = ..., first: int = ..., count: int | None = ..., max_pending: int | None = ...
    ) -> None: ...
    def disconnect(self, first: int = ..., count: int | None = ...) -> None: ...
    def churn(self, reconnects: float = ..., resubscribes: float = ...) -> None: ...
    def publish_over(self, fd: int) -> None: ...
    def publish_http(
        self,
        address: tuple[str, int],
        *,
        path: str = ...,
        host: str | None = ...,
        headers: Iterable[tuple[str, str]] = ...,
        batch: bool = ...,
        connections: int = ...,
        batch_max: int = ...,
    ) -> None: ...
    def schedule(
        self,
        *,
        rate: float = ...,
        outstanding: int = ...,
        messages: int = ...,
        payload_bytes: int = ...,
        channels: Iterable[int] | None = ...,
        start: float | None = ...,
        total: int = ...,
    ) -> None: ...
    def unschedule(self) -> None: ...
    def run(self, seconds: float, until: int = ..., deliveries: int = ...) -> bool: ...
    def missing(self) -> int: ...
    def give_up(self) -> int: ...
    def counts(self) -> dict[str, int]: ...
    @property
    def deliveries(self) -> int: ...
    def close_codes(self) -> dict[int, int]: ...
    def problems(self) -> list[tuple[str, int, int, int, int]]: ...
    def notes(self) -> list[str]: ...
    def take_latencies(self) -> list[tuple[int, int]]: ...
    def take_joins(self) -> list[tuple[int, int]]: ...
    def take_lags(self) -> list[tuple[int, int]]: ...
    def close(self) -> None: ...
