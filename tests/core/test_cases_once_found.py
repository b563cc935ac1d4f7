"""Small stories that a ledger once told wrongly, each with what was wrong."""

import pytest

from tests.harness.core.by_hand import (
    B_RECREATED,
    CLOSE,
    OPEN,
    STEP_DONE,
    STEP_OPEN,
    A,
    B,
    cover,
    discover,
    ev,
    hand,
    side_by_side,
    sight,
)
from tests.harness.core.manners import Manner
from tests.harness.core.side_by_side import SideBySide
from tests.harness.core.worlds import Style, World, make_rules
from txninsightd.core.facts import PartitionsFound
from txninsightd.vocabulary import Cause, Outcome, PartitionStart, Verdict


def test_a_step_stamped_before_the_start_makes_a_plain_open_transaction_partial_at_once() -> None:
    # The step took the short path of open transactions, and the gauge of partial ones was not told.
    side_by_side(
        discover(1, A),
        sight(A, 1, ev(0, OPEN, 100)),
        sight(A, 2, ev(1, STEP_OPEN, 50)),
        start_at=60,
    )


def test_an_outage_that_is_told_late_frees_whom_it_excuses() -> None:
    # Stuck transactions were not looked at again when another partition told of an outage that extends their wait.
    both = side_by_side(
        discover(1000, A, B),
        sight(A, 2, ev(0, OPEN, 100), ev(1, CLOSE, 102)),
        cover(A, 0, 1, [0], 101, as_of=120),
        sight(A, 2, as_of=120),
    )
    assert both.core.live["t"].cause == Cause.COMMIT_PENDING
    hand(both, sight(B, 0, as_of=130, outage_from=103))
    assert both.core.live["t"].cause is None


@pytest.mark.parametrize("apart", [False, True])
def test_the_reader_of_a_deleted_topic_tells_of_no_outage(apart: bool) -> None:
    # It was ignored in a message about records, and lengthened every wait where it came apart from records.
    world = World(make_rules(Style()), {}, 0.0, [])
    both = SideBySide(world, Manner(apart))
    hand(both, discover(1000, A, B), discover(1001, A, B_RECREATED, found=()))
    hand(both, sight(B, 0, as_of=115, outage_from=101))
    assert not both.core.ledger.watermark.pauses.outages


def test_what_lies_beyond_the_close_does_not_name_the_type() -> None:
    # Where events are colocated, an event beyond the first decided close is late, whether it was already sighted or
    # not; yet sighted before the settlement it could still name the type.
    both = side_by_side(
        discover(1, A),
        sight(A, 3, ev(0, OPEN, 100, txn_type="order"), ev(1, CLOSE, 101), ev(2, STEP_DONE, 99, txn_type="pay")),
        cover(A, 0, 2, [0, 1], 103),
        colocated=True,
    )
    assert [(e.txn_type, e.outcome, e.late_events) for _, e in both.finished] == [("order", Outcome.CLOSED, 1)]


def test_what_lies_beyond_the_close_does_not_make_it_partial() -> None:
    # The same with an event stamped before the start.
    both = side_by_side(
        discover(1, A),
        sight(A, 3, ev(0, OPEN, 100), ev(1, CLOSE, 101), ev(2, STEP_DONE, 50)),
        cover(A, 0, 2, [0, 1], 103),
        colocated=True,
        start_at=60,
    )
    assert [(e.duration_s, e.late_events) for _, e in both.finished] == [(1, 1)]


@pytest.mark.parametrize("gap_comes_first", [True, False])
def test_a_gap_after_all_was_seen_there_leaves_an_abort_known(gap_comes_first: bool) -> None:
    # Partition a was seen beyond the abort's grace before its gap, so no retry can lie in the gap; but whether the
    # outcome was aborted or unknown depended on whether the gap or partition b's last message arrived first.
    both = side_by_side(
        discover(1000, A, B),
        sight(A, 1, ev(0, OPEN, 100)),
        cover(A, 0, 1, [], 101, as_of=101),
        sight(A, 1, as_of=200),
    )
    gap = sight(A, 3, gaps=[1, 2], read_at=201)
    seen = sight(B, 0, as_of=200)
    hand(both, *((gap, seen) if gap_comes_first else (seen, gap)))
    assert [e.outcome for _, e in both.finished] == [Outcome.ABORTED]


def test_events_on_two_partitions_are_idle_once_both_are_seen() -> None:
    # Colocated, but breached: the transaction waited in the first partition's wheel only.
    both = side_by_side(
        discover(1000, A, B),
        sight(A, 1, ev(0, OPEN, 100)),
        sight(B, 1, ev(0, STEP_OPEN, 101)),
        sight(A, 1, as_of=200),
        sight(B, 1, as_of=200),
        colocated=True,
    )
    assert both.core.live["t"].cause == Cause.IDLE


def test_a_gap_that_is_told_again_is_no_new_gap() -> None:
    # A reader that was restarted may tell again what was applied; its gap then suspended younger transactions too.
    both = side_by_side(
        discover(200_000, A),
        sight(A, 3, gaps=[0, 2], read_at=10, as_of=10),
        sight(A, 4, ev(3, OPEN, 100_100)),
        sight(A, 3, gaps=[0, 2], read_at=100_100, as_of=10),
        sight(A, 4, as_of=100_200),
    )
    assert both.core.live["t"].cause == Cause.IDLE


def test_a_later_close_does_not_hold_back_one_that_was_decided() -> None:
    # Colocated, the first decided close ends it at once; with a later close pending, one of unknown verdict did not.
    both = side_by_side(
        discover(1000, A),
        sight(A, 3, ev(0, OPEN, 100), ev(1, CLOSE, 101), ev(2, CLOSE, 102)),
        cover(A, 0, 2, [0], 103, gaps=[1, 2]),
        colocated=True,
    )
    assert [(e.outcome, e.late_events) for _, e in both.finished] == [(Outcome.UNKNOWN, 1)]


def test_a_recreated_topic_is_a_gap() -> None:
    # What was in it and was not read never will be, so silence there means nothing.
    both = side_by_side(
        discover(1000, A, B),
        sight(A, 1, ev(0, OPEN, 100), as_of=101),
        sight(B, 2, ev(0, OPEN, 100, "aborted"), ev(1, OPEN, 101, "lost"), as_of=101),
        cover(B, 0, 1, [], 102),
    )
    hand(both, discover(1001, A, B_RECREATED, found=(), complete=False))
    hand(both, sight(B, 3, ev(2, OPEN, 200, "never"), as_of=900), sight(A, 1, as_of=900))
    assert both.core.live["t"].cause is None
    assert "never" not in both.core.live
    hand(both, sight(A, 1, as_of=1100), discover(1200, A, found=()))
    assert {name: e.outcome for name, e in both.finished} == {"aborted": Outcome.UNKNOWN, "lost": Outcome.UNKNOWN}


def test_a_recreated_topic_is_no_catch_up() -> None:
    # Partition a was never seen. It vanished in the look that found b recreated, and half of that look was judged.
    both = side_by_side(
        discover(1000, A, B),
        sight(B, 2, ev(0, OPEN, 100), ev(1, OPEN, 101, "u"), as_of=101),
        cover(B, 0, 1, [0], 102, as_of=101),
    )
    hand(both, discover(1001, B_RECREATED))
    assert not both.core.caught_up


@pytest.mark.parametrize("gap_comes_first", [True, False])
def test_a_gap_in_a_partition_that_was_not_there_yet_leaves_an_abort_known(gap_comes_first: bool) -> None:
    # Partition b was not there when the grace was over; a gap at its very beginning says nothing of that time.
    both = side_by_side(
        discover(200, A),
        sight(A, 1, ev(0, OPEN, 100)),
        cover(A, 0, 1, [], 101, as_of=101),
    )
    seen = sight(A, 1, as_of=190)
    young = [discover(300, A, B, found=(B,)), sight(B, 2, gaps=[0, 1], read_at=301), sight(B, 2, as_of=302)]
    hand(both, *([*young, seen] if gap_comes_first else [seen, *young]))
    assert [e.outcome for _, e in both.finished] == [Outcome.ABORTED]


def test_what_comes_after_a_topic_was_recreated_is_of_another_topic() -> None:
    # The same offsets, read and judged anew: the old sighting has no verdict of theirs, the late message no effect.
    both = side_by_side(
        discover(1000, A, B),
        sight(B, 2, ev(0, OPEN, 100, "old"), ev(1, OPEN, 101, "lost"), as_of=101),
        cover(B, 0, 1, [0], 102),
        discover(1001, A, B_RECREATED, found=(), complete=False),
        sight(B, 3, ev(2, OPEN, 102, "late")),
        cover(B, 1, 3, [], 103),
        discover(1003, A, B_RECREATED, found=(B,)),
        sight(B_RECREATED, 2, ev(0, OPEN, 1002, "new"), ev(1, OPEN, 1002, "lost")),
        cover(B_RECREATED, 0, 2, [1], 1004),
    )
    verdicts = {
        txn_id: [(j.event.ref, j.verdict) for j in both.core.life(txn)] for txn_id, txn in both.core.live.items()
    }
    assert verdicts == {
        "old": [(B, Verdict.COMMITTED)],
        "lost": [(B, Verdict.UNKNOWN), (B_RECREATED, Verdict.COMMITTED)],
        "new": [(B_RECREATED, Verdict.ABORTED)],
    }


@pytest.mark.parametrize("colocated", [False, True])
def test_what_was_lost_with_its_topic_is_not_kept_for_ever(colocated: bool) -> None:
    # Where events are colocated it waited for its own partition, which is not read any more.
    both = side_by_side(
        discover(1000, A, B),
        sight(A, 0, as_of=1000),
        sight(B, 1, ev(0, OPEN, 999), as_of=1000),
        discover(1010, A, found=()),
        colocated=colocated,
    )
    assert [j.verdict for j in both.core.life(both.core.live["t"])] == [Verdict.PENDING]
    hand(both, discover(1020, A, found=()))
    assert [j.verdict for j in both.core.life(both.core.live["t"])] == [Verdict.UNKNOWN]
    hand(both, sight(A, 0, as_of=1100), discover(1100, A, found=()), sight(A, 0, as_of=1101))
    assert [(name, e.outcome) for name, e in both.finished] == [("t", Outcome.UNKNOWN)]


def test_what_waits_beyond_the_monitor_goes_with_its_topic() -> None:
    # It could decide nothing any more, and yet stayed in memory and in every checkpoint.
    both = side_by_side(
        discover(1000, A, B),
        sight(B, 1, ev(0, OPEN, 999), as_of=1000),
        cover(B, 0, 9, [0, 2, 4, 6, 8], 1001),
        discover(1010, A, found=()),
    )
    partition = both.core.partitions[B]
    assert partition.waiting_runs == 6
    hand(both, discover(1020, A, found=()))
    assert partition.void
    assert (list(partition.waiting), partition.waiting_runs) == ([], 0)
    assert [j.verdict for j in both.core.life(both.core.live["t"])] == [Verdict.COMMITTED]


def test_half_a_look_deletes_nothing() -> None:
    both = side_by_side(discover(1000, A, B), sight(B, 1, ev(0, OPEN, 999), as_of=1000))
    for at in (1010, 1020, 1030):
        hand(both, discover(at, A, found=(), complete=False))
    hand(both, discover(1040, A, found=()), discover(1050, A, B, found=()), discover(1060, A, found=()))
    assert [j.verdict for j in both.core.life(both.core.live["t"])] == [Verdict.PENDING]


def test_a_topic_that_comes_back_as_the_same_goes_on_where_it_was_left() -> None:
    both = side_by_side(
        discover(1000, A, B),
        sight(B, 2, ev(0, OPEN, 999, "kept"), ev(1, OPEN, 999, "lost"), as_of=1000),
        cover(B, 0, 1, [0], 1001),
        discover(1010, A, found=()),
        discover(1020, A, found=()),
    )
    begun = both.core.apply(discover(1030, A, B, found=(B,)))
    assert begun == [PartitionsFound([PartitionStart("b", 0, 2, topic_id="b-0")])]
    both.plain.receive(discover(1030, A, B, found=(B,)))
    hand(both, sight(B, 3, ev(2, OPEN, 1040, "next"), as_of=1040), cover(B, 2, 3, [2], 1041))
    verdicts = {txn_id: both.core.life(txn)[0].verdict for txn_id, txn in both.core.live.items()}
    assert verdicts == {"kept": Verdict.COMMITTED, "lost": Verdict.UNKNOWN, "next": Verdict.COMMITTED}


def test_a_transaction_in_both_topics_of_one_name_is_still_colocated() -> None:
    both = side_by_side(
        discover(1000, B),
        sight(B, 1, ev(0, OPEN, 999), as_of=1000),
        cover(B, 0, 1, [0], 1001),
        discover(1010, B_RECREATED),
        sight(B_RECREATED, 1, ev(0, CLOSE, 1011), as_of=1011),
        cover(B_RECREATED, 0, 1, [0], 1012),
        colocated=True,
    )
    assert [(e.outcome, e.duration_s, e.anomalies) for _, e in both.finished] == [(Outcome.CLOSED, 12, set())]


def test_what_was_all_read_stays_so_when_a_topic_is_recreated() -> None:
    # Here the plain model was wrong: it took the new topic, of which nothing is read yet, for one that may hold what
    # was appended before the close. The transaction waited for a verdict only, since all had been read by then.
    both = side_by_side(
        discover(1000, A, B),
        sight(A, 1, ev(0, OPEN, 1001), as_of=1005),
        sight(B, 1, ev(0, CLOSE, 1003), as_of=1005),
        cover(B, 0, 1, [0], 1006),
        discover(1010, A, B, found=()),
        sight(A, 1, as_of=1010),
        sight(B, 1, as_of=1010),
        discover(1020, A, B_RECREATED, found=(B_RECREATED,)),
        cover(A, 0, 1, [0], 1021),
    )
    assert [(name, e.outcome, e.duration_s) for name, e in both.finished] == [("t", Outcome.CLOSED, 2)]
