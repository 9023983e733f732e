"""Writes that are joined for a turn of the loop, on real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from realizehit.http.write_coalescing import CoalescingTransport


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[CoalescingTransport, asyncio.Transport, socket.socket]]:
    """A joined transport, the one below it, and the peer's socket."""
    ours, peer = socket.socketpair()
    peer.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    try:
        yield CoalescingTransport(transport, loop), transport, peer
    finally:
        transport.abort()
        peer.close()
        await asyncio.sleep(0)


def nothing_sent(peer: socket.socket) -> bool:
    try:
        return not peer.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True


async def test_what_is_written_in_one_turn_goes_out_at_its_end_in_order() -> None:
    async with pair() as (joined, _, peer):
        for part in (b"head ", bytearray(b"and "), memoryview(b"body")):
            joined.write(part)
        assert nothing_sent(peer)
        await asyncio.sleep(0)
        assert peer.recv(100) == b"head and body"
        joined.write(b"next")
        await asyncio.sleep(0)
        assert peer.recv(100) == b"next"
        assert nothing_sent(peer)


async def test_closing_loses_nothing_and_aborting_does() -> None:
    async with pair() as (joined, below, peer):
        joined.write(b"last words")
        joined.close()
        assert joined.is_closing()
        assert below.is_closing()
        joined.write(b"too late")
        await asyncio.sleep(0)
        assert peer.recv(100) == b"last words"
    async with pair() as (joined, below, peer):
        joined.write(b"never mind")
        joined.abort()
        await asyncio.sleep(0)
        assert below.is_closing()
        assert peer.recv(100) == b""


@pytest.mark.parametrize("way", ["set_protocol", "unwrap"])
async def test_what_was_written_goes_before_what_the_next_owner_writes(way: str) -> None:
    async with pair() as (joined, below, peer):
        joined.write(b"first, ")
        if way == "unwrap":
            assert joined.unwrap() is below
        else:
            other = asyncio.Protocol()
            joined.set_protocol(other)
            assert joined.get_protocol() is other
        below.write(b"second")
        await asyncio.sleep(0)
        assert peer.recv(100) == b"first, second"


async def test_the_rest_is_the_real_transport() -> None:
    async with pair() as (joined, below, _):
        assert joined.get_extra_info("socket") is below.get_extra_info("socket")
        assert joined.get_extra_info("nothing", 7) == 7
        joined.pause_reading()
        assert not below.is_reading()
        joined.resume_reading()
        assert below.is_reading()
