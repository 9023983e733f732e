"""What a bridge holds at its beginning: each projection is published once, by its publisher or by the bridge."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from realizehit.broker.publication import Publication
from realizehit.broker.shapes.held import HeldProjections

HELD = 3
MESSAGES = st.lists(
    st.tuples(st.sampled_from([b"a", b"b"]), st.one_of(st.none(), st.integers(0, HELD - 1))), max_size=30
)


@given(MESSAGES)
def test_only_projections_that_the_publisher_sent_in_time_are_dropped(
    messages: list[tuple[bytes, int | None]],
) -> None:
    """One message a tick; its publisher's own projection comes by so many ticks later, or never."""
    held = HeldProjections()
    published: list[bytes] = []
    foreign = Counter[bytes]()
    for now in range(len(messages) + 2 * HELD):
        if now < len(messages):
            held.hold(Publication(b"*:*", messages[now][0]), now + HELD)
        for earlier in range(max(0, now - HELD + 1), min(now + 1, len(messages))):
            payload, after = messages[earlier]
            if after is not None and earlier + after == now:
                foreign[payload] += 1
                held.came_by(b"*:*", payload)
        due = [projection.payload for projection in held.take_due(now)]
        published += due
        for payload in due:  # what the bridge publishes comes by as well, and drops nothing
            held.came_by(b"*:*", payload)
    assert len(held) == 0
    assert Counter(published) + foreign == Counter(payload for payload, _ in messages)
