"""The account of the soak of history finds what is wrong: each kind of mistake, put into an account that is right."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from realizehit.common.position import Position
from tests.support.account import Account, AccountError, Untold
from tests.support.account_records import Back, Came, Life, Lineage, Told

PATTERN = {"kind": "chat"}
EPOCH, NEXT = "aaaaaaaa", "bbbbbbbb"


def right(*, positions: bool = True) -> Account:
    """Twelve publications; one subscription that got 1 to 5, was told of 6 to 8, and got the others."""
    account = Account()
    for offset in range(1, 13):
        entry = account.enter("api", PATTERN, float(offset))
        entry.taken, entry.ended, entry.at = True, offset + 0.1, Position(EPOCH, offset)
    life = account.begin(Life("websocket", PATTERN, 0.5, Position(EPOCH, 0) if positions else None, final=True))
    for offset in range(1, 13):
        if offset == 6:
            life.events.append(Told(8.5, 5.9, Position(EPOCH, 8) if positions else None))
        if not 6 <= offset <= 8:
            life.events.append(Came(offset + 0.2, offset - 1, Position(EPOCH, offset) if positions else None))
    return account


def drop(account: Account) -> None:
    del account.lives[0].events[2]


def drop_the_last(account: Account) -> None:
    del account.lives[0].events[-1]


def repeat(account: Account) -> None:
    account.lives[0].events.insert(3, account.lives[0].events[2])


def swap(account: Account) -> None:
    events = account.lives[0].events
    events[1], events[2] = events[2], events[1]


def hide_the_gap(account: Account) -> None:
    del account.lives[0].events[5]


def tell_of_another_time(account: Account) -> None:
    events = account.lives[0].events
    told = events[5]
    assert isinstance(told, Told)
    events[5] = Told(told.when, 8.4, Position(EPOCH, 7) if told.at else None)


def refuse(account: Account) -> None:
    account.entries[2].taken = False


def pretend_recovery(account: Account) -> None:
    account.lives[0].events[5] = Back(8.5, Position(EPOCH, 8) if account.lives[0].at else None)


def tell_late(account: Account) -> None:
    events = account.lives[0].events
    events[5], events[6] = events[6], events[5]


MISTAKES = [drop, drop_the_last, repeat, swap, hide_the_gap, tell_of_another_time, refuse, pretend_recovery]


@pytest.mark.parametrize("positions", [True, False], ids=["positions", "plain"])
def test_what_is_right_passes_and_is_counted(positions: bool) -> None:
    account = right(positions=positions)
    account.check()
    counts = account.counts["websocket"]
    assert (counts["delivered"], counts["told"], counts["missed"]) == (9, 1, 3)
    assert "published 12" in account.table()


@pytest.mark.parametrize("positions", [True, False], ids=["positions", "plain"])
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_found(mistake: Callable[[Account], None], positions: bool) -> None:
    account = right(positions=positions)
    mistake(account)
    with pytest.raises(AccountError):
        account.check()


def test_a_gap_that_is_told_after_what_follows_it_is_found() -> None:
    account = right()
    tell_late(account)
    with pytest.raises(AccountError, match="no gap was told between"):
        account.check()


def test_one_position_is_one_message() -> None:
    account = right()
    account.entries[3].at = Position(EPOCH, 5)
    with pytest.raises(AccountError, match="aaaaaaaa"):
        account.check()


def test_offsets_go_on_in_another_epoch() -> None:
    account = right()
    for event in account.lives[0].events[6:]:
        if isinstance(event, Came) and event.at is not None:
            event.at = Position(NEXT, event.at.offset)
    account.check()


def answered(account: Account, at: Position) -> None:
    """Enter a publication that nobody received."""
    entry = account.enter("api", PATTERN, 9.0)
    entry.taken, entry.ended, entry.at = True, 9.1, at


@pytest.mark.parametrize("lossy", [True, False])
def test_what_a_broker_lost_is_excused_only_while_it_may_lose_something(lossy: bool) -> None:
    """A publication was answered, and its position is in no log any more."""
    account = right()
    account.lineages[account.entries[0].channel].note(EPOCH, [])
    answered(account, Position(NEXT, 9))
    if lossy:
        account.lossy.append((8.9, 9.2))
        account.check()
        assert account.counts["websocket"]["lost"] == 1
    else:
        with pytest.raises(AccountError, match="misses"):
            account.check()


@pytest.mark.parametrize("kept", [True, False])
def test_what_the_broker_has_is_not_lost(kept: bool) -> None:
    account = right()
    account.lossy.append((8.9, 9.2))
    account.lineages[account.entries[0].channel].note(EPOCH, [Position(NEXT, 13 if kept else 8)])
    answered(account, Position(NEXT, 13))
    if kept:
        with pytest.raises(Untold):
            account.check()
    else:
        account.check()
        assert account.counts["websocket"]["lost"] == 1


def test_the_lineage_of_a_log_forgets_what_a_failover_dropped() -> None:
    lineage = Lineage()
    lineage.note("b", [Position("a", 5)])
    lineage.note("c", [Position("b", 9), Position("a", 5)])
    lineage.note("d", [Position("b", 7)])  # of a copy that had not seen the epoch c, nor the end of b
    assert lineage.ends == {"a": 5, "b": 7, "d": None}
    assert lineage.has(Position("a", 5))
    assert not lineage.has(Position("b", 8))
    assert not lineage.has(Position("c", 1))
    assert lineage.has(Position("d", 100))
    lineage.note("e", [])
    assert lineage.ends == {"e": None}


@pytest.mark.parametrize("told", [True, False])
def test_a_gap_covers_numbers_that_lost_messages_had(told: bool) -> None:
    """A subscription got 6 to 8 of an epoch whose end was lost, and misses 6 to 8 of the epoch that goes on."""
    account = right()
    life = account.lives[0]
    life.queued = True
    before, gap, after = life.events[:5], life.events[5], life.events[6:]
    lost: list[Came] = []
    for offset in (6, 7, 8):
        entry = account.enter("direct", PATTERN, offset - 0.5)
        entry.taken, entry.ended, entry.at = True, offset - 0.4, Position(EPOCH, offset)
        lost.append(Came(offset - 0.3, entry.serial, entry.at))
    for entry in account.entries[5:12]:
        entry.at = Position(NEXT, entry.serial + 1)
    for came in after:
        assert isinstance(came, Came)
        came.at = Position(NEXT, came.serial + 1)
    life.events = [*before, *lost, *([gap] if told else []), *after]
    if told:
        account.check()
        assert account.counts["websocket"]["missed"] == 3
    else:
        with pytest.raises(Untold):
            account.check()


@pytest.mark.parametrize("outage", [True, False])
def test_a_client_that_loses_its_node_in_an_outage_is_told_of_all_of_it(outage: bool) -> None:
    account = right(positions=False)
    tell_of_another_time(account)
    account.lives[0].measured = True
    if outage:
        account.outages.append((5.9, 9.0))
        account.check()
    else:
        with pytest.raises(Untold):
            account.check()
