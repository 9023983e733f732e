"""All addresses of a name, one port."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from realizehit.errors import SettingsError
from realizehit.process import sockets
from realizehit.process.sockets import addresses_of, bind, bind_all, place_of


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


@contextlib.contextmanager
def bound(host: str, port: int = 0, **options: bool) -> Iterator[list[str]]:
    with contextlib.ExitStack() as stack:
        yield [place_of(stack.enter_context(sock)) for sock in bind_all(host, port, **options)]


@needs_ipv6
@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "localhost."])
@pytest.mark.parametrize("reuse_port", [False, True])
def test_localhost_is_both_addresses_with_one_port(name: str, reuse_port: bool) -> None:
    with bound(name, reuse_port=reuse_port) as (four, six):
        port = int(four.removeprefix("127.0.0.1:"))
        assert port
        assert six == f"[::1]:{port}"
        if reuse_port:
            with bound(name, port, reuse_port=True) as again:
                assert again == [four, six]


def test_an_address_is_itself() -> None:
    assert addresses_of("127.0.0.1") == ["127.0.0.1"]
    with bound("127.0.0.1") as places:
        assert len(places) == 1


@needs_ipv6
def test_all_addresses_by_ipv6_are_those_of_ipv4_too_as_before() -> None:
    with contextlib.closing(bind_all("::", 0)[0]) as sock:
        assert not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def test_an_address_that_this_machine_does_not_have_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = sockets._bind

    def here(address: str, port: int, **options: Any) -> socket.socket:  # what a kernel does, but for lax ones
        if address != "127.0.0.1":
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return usual(address, port, **options)

    monkeypatch.setattr(sockets, "_bind", here)
    monkeypatch.setattr(sockets, "addresses_of", lambda host: ["192.0.2.1", "127.0.0.1", "2001:db8::1"])
    with bound("name") as places:
        assert [place.partition(":")[0] for place in places] == ["127.0.0.1"]
    monkeypatch.setattr(sockets, "addresses_of", lambda host: ["192.0.2.1", "192.0.2.2"])
    with pytest.raises(SettingsError, match=r"cannot listen on name:80: .+ assign requested address"):
        bind_all("name", 80)


@needs_ipv6
def test_a_taken_port_is_named_and_the_other_sockets_are_closed() -> None:
    with contextlib.closing(bind("::1", 0)) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"cannot listen on localhost:{port} \(::1\): Address already in use"):
            bind_all("localhost", port)
        bind("127.0.0.1", port).close()


def test_a_system_chosen_port_taken_on_another_address_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual, asked = sockets._bind, []

    def taken_twice(address: str, port: int, **options: Any) -> socket.socket:
        asked.append(address)
        if address == "127.0.0.2" and asked.count(address) <= 2:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return usual(address, port, **options)

    monkeypatch.setattr(sockets, "addresses_of", lambda host: ["127.0.0.1", "127.0.0.2"])
    monkeypatch.setattr(sockets, "_bind", taken_twice)
    with bound("name") as (one, two):
        assert one.partition(":")[2] == two.partition(":")[2]
    assert asked == ["127.0.0.1", "127.0.0.2"] * 3


def test_a_name_that_there_is_not_is_refused() -> None:
    for take in (bind, bind_all):
        with pytest.raises(SettingsError, match=r"cannot listen on no such name:80: "):
            take("no such name", 80)
