from __future__ import annotations

import array
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import hiredis
import pytest

from realizehit.loadtest import _load
from realizehit.loadtest._load import DELIVERED, READY, SENT, Fleet
from tests.support.scripted_websocket import (
    ACCEPTED,
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    ScriptedServer,
    channels,
    message,
    pattern_of,
    payload,
    run_until,
    scripted,
    server_frame,
)

pytestmark = pytest.mark.skipif(not _load.HAVE_EPOLL, reason="the load client needs epoll")


@contextmanager
def joined(
    subscriptions: list[list[int]],
    *,
    count: int = 4,
    stamped: bool = True,
    sent: array.array[int] | None = None,
    kernel_times: bool = False,
) -> Iterator[tuple[ScriptedServer, Fleet]]:
    """A fleet that is connected to a scripted server and subscribed."""
    with scripted() as server:
        fleet = Fleet(
            server.address, channels(count), subscriptions, stamped=stamped, sent=sent, kernel_times=kernel_times
        )
        fleet.connect()
        assert fleet.run(15, READY), (fleet.counts(), fleet.notes())
        try:
            yield server, fleet
        finally:
            fleet.close()


def deliver(server: ScriptedServer, fleet: Fleet, data: bytes, client: int = 0) -> dict[str, int]:
    """Send bytes and let the fleet take them; return its figures."""
    target = fleet.counts()["bytes_in"] + len(data)
    # A socket need not take more than a little before somebody reads.
    sending = threading.Thread(target=server.send, args=(data, client))
    sending.start()
    run_until(fleet, lambda: fleet.counts()["bytes_in"] >= target)
    sending.join()
    return fleet.counts()


def faults(fleet: Fleet) -> dict[str, int]:
    names = ("lost", "duplicates", "reordered", "unexpected", "foreign", "protocol_errors", "refused", "failed")
    return {name: value for name, value in fleet.counts().items() if name in names and value}


# --- Joining ----------------------------------------------------------------------------------------------------------


def test_a_client_is_ready_after_all_subscription_replies() -> None:
    with joined([[0, 1], [2], []]) as (server, fleet):
        counts = fleet.counts()
        assert (counts["connections"], counts["ready"], counts["subscriptions"], counts["pending"]) == (3, 3, 3, 0)
        asked = [text for opcode, text in server.frames if opcode == TEXT]
        assert sorted(asked) == [
            b'{"id":"s0000000%d","act":"sub","pat":{"load":"test","n":%d}}' % (n, n) for n in range(3)
        ]
        assert sum(count for _, count in fleet.take_joins()) == 3
        assert fleet.take_joins() == []


def test_a_refused_subscription_is_counted_and_not_expected() -> None:
    with scripted() as server:
        server.reply = lambda action: b'{"id":"%b","err":"no","code":"forbidden"}' % str(action["id"]).encode()
        fleet = Fleet(server.address, channels(1), [[0]])
        fleet.connect()
        assert fleet.run(15, READY)
        assert faults(fleet) == {"refused": 1}
        assert fleet.counts()["subscriptions"] == 0
        assert "forbidden" in fleet.notes()[0]
        fleet.close()


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "503 Service Unavailable"),
        (b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: AAAA\r\n\r\n", "Sec-WebSocket-Accept"),
        (b"x" * 20_000, "no end"),
    ],
)
def test_a_failed_handshake_is_counted_and_reported(answer: bytes, note: str) -> None:
    with scripted(answer) as server:
        fleet = Fleet(server.address, channels(1), [[0]])
        fleet.connect()
        assert fleet.run(15, READY)
        assert faults(fleet) == {"failed": 1}
        assert note in fleet.notes()[0]
        fleet.close()


def test_a_refused_connection_is_counted_and_reported() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        fleet = Fleet(closed.getsockname(), channels(1), [[0], [0]])
        fleet.connect()
        assert fleet.run(15, READY)
        assert faults(fleet) == {"failed": 2}
        assert "Connection refused" in fleet.notes()[0]
        fleet.close()


def test_connections_start_at_the_given_rate() -> None:
    with scripted() as server:
        fleet = Fleet(server.address, channels(1), [[0]] * 20)
        began = time.monotonic()
        fleet.connect(rate=100)
        assert fleet.run(15, READY)
        assert time.monotonic() - began >= 0.19
        fleet.close()


def test_so_many_connections_are_made_at_once() -> None:
    with scripted() as server:
        server.reply = lambda action: None  # so that none is ready
        fleet = Fleet(server.address, channels(1), [[0]] * 20, max_pending=3)
        fleet.connect()
        run_until(fleet, lambda: fleet.counts()["connections"] == 3)
        fleet.run(0)
        assert len(server.clients) == 3
        fleet.connect(max_pending=20)
        run_until(fleet, lambda: fleet.counts()["connections"] == 20)
        fleet.close()


def test_handshakes_have_the_headers_that_were_given() -> None:
    with scripted() as server:
        fleet = Fleet(server.address, channels(1), [[0]], headers=[("X-User", "42"), ("Authorization", "Bearer t")])
        fleet.connect()
        assert fleet.run(15, READY)
        fleet.close()
        assert server.heads[0].split(b"\r\n")[-2:] == [b"X-User: 42", b"Authorization: Bearer t"]


def test_connections_come_from_all_source_addresses() -> None:
    with scripted() as server:
        fleet = Fleet(server.address, channels(1), [[0]] * 6, sources=["127.0.0.2", "127.0.0.3"])
        fleet.connect()
        assert fleet.run(15, READY)
        assert sorted(client.getpeername()[0] for client in server.clients) == ["127.0.0.2"] * 3 + ["127.0.0.3"] * 3
        fleet.close()


# --- Frames -----------------------------------------------------------------------------------------------------------


def test_frames_of_every_length_form_cut_anywhere() -> None:
    def stream(start: int) -> bytes:
        return (
            message(0, start)
            + server_frame(PING, b"hello")
            + message(0, start + 1, size=110)  # 119 bytes of payload, the short form
            + message(0, start + 2, size=130)  # two more bytes of length
            + server_frame(TEXT, b'{"id":"x","ret":"late"}')
            + message(0, start + 3)
        )

    cuts = range(1, len(stream(1)))
    with joined([[0]]) as (server, fleet):
        for cut in cuts:
            data = stream(4 * cut - 3)
            deliver(server, fleet, data[:cut])
            deliver(server, fleet, data[cut:])
            assert fleet.deliveries == 4 * cut
        counts = fleet.counts()
        assert counts["pings"] == len(cuts)
        assert faults(fleet) == {"foreign": len(cuts)}


@pytest.mark.parametrize("size", [65_000, 65_536, 400_000])
def test_frames_larger_than_a_read(size: int) -> None:
    with joined([[0]]) as (server, fleet):
        data = b"".join(message(0, number, size=size) for number in range(1, 4))
        deliver(server, fleet, data[:-1])
        assert fleet.deliveries == 2
        deliver(server, fleet, data[-1:])
        assert fleet.deliveries == 3
        assert faults(fleet) == {}


def test_a_ping_is_answered_with_its_payload() -> None:
    with joined([[0]]) as (server, fleet):
        deliver(server, fleet, server_frame(PING, b"abc") + server_frame(PING, b"x" * 125))
        run_until(fleet, lambda: len([frame for frame in server.frames if frame[0] == PONG]) == 2)
        assert [text for opcode, text in server.frames if opcode == PONG] == [b"abc", b"x" * 125]


def test_a_close_frame_is_answered_and_its_code_kept() -> None:
    with joined([[0], [0], [0]]) as (server, fleet):
        server.send(server_frame(CLOSE, b"\x0f\xa2too slow"), 0)
        server.send(server_frame(CLOSE), 1)
        server.clients[2].shutdown(socket.SHUT_RDWR)
        run_until(fleet, lambda: fleet.counts()["ready"] == 0)
        assert fleet.close_codes() == {0: 1, 4002: 1}
        assert (fleet.counts()["closed"], fleet.counts()["dropped"]) == (2, 1)
        run_until(fleet, lambda: (CLOSE, b"\x0f\xa2") in server.frames)


@pytest.mark.parametrize(
    "wrong",
    [
        b"\x81\x85\x00\x00\x00\x00hello",  # masked
        b"\x01\x05hello",  # a fragment
        b"\xc1\x05hello",  # an extension's bit
        b"\x81\x7f\x00\x00\x00\x00\x7f\x00\x00\x00",  # 2 GiB
        b"\x81\x7f\x00\x00\x00\x01\x00\x00\x00\x00",  # more than 32 bits of length
        server_frame(BINARY, b"hello"),
    ],
)
def test_invalid_frames_end_the_connection(wrong: bytes) -> None:
    with joined([[0]]) as (server, fleet):
        server.send(message(0, 1) + wrong)
        run_until(fleet, lambda: fleet.counts()["ready"] == 0)
        assert faults(fleet) == {"protocol_errors": 1}
        assert fleet.counts()["deliveries"] == 1


# --- Checks -----------------------------------------------------------------------------------------------------------


def test_messages_in_order_are_not_faults() -> None:
    with joined([[0, 3], [3]]) as (server, fleet):
        deliver(server, fleet, b"".join(message(0, n) + message(3, n) for n in range(1, 50)))
        deliver(server, fleet, b"".join(message(3, n) for n in range(1, 50)), client=1)
        assert fleet.counts()["deliveries"] == 3 * 49
        assert faults(fleet) == {}
        assert fleet.problems() == []


def test_a_gap_is_loss() -> None:
    with joined([[2]]) as (server, fleet):
        deliver(server, fleet, message(2, 1) + message(2, 2) + message(2, 6))
        assert faults(fleet) == {"lost": 3}
        assert fleet.problems() == [("lost", 0, 2, 3, 6)]


def test_the_first_messages_count_too() -> None:
    with joined([[2]]) as (server, fleet):
        deliver(server, fleet, message(2, 3))
        assert faults(fleet) == {"lost": 2}


def test_what_was_published_before_the_reply_may_come_or_not() -> None:
    sent = array.array("I", [0, 5, 0, 0])
    with joined([[1]], sent=sent) as (server, fleet):
        deliver(server, fleet, message(1, 4) + message(1, 5) + message(1, 6))
        assert faults(fleet) == {}
    with joined([[1]], sent=sent) as (server, fleet):
        deliver(server, fleet, message(1, 7))
        assert faults(fleet) == {"lost": 1}


def test_a_second_time_is_a_duplicate_and_no_delivery() -> None:
    with joined([[0]]) as (server, fleet):
        deliver(server, fleet, message(0, 1) + message(0, 2) + message(0, 1) + message(0, 2) + message(0, 3))
        assert faults(fleet) == {"duplicates": 2}
        assert fleet.counts()["deliveries"] == 3
        assert sum(count for _, count in fleet.take_latencies()) == 3


def test_a_late_one_is_reordered_and_not_lost() -> None:
    with joined([[0]]) as (server, fleet):
        deliver(server, fleet, b"".join(message(0, n) for n in (1, 4, 3, 5, 2, 3)))
        assert faults(fleet) == {"reordered": 2, "duplicates": 1}
        assert fleet.counts()["deliveries"] == 5


def test_messages_of_others_and_under_wrong_ids_are_unexpected() -> None:
    with joined([[0], [1]]) as (server, fleet):
        deliver(server, fleet, message(1, 1) + message(0, 1, label="00000000") + message(99, 1))
        assert faults(fleet) == {"unexpected": 3}


def test_texts_without_a_stamp_are_foreign() -> None:
    with joined([[0]]) as (server, fleet):
        label = pattern_of(0).id.encode()
        deliver(server, fleet, server_frame(TEXT, label + b'?{"title":"hello"}') + server_frame(TEXT))
        assert faults(fleet) == {"foreign": 2}


def test_undelivered_messages_are_missing_and_then_lost() -> None:
    sent = array.array("I", [0, 0])
    with joined([[0], [0, 1]], count=2, sent=sent) as (server, fleet):
        sent[0], sent[1] = 10, 2
        deliver(server, fleet, b"".join(message(0, n) for n in range(1, 9)))
        assert fleet.missing() == 2 + 10 + 2
        assert fleet.give_up() == 14
        assert faults(fleet) == {"lost": 14}
        assert fleet.problems() == [("lost", 0, 0, 9, 0), ("lost", 1, 0, 1, 0), ("lost", 1, 1, 1, 0)]
        assert fleet.missing() == 0


def end_by(server: ScriptedServer, how: str, client: int = 0) -> None:
    """End a connection as a server may: with a close frame, without one, or with what is no frame."""
    if how == "closed":
        server.send(server_frame(CLOSE, b"\x0f\xa2"), client)
    elif how == "dropped":
        server.clients[client].shutdown(socket.SHUT_RDWR)
    else:
        server.send(b"\xff\xff", client)


@pytest.mark.parametrize("how", ["closed", "dropped", "protocol_errors"])
@pytest.mark.parametrize("received", [0, 3])
def test_publications_after_the_server_ended_a_connection_are_lost(how: str, received: int) -> None:
    sent = array.array("I", [0])
    with joined([[0], [0]], count=1, sent=sent) as (server, fleet):
        sent[0] = 5
        deliver(server, fleet, b"".join(message(0, n) for n in range(1, received + 1)))
        end_by(server, how)
        run_until(fleet, lambda: fleet.counts()["ready"] == 1)
        assert (fleet.counts()[how], fleet.counts()["subscriptions"]) == (1, 1)
        sent[0] = 1005
        deliver(server, fleet, b"".join(message(0, n) for n in range(1, 1006)), client=1)
        # What was under way when it ended, and everything after that.
        assert fleet.missing() == 0  # of what can still come
        assert fleet.give_up() == 1005 - received
        assert fleet.counts()["lost"] == 1005 - received
        assert fleet.problems() == [("lost", 0, 0, received + 1, 0)]
        assert (fleet.give_up(), fleet.counts()["forgone"]) == (0, 0)


@pytest.mark.parametrize("next_one", [True, False])
def test_a_subscriber_that_returns_lost_the_publications_in_between(next_one: bool) -> None:
    sent = array.array("I", [0])
    with joined([[0]], count=1, sent=sent) as (server, fleet):
        sent[0] = 2
        deliver(server, fleet, message(0, 1) + message(0, 2))
        end_by(server, "closed")
        run_until(fleet, lambda: fleet.counts()["ready"] == 0)
        sent[0] = 12
        fleet.connect()
        assert fleet.run(15, READY)
        if next_one:
            sent[0] = 13
            deliver(server, fleet, message(0, 13), client=1)
            assert fleet.problems() == [("lost", 0, 0, 3, 13)]
        else:
            assert fleet.give_up() == 10
        assert (fleet.counts()["lost"], fleet.missing()) == (10, 0)


def test_a_subscriber_that_leaves_after_a_cut_has_lost_messages() -> None:
    sent = array.array("I", [0])
    with joined([[0]], count=1, sent=sent) as (server, fleet):
        end_by(server, "dropped")
        run_until(fleet, lambda: fleet.counts()["ready"] == 0)
        sent[0] = 4
        server.reply = lambda action: None
        fleet.connect()
        run_until(fleet, lambda: fleet.counts()["connections"] == 1)
        fleet.disconnect()
        assert (fleet.counts()["lost"], fleet.counts()["forgone"], fleet.give_up()) == (4, 0, 0)


def test_messages_in_flight_when_a_subscriber_leaves_are_forgone() -> None:
    sent = array.array("I", [0])
    with joined([[0], [0]], count=1, sent=sent) as (server, fleet):
        sent[0] = 7
        deliver(server, fleet, message(0, 1) + message(0, 2))
        fleet.disconnect(0, 1)
        assert (fleet.counts()["forgone"], fleet.missing()) == (5, 7)
        sent[0] = 9  # nobody is there for these
        fleet.connect(first=0, count=1)
        assert fleet.run(15, READY)
        assert (fleet.counts()["forgone"], fleet.counts()["lost"], fleet.missing()) == (5, 0, 9)


def test_messages_under_way_to_an_ended_subscription_are_not_expected() -> None:
    sent = array.array("I", [0])
    asked: list[dict[str, object]] = []

    def reply(action: dict[str, object]) -> bytes | None:
        if action["act"] == "unsub":
            asked.append(action)
            return None
        return ScriptedServer.good_reply(action)

    with joined([[0]], count=1, sent=sent) as (server, fleet):
        server.reply = reply
        sent[0] = 4
        fleet.churn(resubscribes=1000)
        run_until(fleet, lambda: bool(asked))
        fleet.churn()
        sent[0] = 6
        # Of the four that were under way two still come before the reply; what was published later is not waited for.
        answer = server_frame(TEXT, ScriptedServer.good_reply(asked[0]))
        deliver(server, fleet, message(0, 1) + message(0, 2) + answer)
        assert (fleet.counts()["forgone"], fleet.missing(), fleet.counts()["subscriptions"]) == (2, 0, 0)
        assert faults(fleet) == {}


def test_latency_counts_from_the_intended_time() -> None:
    with joined([[0]]) as (server, fleet):
        deliver(server, fleet, message(0, 1, when=time.monotonic_ns() - 3_000_000_000))
        ((index, count),) = fleet.take_latencies()
        assert count == 1
        assert lowest(index) >= 2_990_000
        assert fleet.take_latencies() == []


def test_without_stamps_every_text_counts() -> None:
    with joined([[0]], stamped=False) as (server, fleet):
        server.send(server_frame(TEXT, b"anything") * 5 + message(3, 9))
        assert fleet.run(15, deliveries=6)
        assert fleet.deliveries == 6
        assert faults(fleet) == {}


@pytest.mark.slow
def test_one_process_checks_and_times_two_million_deliveries_a_second() -> None:
    # By the processor time of the receiving thread alone, whatever else the machine does meanwhile.
    data = b"".join(message(0, number, size=128) for number in range(1, 20_001))
    with joined([[0]] * 50) as (server, fleet):
        senders = [threading.Thread(target=client.sendall, args=(data,)) for client in server.clients]
        for sender in senders:
            sender.start()
        began = time.thread_time()
        assert fleet.run(60, deliveries=50 * 20_000)
        spent = time.thread_time() - began
        for sender in senders:
            sender.join()
        assert faults(fleet) == {}
        assert sum(count for _, count in fleet.take_latencies()) == fleet.deliveries
        assert fleet.deliveries / spent > 2_000_000


def lowest(index: int) -> int:
    """The lowest value of a bucket, in microseconds."""
    if index < 2048:
        return index
    return (index % 1024 + 1024) << ((index >> 10) - 1)


@pytest.mark.parametrize("microseconds", [0, 999, 2_047, 2_048, 4_095, 4_096, 1_000_000, 60_000_000])
def test_latencies_are_within_a_thousandth(microseconds: int) -> None:
    with joined([[0]]) as (server, fleet):
        when = time.monotonic_ns() - microseconds * 1000
        deliver(server, fleet, message(0, 1, when=when))
        most = (time.monotonic_ns() - when) // 1000
        ((index, _),) = fleet.take_latencies()
        assert microseconds / 1.001 - 1 <= lowest(index) <= most


def held_up(server: ScriptedServer, fleet: Fleet, number: int, seconds: float) -> int:
    """Return the latency, in microseconds, of a message that a fleet reads late, as one that waits for its core."""
    server.send(message(0, number))
    time.sleep(seconds)
    run_until(fleet, lambda: fleet.deliveries == number)
    ((index, _),) = fleet.take_latencies()
    return lowest(index)


def test_a_latency_ends_when_the_kernel_has_the_message_where_that_is_asked_for() -> None:
    held = 0.05
    with joined([[0]]) as (server, fleet):
        assert held_up(server, fleet, 1, held) >= held * 1e6
    with joined([[0]], kernel_times=True) as (server, fleet):
        # The kernel begins to note times a little after it was asked to.
        assert any(held_up(server, fleet, number, held) < held * 1e6 / 2 for number in range(1, 50))


def test_latencies_out_of_range_count_in_the_outermost_buckets() -> None:
    with joined([[0]]) as (server, fleet):
        now = time.monotonic_ns()
        deliver(server, fleet, message(0, 1, when=now - 10**12) + message(0, 2, when=now + 10**12))
        (first, _), (last, _) = fleet.take_latencies()
        assert first == 0
        assert 67_000_000 < lowest(last) < lowest(last + 1) == 2048 << 15


# --- Coming and going -------------------------------------------------------------------------------------------------


def test_a_connection_comes_back_and_counts_anew() -> None:
    with joined([[0], [0]]) as (server, fleet):
        deliver(server, fleet, message(0, 1))
        fleet.disconnect(0, 1)
        assert fleet.counts()["ready"] == 1
        fleet.connect(first=0, count=1)
        assert fleet.run(15, READY)
        assert fleet.counts()["ready"] == 2
        deliver(server, fleet, message(0, 1), client=2)
        assert faults(fleet) == {}
        run_until(fleet, lambda: (CLOSE, b"\x03\xe8") in server.frames)


def test_after_the_reply_to_unsub_nothing_may_come() -> None:
    with joined([[0]]) as (server, fleet):
        fleet.churn(resubscribes=1000)
        run_until(fleet, lambda: any(b'"unsub"' in text for _, text in server.frames))
        fleet.churn()
        run_until(fleet, lambda: fleet.counts()["subscriptions"] == 0)
        fleet.run(0.05)
        deliver(server, fleet, message(0, 1))
        assert faults(fleet) == {"unexpected": 1}
        fleet.churn(resubscribes=1000)
        run_until(fleet, lambda: fleet.counts()["resubscribes"] == 1)
        assert [text for _, text in server.frames if b"unsub" not in text][-1].startswith(b'{"id":"s00000000"')


def test_connections_that_come_and_go_are_made_again() -> None:
    with joined([[0]] * 5) as (_, fleet):
        fleet.churn(reconnects=200)
        run_until(fleet, lambda: fleet.counts()["reconnects"] >= 10)
        fleet.churn()
        assert fleet.run(15, READY)
        assert fleet.counts()["ready"] == 5
        assert faults(fleet) == {}


def test_failed_and_lost_connections_are_made_again_in_a_churn() -> None:
    with joined([[0]] * 3) as (server, fleet):
        end_by(server, "dropped")
        run_until(fleet, lambda: fleet.counts()["ready"] == 2)
        server.answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
        fleet.churn(reconnects=200)
        run_until(fleet, lambda: fleet.counts()["failed"] >= 6 and fleet.counts()["connections"] == 0)
        server.answer = ACCEPTED
        fleet.churn(reconnects=20)
        run_until(fleet, lambda: fleet.counts()["ready"] == 3)


# --- Publishing -------------------------------------------------------------------------------------------------------


@contextmanager
def broker(fleet: Fleet) -> Iterator[socket.socket]:
    """The other end of the connection that a fleet publishes over."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    fleet.publish_over(ours.detach())
    with theirs:
        theirs.settimeout(10)
        yield theirs


def commands(connection: socket.socket) -> list[list[bytes]]:
    reader = hiredis.Reader()
    connection.setblocking(False)
    while True:
        try:
            reader.feed(connection.recv(1 << 20))
        except BlockingIOError:
            break
    found = []
    while (command := reader.gets()) is not False:
        found.append(command)
    return found


def test_messages_are_published_to_channels_in_turn() -> None:
    sent = array.array("I", [0, 0, 7, 0])
    with joined([[0]], sent=sent) as (_, fleet), broker(fleet) as connection:
        fleet.schedule(rate=1e6, messages=5, payload_bytes=64, channels=[2, 1])
        run_until(fleet, lambda: fleet.counts()["published"] == 5)
        found = commands(connection)
        names = [name for name, _ in channels(4)]
        assert [command[:2] for command in found] == [[b"PUBLISH", names[n]] for n in (2, 1, 2, 1, 2)]
        assert [command[2][1:17] for command in found] == [
            b"%08x%08x" % stamp for stamp in ((2, 8), (1, 1), (2, 9), (1, 2), (2, 10))
        ]
        assert all(len(command[2]) == 64 and command[2][::63] == b'""' for command in found)
        now = time.monotonic_ns()
        assert all(0 <= now - int(command[2][17:33], 16) < 60e9 for command in found)
        assert list(sent) == [0, 2, 10, 0]
        assert not fleet.run(0, SENT)
        connection.sendall(b":1\r\n:0\r\n:2\r\n:1\r")
        assert not fleet.run(0.05, SENT)
        connection.sendall(b"\n-NOPERM no \r\n")
        assert fleet.run(15, SENT)
        counts = fleet.counts()
        assert (counts["acknowledged"], counts["heard"], counts["publish_errors"]) == (4, 4, 1)
        assert "NOPERM" in fleet.notes()[0]


def test_messages_stay_outstanding_until_all_subscribers_have_them() -> None:
    with joined([[0], [0], [1]], count=2) as (server, fleet), broker(fleet) as connection:
        fleet.schedule(outstanding=2, messages=3)
        fleet.run(0.05)
        first, second = commands(connection)
        assert fleet.counts()["outstanding"] == 2
        texts = [pattern_of(n).id.encode() + b"?" + command[2] for n, command in enumerate((first, second))]
        server.send(server_frame(TEXT, texts[0]), 0)
        fleet.run(0.05)
        assert commands(connection) == []
        server.send(server_frame(TEXT, texts[0]), 1)
        run_until(fleet, lambda: fleet.counts()["published"] == 3)
        (third,) = commands(connection)
        server.send(server_frame(TEXT, texts[1]), 2)
        for client in (0, 1):
            server.send(server_frame(TEXT, pattern_of(0).id.encode() + b"?" + third[2]), client)
        connection.sendall(b":1\r\n" * 3)
        assert fleet.run(15, DELIVERED)
        counts = fleet.counts()
        assert (counts["expected"], counts["deliveries"], counts["outstanding"]) == (5, 5, 0)
        assert faults(fleet) == {}


def test_publications_after_a_cut_count_as_lost_for_that_subscriber() -> None:
    with joined([[0], [0]], count=1) as (server, fleet), broker(fleet) as connection:
        end_by(server, "closed", 1)
        run_until(fleet, lambda: fleet.counts()["ready"] == 1)
        fleet.schedule(rate=1e6, messages=3)
        run_until(fleet, lambda: fleet.counts()["published"] == 3)
        connection.sendall(b":1\r\n" * 3)
        deliver(server, fleet, b"".join(message(0, n) for n in (1, 2, 3)))
        assert fleet.counts()["expected"] == 6
        assert not fleet.run(0, DELIVERED)
        assert fleet.give_up() == 3
        assert fleet.run(15, DELIVERED)


def test_the_schedule_does_not_wait_and_counts_from_the_intended_time() -> None:
    with joined([[0]], count=1) as (_, fleet), broker(fleet) as connection:
        start = time.monotonic() - 1
        fleet.schedule(rate=100, start=start)
        fleet.run(0)
        times = [int(command[2][17:33], 16) / 1e9 - start for command in commands(connection)]
        assert 100 <= len(times) < 1000
        assert times[:101] == pytest.approx([n / 100 for n in range(101)], abs=1e-3)
        assert fleet.counts()["late"] >= 90
        assert sum(count for _, count in fleet.take_lags()) == len(times)


def test_a_message_is_due_at_its_place_in_the_schedule_of_all_fleets() -> None:
    start = time.monotonic() - 1
    due: dict[tuple[int, int], float] = {}
    for own in ([0, 3, 6], [1, 4], [2, 5]):
        with joined([], count=7) as (_, fleet), broker(fleet) as connection:
            fleet.schedule(rate=100, start=start, channels=own, total=7, messages=10)
            run_until(fleet, lambda fleet=fleet: fleet.counts()["published"] == 10)  # type: ignore[misc]
            for command in commands(connection):
                stamp = command[2]
                due[int(stamp[1:9], 16), int(stamp[9:17], 16)] = int(stamp[17:33], 16) / 1e9 - start
    # Message n of the whole goes to channel n % 7, as its number n // 7 + 1, and is due at n / rate.
    assert len(due) == 30
    assert due == pytest.approx({(c, k): ((k - 1) * 7 + c) / 100 for c, k in due}, abs=1e-6)


def test_the_end_of_the_publishing_connection_is_an_error() -> None:
    with joined([[0]]) as (_, fleet), broker(fleet) as connection:
        fleet.schedule(rate=1e6, messages=3)
        run_until(fleet, lambda: fleet.counts()["published"] == 3)
        commands(connection)
        connection.close()
        with pytest.raises(ConnectionError, match="publish"):
            fleet.run(15, SENT)
        assert fleet.counts()["publish_errors"] == 3


def test_a_broker_that_reads_nothing_delays_only_the_publisher() -> None:
    with joined([[0]]) as (server, fleet), broker(fleet) as connection:
        fleet.schedule(rate=1e6, messages=100, payload_bytes=1 << 17)
        fleet.run(0.3)
        held_up = fleet.counts()["published"]
        assert held_up < 100
        deliver(server, fleet, message(0, 1))
        connection.setblocking(False)
        received = 0

        def drain() -> bool:
            nonlocal received
            with suppress(BlockingIOError):
                received += len(connection.recv(1 << 20))
            return received >= 100 << 17 and fleet.counts()["published"] == 100

        run_until(fleet, drain)


def sent_texts(connection: socket.socket, numbers: list[int]) -> list[bytes]:
    """What was published, one after another to the given channels, as the server frames it."""
    found = commands(connection)
    assert len(found) == len(numbers)
    return [
        server_frame(TEXT, pattern_of(n).id.encode() + b"?" + command[2])
        for n, command in zip(numbers, found, strict=True)
    ]


def test_a_lost_outstanding_message_makes_room_after_a_later_one() -> None:
    with joined([[0], [0]], count=1) as (server, fleet), broker(fleet) as connection:
        fleet.schedule(outstanding=2)
        run_until(fleet, lambda: fleet.counts()["published"] == 2)
        first, second = sent_texts(connection, [0, 0])
        deliver(server, fleet, second, 0)  # the first is lost here
        assert (fleet.counts()["lost"], fleet.counts()["abandoned"]) == (1, 0)
        deliver(server, fleet, first, 1)
        run_until(fleet, lambda: fleet.counts()["published"] == 3)
        assert fleet.counts()["abandoned"] == 1
        deliver(server, fleet, second, 1)
        run_until(fleet, lambda: fleet.counts()["published"] == 4)
        assert (fleet.counts()["outstanding"], fleet.counts()["abandoned"]) == (2, 1)


def test_an_outstanding_message_that_comes_late_makes_room_once() -> None:
    with joined([[0], [0]], count=1) as (server, fleet), broker(fleet) as connection:
        fleet.schedule(outstanding=2)
        run_until(fleet, lambda: fleet.counts()["published"] == 2)
        first, second = sent_texts(connection, [0, 0])
        deliver(server, fleet, second + first, 0)
        fleet.run(0)
        # Both still wait for the other one.
        assert (fleet.counts()["published"], fleet.counts()["outstanding"]) == (2, 2)
        deliver(server, fleet, first + second, 1)
        run_until(fleet, lambda: fleet.counts()["published"] == 4)
        assert (fleet.counts()["reordered"], fleet.counts()["abandoned"]) == (1, 1)


@pytest.mark.parametrize("how", ["closed", "dropped", "left"])
def test_outstanding_messages_do_not_wait_for_lost_connections(how: str) -> None:
    with joined([[0], [0, 1]], count=2) as (server, fleet), broker(fleet) as connection:
        fleet.schedule(outstanding=2)
        run_until(fleet, lambda: fleet.counts()["published"] == 2)
        first, _ = sent_texts(connection, [0, 1])
        deliver(server, fleet, first, 0)
        assert fleet.counts()["published"] == 2
        if how == "left":
            fleet.disconnect(1, 1)
        else:
            end_by(server, how, 1)
        # The first has reached who is left, and nobody is left to wait for the second; one goes out to who there is.
        run_until(fleet, lambda: fleet.counts()["published"] >= 3)
        assert fleet.counts()["abandoned"] == 2
        assert (fleet.counts()["lost"], fleet.counts()["forgone"]) == (0, 2 if how == "left" else 0)


@pytest.mark.slow
def test_outstanding_messages_that_later_ones_overtook_are_given_up() -> None:
    with joined([[0], [1]], count=2) as (server, fleet), broker(fleet) as connection:
        fleet.schedule(outstanding=2, channels=[0] + [1] * 1000)
        run_until(fleet, lambda: fleet.counts()["published"] == 2)
        _, text = sent_texts(connection, [0, 1])
        while not fleet.counts()["abandoned"]:
            # The one in channel 0 never comes, and no later one there: all others get on through what room is left.
            wanted = fleet.counts()["published"] + 1
            deliver(server, fleet, text, 1)
            run_until(fleet, lambda wanted=wanted: fleet.counts()["published"] >= wanted)  # type: ignore[misc]
            text = server_frame(TEXT, pattern_of(1).id.encode() + b"?" + commands(connection)[-1][2])
            fleet.run(0.1)
        assert fleet.counts()["abandoned"] == 1


@pytest.mark.slow
def test_outstanding_messages_that_never_come_are_given_up() -> None:
    with joined([[0]], count=1) as (_, fleet), broker(fleet) as connection:
        fleet.schedule(outstanding=2, messages=4)
        run_until(fleet, lambda: fleet.counts()["abandoned"] == 2)
        run_until(fleet, lambda: fleet.counts()["published"] == 4)
        assert len(commands(connection)) == 4
        assert fleet.missing() == 4


# --- Runs -------------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


def test_a_signal_ends_a_run_which_can_go_on() -> None:
    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    with joined([[0]]) as (server, fleet):
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Interrupted):
                fleet.run(60)
        finally:
            signal.signal(signal.SIGALRM, before)
        deliver(server, fleet, message(0, 1))
        assert fleet.deliveries == 1


def test_nothing_may_be_changed_while_it_runs() -> None:
    with joined([[0]]) as (server, fleet):
        running = threading.Thread(target=fleet.run, args=(60,), kwargs={"deliveries": 1})
        running.start()
        try:
            deadline = time.monotonic() + 10
            with pytest.raises(RuntimeError, match="is running"):
                while time.monotonic() < deadline:
                    fleet.unschedule()
            for change in (fleet.connect, fleet.disconnect, fleet.churn, fleet.unschedule, fleet.close):
                with pytest.raises(RuntimeError, match="is running"):
                    change()
            with pytest.raises(RuntimeError, match="is running"):
                fleet.run(0)
        finally:
            server.send(message(0, 1))
            running.join(10)
        assert not running.is_alive()
        assert fleet.deliveries == 1


# --- Arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"address": ("localhost", 1)}, "not a numeric IP address"),
        ({"subscriptions": [[0, 0]]}, "twice"),
        ({"subscriptions": [[0], [4]]}, "connection 1: channel 4"),
        ({"sources": ["home"]}, "'home' is not a numeric IP address"),
        ({"sent": bytearray(8)}, "too few"),
        ({"headers": [("X-User", "1\r\nX-Admin: 1")]}, "'X-User' contains a line break"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], error: str) -> None:
    good: dict[str, object] = {"address": ("127.0.0.1", 1), "channels": channels(4), "subscriptions": [[0]]}
    with pytest.raises(ValueError, match=error):
        Fleet(**{**good, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, "give a rate"),
        ({"rate": 1.0, "payload_bytes": 41}, "42 to"),
        ({"rate": 1.0, "channels": [1]}, "numbers of channels"),
        ({"rate": 1.0, "channels": []}, "at least one"),
        ({"outstanding": 1 << 20}, "at most"),
    ],
)
def test_wrong_schedules_are_named(arguments: dict[str, object], error: str) -> None:
    fleet = Fleet(("127.0.0.1", 1), channels(1), [[0]])
    with pytest.raises(RuntimeError, match="no publisher"):
        fleet.schedule(rate=1)
    with broker(fleet):
        with pytest.raises(ValueError, match=error):
            fleet.schedule(**arguments)  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="already"):
            fleet.publish_http(("127.0.0.1", 1))
        fleet.close()
    fleet.close()
    with pytest.raises(RuntimeError, match="closed"):
        fleet.run(0)


def test_a_payload_is_a_json_string() -> None:
    assert payload(1, 2, when=3, size=50) == b'"00000001000000020000000000000003' + b"0" * 8 + b"x" * 8 + b'"'
