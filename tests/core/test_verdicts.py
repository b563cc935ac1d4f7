"""What both views have seen of a partition becomes verdicts, offset by offset as the plainest reading of it says."""

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from tests.harness.core.by_hand import A, cover
from tests.harness.core.reference import Partition
from tests.harness.core.worlds import runs
from txninsightd.core.end_tracker import EndTracker
from txninsightd.core.verdicts import PartitionState
from txninsightd.offset_ranges import OffsetRanges
from txninsightd.vocabulary import Coverage, Sightings, Verdict

ascending = st.lists(st.integers(0, 40), unique=True).map(sorted)


@given(ascending)
def test_runs_hold_just_these_offsets(offsets: list[int]) -> None:
    found = OffsetRanges.of_offsets(offsets).flat
    assert [o for i in range(0, len(found), 2) for o in range(found[i], found[i + 1])] == offsets
    assert found == sorted(set(found))  # neither empty ones nor such that touch


# --- Verdicts ---------------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What one reader tells: the monitor that it passed `upto` with some events, or the validator that it did."""

    coverage: bool
    start: int  # of a range that may overlap what was told, or skip
    length: int
    chosen: int  # as bits: which offsets are events, or delivered
    gaps: int


steps = st.builds(
    Step, st.booleans(), st.integers(-3, 3), st.integers(0, 8), st.integers(0, 2**12 - 1), st.integers(0, 2**12 - 1)
)


def _chosen(bits: int, low: int, high: int) -> list[int]:
    return [o for o in range(low, high) if bits >> (o % 12) & 1]


@given(st.lists(steps, max_size=25), st.integers(0, 3))
def test_verdicts_are_those_of_the_plainest_reading(told: list[Step], start: int) -> None:
    state, plain = PartitionState(A, start), Partition(A, start)
    sighted: dict[int, str] = {}
    verdicts: dict[int, Verdict] = {}
    undelivered: dict[int, tuple[Verdict, float]] = {}
    for moment, step in enumerate(told, start=1):
        if step.coverage:
            low = max(0, state.validator_offset + step.start)
            high = low + step.length
            gaps = [o for o in _chosen(step.gaps, low, high) if o % 3 == 0]
            delivered = [o for o in _chosen(step.chosen, low, high) if o not in gaps]
            message = cover(A, low, high, delivered, float(moment), gaps=runs(gaps))
            state.cover(message)
            plain.coverage.append(message)
        else:
            low, high = state.monitor_offset, state.monitor_offset + step.length
            offsets = _chosen(step.chosen, low, high)
            sighted |= {o: f"t{o}" for o in offsets}
            state.sight(offsets, [f"t{o}" for o in offsets], high, float(moment))
            plain.sightings.append(_passed(high))
        for upto, _, found in state.decide():
            verdicts |= {o: Verdict.COMMITTED for o in sighted if o < upto and o not in verdicts}
            for u in found:
                assert sighted[u.offset] == u.txn_id
                assert u.offset not in undelivered
                verdicts[u.offset] = u.verdict
                undelivered[u.offset] = (u.verdict, u.decided_at)
        assert state.decided_offset == plain.decided_position()
        assert {o: verdicts.get(o, Verdict.PENDING) for o in sighted} == {o: plain.verdict(o)[0] for o in sighted}
        assert all(plain.verdict(o) == said for o, said in undelivered.items())
        waiting = sorted(o for o in sighted if o >= state.decided_offset)
        assert state.undecided_records() == len(waiting)
        assert state.oldest_undecided() == ((waiting[0], f"t{waiting[0]}") if waiting else None)
    if state.validator_offset <= state.monitor_offset:
        assert not list(state.waiting)
        assert state.waiting_runs == 0


def _passed(upto: int) -> Sightings:
    return Sightings("a", 0, upto, 0.0, 0.0, 0.0, [], [], [], [], [], [], [], {}, upto, 0.0)


def test_a_delivered_offset_is_committed_though_a_gap_is_told_over_it() -> None:
    state = PartitionState(A, 0)
    state.sight([0, 1], ["t0", "t1"], 2, 1.0)
    state.cover(cover(A, 0, 2, [0], 1.0, gaps=[0, 2]))
    ((upto, _, undelivered),) = state.decide()
    assert (upto, [(u.offset, u.verdict) for u in undelivered]) == (2, [(1, Verdict.UNKNOWN)])


def test_delivered_and_lost_records_count_once() -> None:
    state = PartitionState(A, 0)
    assert state.cover(cover(A, 0, 10, [0, 1, 2, 5], 1.0, gaps=[6, 8])) == {"ok": 4, "gap": 2}
    assert state.cover(cover(A, 0, 10, [0, 1, 2, 5], 1.0, gaps=[6, 8])) == {}
    assert state.cover(cover(A, 5, 12, [5, 8, 9, 10, 11], 1.0)) == {"ok": 2}


def test_how_long_the_last_stable_offset_has_stood_still() -> None:
    state = PartitionState(A, 0)
    state.sight([0], ["t0"], 1, 10.0)
    assert state.waiting_since == 10  # a record lies behind the frontier since then
    state.sight([1], ["t1"], 2, 12.0)
    assert state.waiting_since == 10
    state.cover(cover(A, 0, 1, [0], 13.0))
    assert state.waiting_since == 13  # it moved, and stands again before record 1
    state.cover(cover(A, 1, 2, [1], 14.0))
    assert state.waiting_since == 0


# --- as_of ------------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    asked_at: float
    end_offset: int


def plain_as_of(answers: list[Answer], position: int) -> float:
    """The latest moment at which the log ended at or before the position."""
    return max((a.asked_at for a in answers if a.end_offset <= position), default=0.0)


events = st.lists(
    st.one_of(st.tuples(st.just("ask"), st.integers(0, 4)), st.tuples(st.just("read"), st.integers(0, 6)))
)


@given(events)
def test_as_of_is_the_latest_answer_that_was_reached(told: list[tuple[str, int]]) -> None:
    tracker = EndTracker()
    answers: list[Answer] = []
    end, position, moment = 0, 0, 0.0
    for what, amount in told:
        moment += 1
        if what == "ask":
            end += amount
            answers.append(Answer(moment, end))
            tracker.answered(moment, end)
            assert tracker.end_offset == end
        else:
            position = min(position + amount, end)
        catch_up(tracker, position)
        # Few unreached answers are kept: then it may lag behind, but never claims more than was seen.
        unreached = [a for a in answers if a.end_offset > position]
        assert tracker.as_of <= plain_as_of(answers, position)
        if len(unreached) < EndTracker.MOST_KEPT and len(answers) <= EndTracker.MOST_KEPT:
            assert tracker.as_of == plain_as_of(answers, position)


def test_with_too_many_answers_ahead_as_of_lags_but_comes_to_the_last() -> None:
    tracker = EndTracker()
    for moment in range(1, 41):
        tracker.answered(float(moment), moment)
    tracker.reached(5)
    assert tracker.as_of == 5
    tracker.reached(30)
    assert 5 <= tracker.as_of <= 30
    tracker.reached(40)
    assert tracker.as_of == 40


def test_an_old_answer_says_nothing_new() -> None:
    tracker = EndTracker()
    tracker.answered(10.0, 3)
    tracker.answered(9.0, 1)
    tracker.reached(2)
    assert tracker.as_of == 0
    tracker.reached(3)
    assert tracker.as_of == 10


def test_an_outage_is_told_once_with_the_as_of_that_ends_it() -> None:
    tracker = EndTracker()
    tracker.answered(10.0, 3)
    tracker.reached(3)
    tracker.failed()
    tracker.failed()
    tracker.answered(30.0, 5)
    assert tracker.take_outage() == 0  # what was written before it has not been read yet
    tracker.reached(4)
    assert tracker.take_outage() == 0
    tracker.reached(5)
    assert (tracker.as_of, tracker.take_outage(), tracker.take_outage()) == (30, 10, 0)


def catch_up(tracker: EndTracker, position: int) -> list[tuple[float, float]]:
    """All that a reader tells while it stands there: (outage_from, as_of) of each advance."""
    told = []
    before = -1.0
    while tracker.as_of > before:
        before = tracker.as_of
        tracker.reached(position)
        told.append((tracker.take_outage(), tracker.as_of))
    return told


def test_an_outage_ends_with_the_first_answer_after_it() -> None:
    # A reader that needs long to catch up after a short outage must not tell of a long one.
    tracker = EndTracker()
    tracker.answered(10.0, 0)
    tracker.reached(0)
    tracker.failed()
    for moment in (15.0, 16.0, 600.0):
        tracker.answered(moment, int(moment))
    outages = [told for told in catch_up(tracker, 600) if told[0]]
    assert (outages, tracker.as_of) == ([(10, 15)], 600)


def test_an_outage_is_neither_forgotten_nor_prolonged_by_a_dropped_answer() -> None:
    tracker = EndTracker()
    tracker.answered(1.0, 0)
    tracker.reached(0)
    for moment in range(2, 2 + EndTracker.MOST_KEPT):
        tracker.answered(float(moment), 100 + moment)
    tracker.failed()
    for moment in range(50, 90):
        tracker.answered(float(moment), 200 + moment)
    outages = [told for told in catch_up(tracker, 300) if told[0]]
    assert (outages, tracker.as_of) == ([(1 + EndTracker.MOST_KEPT, 50)], 89)


def test_a_broker_that_never_answered_is_no_outage() -> None:
    tracker = EndTracker()
    tracker.failed()
    tracker.answered(5.0, 0)
    tracker.reached(0)
    assert (tracker.as_of, tracker.take_outage()) == (5, 0)


def test_coverage_may_be_empty() -> None:
    state = PartitionState(A, 5)
    assert state.cover(Coverage("a", 0, 5, 5, 1.0, 1.0, [], [], 5)) == {}
    assert list(state.decide()) == []
    assert state.decided_offset == 5
