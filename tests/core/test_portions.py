"""A message in portions is what it is as a whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.core.by_hand import CLOSE, OPEN, A, B, cover, discover, ev, sight
from tests.harness.core.core import Core
from tests.harness.core.worlds import Style, make_rules
from txninsightd.core.ledger import EVALUATED_A_STEP
from txninsightd.core.portions import DECIDED_A_PORTION
from txninsightd.offset_ranges import OffsetRanges
from txninsightd.vocabulary import Coverage, Discovery, PartitionRef, State, Verdict

COUNT = 3 * DECIDED_A_PORTION + 7

ranges = st.lists(st.integers(0, 40), max_size=9, unique=True).map(
    lambda bounds: sorted(bounds)[: len(bounds) // 2 * 2]
)


@given(ranges, st.integers(0, 40), st.integers(1, 41))
def test_ranges_between_two_offsets(flat: list[int], start: int, length: int) -> None:
    end = start + length
    within = OffsetRanges(OffsetRanges(flat).between(start, end))
    assert within.is_sound
    assert [o for o in range(42) if o in within] == [o for o in range(start, end) if o in OffsetRanges(flat)]


def opened() -> Core:
    """So many transactions on one partition, none of them decided."""
    core = Core(make_rules(Style()))
    core.apply(discover(1000, A))
    for low in range(0, COUNT, 700):
        high = min(low + 700, COUNT)
        core.apply(sight(A, high, *(ev(offset, OPEN, 100, f"t{offset}") for offset in range(low, high))))
        core.settle(0.0)
    return core


@pytest.mark.parametrize("delivered", [[], list(range(COUNT)), list(range(0, COUNT, 2))], ids=["none", "all", "some"])
def test_portions_add_up_to_the_whole(delivered: list[int]) -> None:
    core = opened()
    whole = cover(A, 0, COUNT, delivered, 105, as_of=104, gaps=[3, 9])
    portions = []
    for portion in core.ledger.in_portions(whole):
        assert isinstance(portion, Coverage)
        portions.append(portion)
        before = core.partitions[A].undecided_records()
        core.apply(portion)
        assert before - core.partitions[A].undecided_records() <= DECIDED_A_PORTION
    assert [p.from_offset for p in portions] == [0, *(p.to_offset for p in portions[:-1])]
    assert portions[-1].to_offset == COUNT
    for ranges_of in (lambda p: p.runs, lambda p: p.gaps):
        offsets = [o for p in portions for low, high in OffsetRanges(ranges_of(p)) for o in range(low, high)]
        assert offsets == [o for low, high in OffsetRanges(ranges_of(whole)) for o in range(low, high)]
    assert [p.as_of for p in portions] == [0.0] * (len(portions) - 1) + [104]
    core.settle(0.0)
    at_once = opened()
    at_once.apply(whole)
    at_once.settle(0.0)
    assert states_of(core) == states_of(at_once)
    assert core.figures.gauges.live == at_once.figures.gauges.live


def states_of(core: Core) -> dict[str, State]:
    return {txn.txn_id: txn.state for txn in core.live.values()}


@pytest.mark.parametrize("recreated", [False, True], ids=["deleted", "recreated"])
def test_a_topic_that_is_gone_is_judged_in_portions(recreated: bool) -> None:
    core, at_once = opened(), opened()
    if recreated:
        looks = [discover(1001, A, B, topic_ids={"a": "another", "b": "b"})]
    else:
        # Nothing is retired by the first look that misses it.
        looks = [discover(1001, B), discover(1002, B, found=())]
    for look in looks:
        for portion in core.ledger.in_portions(look):
            before = core.partitions[A].undecided_records()
            core.apply(portion)
            assert before - core.partitions[A].undecided_records() <= DECIDED_A_PORTION
        assert portion is look
        at_once.apply(look)
    for each in core, at_once:
        each.settle(0.0)
    assert core.partitions[A].void
    assert core.partitions[A].undecided_records() == 0
    assert states_of(core) == states_of(at_once)
    assert core.figures.records == at_once.figures.records
    assert core.figures.gauges.live == at_once.figures.gauges.live
    everyones = [core.ledger.life(txn) for txn in core.live.values()]
    assert {j.verdict for life in everyones for j in life} == {Verdict.UNKNOWN}


def test_a_topic_of_many_small_partitions_is_judged_in_portions() -> None:
    core, count = Core(make_rules(Style())), 2 * DECIDED_A_PORTION // 50
    refs = [PartitionRef("a", number) for number in range(count)]
    core.apply(discover(1000, *refs))
    for ref in refs:
        core.apply(sight(ref, 50, *(ev(offset, OPEN, 100, f"{ref.partition}-{offset}") for offset in range(50))))
    decided, looks = [], 0
    for portion in core.ledger.in_portions(discover(1001, *refs, topic_ids={"a": "another"}, found=())):
        before = sum(p.undecided_records() for p in core.partitions.values())
        core.apply(portion)
        decided.append(before - sum(p.undecided_records() for p in core.partitions.values()))
        looks += isinstance(portion, Discovery)
    assert max(decided) <= DECIDED_A_PORTION
    assert sum(decided) == 50 * count
    assert looks == 1


def test_what_decides_little_stays_whole() -> None:
    core = opened()
    whole = cover(A, 0, DECIDED_A_PORTION, [], 105)
    assert list(core.ledger.in_portions(whole)) == [whole]
    beyond_the_monitor = cover(A, COUNT, 9 * COUNT, [], 105)
    assert list(core.ledger.in_portions(beyond_the_monitor)) == [beyond_the_monitor]


def test_what_falls_due_at_once_is_evaluated_in_portions() -> None:
    core = opened()
    core.apply(cover(A, 0, COUNT, list(range(COUNT)), 105, as_of=5000))
    core.apply(discover(5000, A))
    core.apply(sight(A, COUNT, as_of=5000))
    assert len(core.stuck) == EVALUATED_A_STEP
    core.settle(5000)
    assert len(core.stuck) == COUNT


def test_a_snapshot_between_portions_forgets_nothing() -> None:
    core = opened()
    core.apply(cover(A, 0, COUNT, list(range(COUNT)), 105, as_of=5000))
    core.apply(discover(5000, A))
    core.apply(sight(A, COUNT, as_of=5000))
    after = core.restored()
    assert len(after.stuck) == EVALUATED_A_STEP
    after.apply(sight(A, COUNT, as_of=5001))
    after.settle(5001)
    assert len(after.stuck) == COUNT


def test_a_snapshot_while_many_settle_settles_each_once() -> None:
    core = Core(make_rules(Style()))
    events = [ev(offset, (OPEN, CLOSE)[offset % 2], 100, f"t{offset // 2}") for offset in range(2 * COUNT)]
    core.apply(discover(1000, A))
    core.apply(sight(A, 2 * COUNT, *events))
    core.apply(cover(A, 0, 2 * COUNT, list(range(2 * COUNT)), 103, as_of=103))
    core.apply(sight(A, 2 * COUNT, as_of=104))
    steps = core.pipeline.settling(105)
    for _ in range(12):
        next(steps)
    before = len(core.settled)
    assert 0 < before < COUNT
    after = core.restored()
    after.settle(105)
    assert len(after.settled) == COUNT
    assert sum(after.figures.finished.values()) == COUNT


def test_what_a_snapshot_still_had_to_evaluate_is_evaluated_before_anything_settles() -> None:
    """An abort may be settled by now, but a retry has come and is not evaluated yet."""
    core = Core(make_rules(Style()))
    crowd = [ev(offset, OPEN, 100, f"t{offset}") for offset in range(2, 2 + 2 * EVALUATED_A_STEP)]
    core.apply(discover(1000, A, B))
    core.apply(sight(A, 1, ev(0, OPEN, 100, "retried")))
    core.apply(cover(A, 0, 1, [], 101, as_of=101))
    core.settle(0.0)
    assert core.live["retried"].ending is not None
    core.apply(discover(5000, A, B))
    core.apply(sight(B, 0, as_of=5000))
    retry = ev(2 + len(crowd), OPEN, 4000, "retried")
    core.apply(sight(A, retry[0] + 1, *crowd, retry, as_of=5000))
    assert "retried" in {txn.txn_id for txn in core.ledger.agenda}
    after = core.restored()
    after.ledger.start_reading(5000)
    after.settle(5000)
    assert after.live["retried"].state is State.OPEN
    assert not after.settled
