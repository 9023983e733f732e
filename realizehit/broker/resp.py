"""The broker's protocol (RESP2): commands as bytes, what error replies mean, and a connection for replies in order.

Used by everything that publishes; subscribing has a connection of its own, since messages are replies to nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, cast

import hiredis

from realizehit.broker.publication import Publication
from realizehit.errors import BrokerRefused, BrokerUnavailable

PING: Final = b"*1\r\n$4\r\nPING\r\n"

TRANSIENT: Final = frozenset({"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "NOREPLICAS"})
"""Codes of error replies that go away by themselves."""

MOVING: Final = frozenset({"MOVED", "ASK"})
"""Codes of error replies of a cluster whose slots are elsewhere, or on the way."""

LOGIN_NEEDED: Final = frozenset({"NOAUTH", "WRONGPASS", "DENIED"})
"""Codes of error replies that ask for another login."""

LOST: Final = b"lost"
"""What a relay says to its workers, unasked, when the broker is gone: ``[lost, seconds]``, the seconds being those for
which it has not been certain of the broker. It keeps what they subscribed to."""

BACK: Final = b"back"
"""What it says when all of that is in force again: ``[back]``, or ``[back, channel, ...]`` for some channels."""

REFUSED: Final = b"refused"
"""What it says before, of each channel that the broker does not allow any more: ``[refused, channel, text]``."""

_NO_MORE: Final = object()  # what the reader says when no whole reply is left

pack: Final[Callable[[tuple[bytes | str, ...]], bytes]] = cast("Any", hiredis.pack_command)  # its stub says one word


def pack_spublish(publications: Iterable[Publication]) -> bytes:
    """Return the SPUBLISH commands of some publications, for a cluster. See `pack_publish`."""
    return b"".join(
        [
            b"*3\r\n$8\r\nSPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
            % (len(publication.channel), publication.channel, len(publication.payload), publication.payload)
            for publication in publications
        ]
    )


def pack_publish(publications: Iterable[Publication]) -> bytes:
    """Return the PUBLISH commands of some publications, one behind the other.

    Cost: one formatting for each, a quarter of what hiredis' own packing takes, and one join.
    """
    return b"".join(
        [
            b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
            % (len(publication.channel), publication.channel, len(publication.payload), publication.payload)
            for publication in publications
        ]
    )


def code_of(text: str) -> str:
    """Return the code that an error reply opens with, such as ``NOPERM``."""
    return text.partition(" ")[0]


def login_error(text: str, *, about_password: bool) -> BrokerRefused | BrokerUnavailable:
    """Tell a login that can never work from one that was refused for now.

    Args:
        text: the broker's error reply.
        about_password: whether it answers AUTH.
    """
    code = code_of(text)
    hopeless = code in LOGIN_NEEDED or (about_password and code not in TRANSIENT and "max number" not in text)
    return BrokerRefused(text) if hopeless else BrokerUnavailable(text)


class Owner(Protocol):
    """What a connection reports to. None of these may raise."""

    def replied(self, connection: CommandConnection, replies: list[Any]) -> None:
        """Take the replies of one read, in their order."""

    def lost(self, connection: CommandConnection, reason: str) -> None:
        """Learn that the connection is gone, or that it never came to be."""


class CommandConnection(asyncio.Protocol):
    """One connection that logs in, then hands over replies a read at a time; the owner matches them to commands.

    Args:
        owner: told of everything once the connection is ready.
        login: arguments of AUTH, an empty list for none.
        name: how the connection is called in the broker's ``CLIENT LIST``.

    Attributes:
        ready: done when the login was accepted; fails with a `BrokerError` where it was not or the connection broke.
        closed: done when the connection is gone; its result says why.
    """

    def __init__(self, owner: Owner, login: list[str], name: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self.loop.create_future()
        self.closed: asyncio.Future[str] = self.loop.create_future()
        self._owner = owner
        self._login = [("AUTH", *login)] if login else []
        self._login += [("CLIENT", "SETNAME", name), ("PING",)]
        self._reader = hiredis.Reader(notEnoughData=_NO_MORE)
        self._transport: asyncio.Transport | None = None
        self._reason = ""

    def write(self, data: bytes) -> None:
        """Write commands."""
        if self._transport is not None:
            self._transport.write(data)

    def drop(self, reason: str) -> None:
        """End the connection now; what arrives from here on is not looked at."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()
        elif not self.closed.done():  # it never was
            self.connection_lost(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Log in."""
        self._transport = cast(asyncio.Transport, transport)
        if self._reason:  # given up meanwhile
            self._transport.abort()
            return
        self._transport.write(b"".join(pack(command) for command in self._login))

    def data_received(self, data: bytes) -> None:
        """Hand the replies of this read to the owner in one list.

        Cost: one call of the reader for each reply, which for PUBLISH is a small integer.
        """
        if self._reason:
            return
        try:
            self._reader.feed(data)
            replies = list(iter(self._reader.gets, _NO_MORE))
        except (hiredis.HiredisError, TypeError, UnicodeDecodeError) as error:  # TypeError: a map with a list as a key
            self.drop(f"it does not speak RESP: {error}")
            return
        while self._login and replies and not self._reason:
            self._take_login(self._login.pop(0)[0], replies.pop(0))
        if replies and not self._reason:
            self._owner.replied(self, replies)

    def connection_lost(self, exc: Exception | None) -> None:
        """Settle both futures and tell the owner."""
        self._reason = self._reason or (str(exc) if exc else "the broker closed the connection")
        self._transport = None
        if not self.closed.done():
            self.closed.set_result(self._reason)
        if not self.ready.done():
            self.ready.set_exception(BrokerUnavailable(self._reason))
            self.ready.exception()  # marks it as retrieved, since nobody may be waiting for it any more
        self._owner.lost(self, self._reason)

    def _take_login(self, command: str, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            text = str(reply)
            code = code_of(text)
            # A user may lack the right to name connections or to ask: nothing depends on it.
            if (command == "CLIENT" and code not in LOGIN_NEEDED) or (command == "PING" and code == "NOPERM"):
                reply = None
            elif not self.ready.done():
                self.ready.set_exception(login_error(text, about_password=command == "AUTH"))
                self.drop(text)
                return
        if not self._login and not self.ready.done():
            self.ready.set_result(None)
