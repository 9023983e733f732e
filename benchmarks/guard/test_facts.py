"""The structural facts that the throughput depends on."""

from __future__ import annotations

import shutil

import pytest

from benchmarks.guard import facts


def test_a_message_is_one_frame_and_a_batch_one_send_for_each_connection() -> None:
    seen = facts.count("frames")
    assert seen["messages"] == facts.BATCHES * facts.MESSAGES
    assert seen["frames_built"] == seen["messages"]
    assert seen["deliveries"] == seen["messages"] * facts.SUBSCRIBERS
    assert seen["sends"] == facts.BATCHES * facts.SUBSCRIBERS


def test_a_message_is_one_frame_for_each_framing() -> None:
    seen = facts.count("framings")
    assert seen["deliveries"] == seen["messages"] * facts.SUBSCRIBERS > 0
    assert seen["frames_built"] == 2 * seen["messages"]


def test_a_message_with_its_position_is_one_frame_and_a_batch_one_send_for_each_connection() -> None:
    seen = facts.count("positions")
    assert seen == facts.count("frames")


def test_a_replay_shares_the_frames_of_the_ring_and_is_one_send_for_each_connection() -> None:
    seen = facts.count("replays")
    assert seen["replayed"] == facts.MESSAGES * facts.SUBSCRIBERS
    assert seen["frames_built"] == 0
    assert seen["sends"] == facts.SUBSCRIBERS


def test_conflating_subscribers_get_their_rate_and_share_one_frame_for_each_message() -> None:
    seen = facts.count("conflation")
    assert seen["frames_built"] == seen["messages"] == 10_000
    # At most 10 a second, in 10 seconds; and nothing is missing: what was not delivered was replaced, or still waits.
    assert 99_000 <= seen["deliveries"] <= 100_000
    assert 0 <= 1000 * seen["messages"] - seen["deliveries"] - seen["conflated"] <= 1000


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_kernel_sees_as_many_sends_as_the_engine_counts() -> None:
    assert facts.count_system_calls() == {"sendto": facts.BATCHES * facts.SUBSCRIBERS}


def test_a_dispatch_calls_no_function_for_each_subscriber() -> None:
    calls = facts.count("python_calls")
    assert calls["1000 subscribers"] == calls["1 subscribers"] <= 2
    assert calls["python transports"] >= 1000


def test_a_dispatch_allocates_nothing_for_each_subscriber() -> None:
    calls = facts.count_allocations()
    assert calls["1000 subscribers"] == calls["1 subscribers"]
    assert calls["cold"] >= 1000
