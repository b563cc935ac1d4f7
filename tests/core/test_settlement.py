"""When a transaction may be settled, story by story: once its outcome is final and nothing of it can be unread.

In all stories lateness is 4 s, the grace for a retry 6 s, `settle_max_s` 100,000 s. `A` and `B` are two partitions.
"""

import pytest

from tests.harness.core.by_hand import CLOSE, OPEN, STEP_OPEN, A, B, cover, discover, ev, hand, side_by_side, sight
from tests.harness.core.core import Core
from tests.harness.core.side_by_side import SideBySide, no_leftovers
from tests.harness.core.worlds import Style, World, make_rules
from txninsightd.core.facts import Settled
from txninsightd.core.ledger import SETTLED_A_STEP
from txninsightd.vocabulary import Anomaly, Outcome, PartitionRef, State

C = PartitionRef("c", 0)


def closed_on_a(*, asked_at: float = 1000) -> SideBySide:
    """A transaction whose close, stamped 101, was decided at 103; partition B has told nothing yet."""
    return side_by_side(
        discover(asked_at, A, B),
        sight(A, 2, ev(0, OPEN, 100), ev(1, CLOSE, 101)),
        cover(A, 0, 2, [0, 1], 103, as_of=103),
    )


def settled(both: SideBySide) -> list[Outcome]:
    return [ended.outcome for _, ended in both.finished]


def test_closed_waits_until_every_partition_was_seen_beyond_the_decision() -> None:
    both = closed_on_a()
    assert both.core.live["t"].state == State.CLOSED
    hand(both, sight(A, 2, as_of=104))
    assert settled(both) == []  # B may hold a step of it
    hand(both, sight(B, 0, as_of=103))
    assert settled(both) == []  # seen up to the decision, not beyond it
    hand(both, sight(B, 0, as_of=103.5))
    assert settled(both) == [Outcome.CLOSED]


def test_in_a_backlog_it_is_enough_that_every_partition_was_read_past_it() -> None:
    both = closed_on_a()
    hand(both, sight(A, 3, ev(2, OPEN, 106, "other")), sight(B, 1, ev(0, OPEN, 105, "other")))
    assert settled(both) == []  # B was read up to just the close's timestamp + lateness
    hand(both, sight(B, 2, ev(1, STEP_OPEN, 105.5, "other")))
    assert settled(both) == [Outcome.CLOSED]


def test_each_partition_may_have_its_own_reason() -> None:
    both = closed_on_a()
    hand(both, sight(A, 3, ev(2, OPEN, 106, "other")), sight(B, 0, as_of=104))
    assert settled(both) == [Outcome.CLOSED]


def test_one_record_from_the_future_moves_nothing() -> None:
    # What counts is the smallest timestamp of a batch, and of those the largest.
    both = closed_on_a()
    hand(
        both,
        sight(A, 3, ev(2, OPEN, 106, "other")),
        sight(B, 2, ev(0, OPEN, 9999, "other"), ev(1, STEP_OPEN, 100, "other")),
        sight(B, 3, ev(2, STEP_OPEN, 101, "t")),
    )
    assert settled(both) == []
    assert len(both.core.live["t"].events) == 3


def test_a_partition_that_was_not_yet_discovered_may_hold_something_too() -> None:
    both = closed_on_a(asked_at=102)
    hand(both, sight(A, 3, ev(2, OPEN, 106, "other"), as_of=120), sight(B, 1, ev(0, OPEN, 107, "other"), as_of=120))
    assert settled(both) == []
    hand(both, discover(110, A, B, C, found=(C,)))
    assert settled(both) == []  # C is there, and was not read
    hand(both, sight(C, 1, ev(0, STEP_OPEN, 100.5)), cover(C, 0, 1, [0], 108), sight(C, 1, as_of=109))
    assert settled(both) == [Outcome.CLOSED]
    assert both.finished[0][1].anomalies == {Anomaly.STEP_NOT_DONE}


def test_a_partition_that_vanished_is_not_waited_for() -> None:
    both = closed_on_a()
    hand(both, sight(A, 2, as_of=104))
    assert settled(both) == []
    hand(both, discover(1010, A, found=()))
    assert settled(both) == [Outcome.CLOSED]


def test_facts_of_many_that_settle_at_once_come_in_portions() -> None:
    count = 2 * SETTLED_A_STEP + 1
    core = Core(make_rules(Style()))
    events = [ev(offset, (OPEN, CLOSE)[offset % 2], 100, f"t{offset // 2}") for offset in range(2 * count)]
    everything = list(range(2 * count))
    for message in (
        discover(1000, A),
        sight(A, 2 * count, *events),
        cover(A, 0, 2 * count, everything, 103, as_of=103),
        sight(A, 2 * count, as_of=104),
    ):
        core.apply(message)
    portions = [[fact for fact in facts if isinstance(fact, Settled)] for facts in core.ledger.settle(105)]
    assert [len(portion) for portion in portions if portion] == [SETTLED_A_STEP, SETTLED_A_STEP, 1]
    assert {fact.finished.txn.txn_id for portion in portions for fact in portion} == {f"t{i}" for i in range(count)}


def test_an_own_event_that_is_pending_is_waited_for() -> None:
    both = closed_on_a()
    hand(both, sight(B, 1, ev(0, STEP_OPEN, 100.5)), sight(A, 2, as_of=104), sight(B, 1, as_of=104))
    assert settled(both) == []
    hand(both, cover(B, 0, 1, [], 105, as_of=105))
    assert settled(both) == [Outcome.CLOSED]
    assert both.finished[0][1].anomalies == set()  # the step was aborted
    both.settle(105)
    no_leftovers(both.core)


def test_of_two_decided_closes_the_first_by_record_timestamp_says_when() -> None:
    both = side_by_side(
        discover(1000, A, B),
        sight(A, 2, ev(0, OPEN, 100), ev(1, CLOSE, 101)),
        sight(B, 1, ev(0, CLOSE, 101, record_ts=90)),
        cover(A, 0, 2, [0, 1], 103),
        sight(A, 2, as_of=104),
        sight(B, 1, as_of=104),
    )
    assert settled(both) == []  # the other close is pending
    hand(both, cover(B, 0, 1, [0], 110))
    assert settled(both) == []  # and decided later, being first by its record
    hand(both, sight(A, 2, as_of=111), sight(B, 1, as_of=111))
    assert both.finished[0][1].anomalies == {Anomaly.DUPLICATE_CLOSE}


def test_a_transaction_that_waited_too_long_is_settled_and_counted() -> None:
    both = SideBySide(World(make_rules(Style(settle_max_s=20)), {}, 0.0, []))
    hand(
        both,
        discover(1000, A, B),
        sight(A, 2, ev(0, OPEN, 100), ev(1, CLOSE, 101)),
        cover(A, 0, 2, [0, 1], 103),
    )
    for now, expected in ((123.0, 0), (123.5, 1)):
        both.core.tick(now)
        both.plain.tick(now)
        both.settle(now)
        assert both.core.figures.settled_by_timeout == len(both.finished) == expected


# --- Wholly aborted ---------------------------------------------------------------------------------------------------


def aborted_on_a() -> SideBySide:
    """A transaction of which all was aborted, as known at 103; both partitions were seen up to 109, not beyond."""
    return side_by_side(
        discover(1000, A, B),
        sight(A, 2, ev(0, OPEN, 100), ev(1, CLOSE, 101)),
        cover(A, 0, 2, [], 103, as_of=103),
        sight(A, 2, as_of=109),
        sight(B, 0, as_of=109),
    )


def test_an_aborted_one_is_given_the_grace() -> None:
    both = aborted_on_a()
    assert settled(both) == []
    assert both.core.live["t"].state == State.ABORTED
    hand(both, sight(A, 2, as_of=110), sight(B, 0, as_of=110))
    assert settled(both) == [Outcome.ABORTED]
    both.settle(110)
    no_leftovers(both.core)


def test_a_retry_within_the_grace_belongs_to_the_same_life() -> None:
    both = aborted_on_a()
    hand(both, sight(B, 1, ev(0, OPEN, 108)), sight(A, 2, as_of=120), sight(B, 1, as_of=120))
    assert settled(both) == []
    assert both.core.live["t"].state == State.OPEN
    hand(both, sight(B, 2, ev(1, CLOSE, 130)), cover(B, 0, 2, [0, 1], 131))
    hand(both, sight(A, 2, as_of=140), sight(B, 2, as_of=140))
    assert [(e.outcome, e.attempts, e.duration_s) for _, e in both.finished] == [(Outcome.CLOSED, 2, 22)]


def test_a_retry_after_it_begins_a_new_life() -> None:
    both = aborted_on_a()
    hand(both, sight(A, 2, as_of=110), sight(B, 0, as_of=110))
    hand(both, sight(B, 1, ev(0, STEP_OPEN, 120)))  # late: only an open begins a new life
    hand(both, sight(B, 3, ev(1, OPEN, 121), ev(2, CLOSE, 122)), cover(B, 0, 3, [0, 1, 2], 123))
    hand(both, sight(A, 2, as_of=124), sight(B, 3, as_of=124))
    assert [(e.outcome, e.attempts, e.anomalies) for _, e in both.finished] == [
        (Outcome.ABORTED, 1, set()),
        (Outcome.CLOSED, 1, {Anomaly.LATE_RETRY}),
    ]
    assert both.core.figures.anomalies["late_event"] == 1


def test_an_outage_within_the_grace_prolongs_it() -> None:
    both = aborted_on_a()
    hand(both, sight(A, 2, as_of=130, outage_from=105), sight(B, 0, as_of=130))
    assert settled(both) == []  # producers could not write until 130, so a retry has until 136
    hand(both, sight(A, 2, as_of=137), sight(B, 0, as_of=137))
    assert settled(both) == [Outcome.ABORTED]


def test_one_event_that_we_could_not_see_leaves_it_unknown() -> None:
    both = side_by_side(
        discover(1000, A),
        sight(A, 2, ev(0, OPEN, 100), ev(1, STEP_OPEN, 101)),
        cover(A, 0, 2, [], 103, gaps=[1, 2]),
        sight(A, 2, as_of=110),
    )
    assert settled(both) == [Outcome.UNKNOWN]


def test_a_step_after_all_was_lost_keeps_it_alive() -> None:
    both = side_by_side(
        discover(1000, A),
        sight(A, 2, ev(0, OPEN, 100), ev(1, STEP_OPEN, 101)),
        cover(A, 0, 2, [], 103, gaps=[1, 2]),
        sight(A, 3, ev(2, STEP_OPEN, 104)),
        sight(A, 3, as_of=110),
    )
    assert settled(both) == []
    assert both.core.live["t"].state == State.OPEN


def test_an_aborted_one_without_its_beginning_is_unknown() -> None:
    both = side_by_side(
        discover(1000, A), sight(A, 1, ev(0, STEP_OPEN, 101)), cover(A, 0, 1, [], 103), sight(A, 1, as_of=110)
    )
    assert settled(both) == [Outcome.UNKNOWN]


def test_an_abort_with_something_left_behind_stays() -> None:
    both = side_by_side(
        discover(1000, A),
        sight(A, 2, ev(0, OPEN, 100), ev(1, CLOSE, 101)),
        cover(A, 0, 2, [0], 103),
        sight(A, 2, as_of=900),
    )
    assert settled(both) == []
    assert both.core.live["t"].cause == "never_committed"


# --- Where events are colocated ---------------------------------------------------------------------------------------


def test_colocated_it_is_settled_at_once_and_the_rest_is_late() -> None:
    both = side_by_side(
        discover(1, A, B),
        sight(A, 3, ev(0, OPEN, 100), ev(1, CLOSE, 101), ev(2, STEP_OPEN, 102)),
        cover(A, 0, 2, [0, 1], 103),
        colocated=True,
    )
    assert settled(both) == [Outcome.CLOSED]
    assert both.core.figures.anomalies["late_event"] == 1
    hand(both, sight(A, 5, ev(3, OPEN, 104), ev(4, CLOSE, 105)))
    assert settled(both) == [Outcome.CLOSED]
    assert both.core.figures.anomalies["late_event"] == 3


def test_colocated_a_breach_is_an_anomaly() -> None:
    both = side_by_side(
        discover(1, A, B),
        sight(B, 1, ev(0, OPEN, 100)),
        sight(A, 1, ev(0, CLOSE, 101)),
        cover(A, 0, 1, [0], 103),
        colocated=True,
    )
    assert both.finished[0][1].anomalies == {Anomaly.NOT_COLOCATED, Anomaly.OPEN_NOT_COMMITTED}


# --- Afterwards -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("now", "lingers", "known"), [(150, True, True), (161, False, True), (1000, False, False)])
def test_what_is_over_lingers_then_is_only_known_then_forgotten(now: float, lingers: bool, known: bool) -> None:
    rules = make_rules(Style(colocated=True))._replace(linger_s=10, remember_s=100)
    core = Core(rules)
    core.apply(discover(1, A))
    core.apply(sight(A, 2, ev(0, OPEN, 100), ev(1, CLOSE, 101)))
    core.apply(cover(A, 0, 2, [0, 1], 103))
    assert len(core.settle(150)) == 1
    core.tick(now)
    if now == 1000:
        core.tick(now + 101)  # the youngest memory is sealed first, and let go of when that is old enough
    assert ("t" in core.archive.lingering) == lingers
    core.apply(sight(A, 3, ev(2, OPEN, 104)))
    assert ("t" not in core.live) == known
    assert core.figures.anomalies["late_event"] == int(known)


def test_no_more_than_so_many_linger() -> None:
    rules = make_rules(Style(colocated=True))._replace(most_lingering=2)
    core = Core(rules)
    core.apply(discover(1, A))
    for k in range(4):
        core.apply(sight(A, 2 * k + 2, ev(2 * k, OPEN, 100, f"t{k}"), ev(2 * k + 1, CLOSE, 101, f"t{k}")))
        core.apply(cover(A, 2 * k, 2 * k + 2, [2 * k, 2 * k + 1], 103))
        core.settle(150)
    assert list(core.archive.lingering) == ["t2", "t3"]
    assert len(core.archive.tombstones) == 4
