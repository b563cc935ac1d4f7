"""What transactions that are over leave behind is removed in portions, and nothing that is still needed with it."""

import gc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.core.by_hand import CLOSE, OPEN, A, cover, discover, ev, sight
from tests.harness.core.core import Core
from tests.harness.core.worlds import Style, make_rules
from txninsightd.core import settlement, verdicts
from txninsightd.core.transaction import Transaction
from txninsightd.core.verdicts import PartitionState
from txninsightd.vocabulary import Coverage, PartitionRef

LEAST = 4
PORTION = 3
FUTURE = 1e5


@pytest.fixture(autouse=True, scope="module")
def _small_portions() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdicts, "LEAST_COMPACTED", LEAST)
        patch.setattr(verdicts, "COMPACTED_A_STEP", PORTION)
        patch.setattr(verdicts, "COMPACTED_BATCH", 2)
        yield


class Sighting:
    """One partition in which nothing is delivered, and beside it all that must be kept of it."""

    def __init__(self, crowded: bool = False) -> None:
        self.crowded = crowded
        self.partition = PartitionState(PartitionRef("orders", 0), 0)
        self.live: set[str] = set()
        self.sighted: dict[int, str] = {}
        self.undecided: list[tuple[int, str]] = []

    def sight(self, count: int, live: bool) -> None:
        low = self.partition.monitor_offset
        names = [f"t{offset}" for offset in range(low, low + count)]
        self.live.update(names if live else ())
        self.sighted |= dict(enumerate(names, low))
        self.partition.sight(list(range(low, low + count)), names, low + count, 0.0)
        self.partition.compact(self.live, self.crowded, brought=count)

    def finish(self, number: int) -> None:
        """One of the live ones is over."""
        if self.live:
            self.live.discard(sorted(self.live)[number % len(self.live)])

    def decide(self, count: int) -> None:
        """So many more offsets are passed without a delivery: each sighting that is kept there has a verdict."""
        low = self.partition.validator_offset
        high = min(low + count, self.partition.monitor_offset)
        if high > low:
            self.partition.cover(Coverage("orders", 0, low, high, 1.0, 0.0, [], [], -1))
            for _, _, undelivered in self.partition.decide():
                found = {u.offset: u.txn_id for u in undelivered}
                assert found.keys() >= {o for o in range(low, high) if self.sighted[o] in self.live}
                assert found.items() <= self.sighted.items()


@given(
    crowded=st.booleans(),
    actions=st.lists(
        st.one_of(
            st.tuples(st.just("sight"), st.integers(1, 9), st.booleans()),
            st.tuples(st.just("finish"), st.integers(0, 50), st.just(False)),
            st.tuples(st.just("decide"), st.integers(1, 15), st.just(False)),
        ),
        max_size=60,
    ),
)
def test_live_sightings_are_kept_and_the_count_is_right(crowded: bool, actions: list[tuple[str, int, bool]]) -> None:
    sighting = Sighting(crowded)
    for what, number, live in actions:
        if what == "sight":
            sighting.sight(number, live)
        elif what == "finish":
            sighting.finish(number)
        else:
            sighting.decide(number)
        kept = {o: t for s in sighting.partition.sighted for o, t in zip(s.offsets, s.txn_ids, strict=True)}
        assert all(s.offsets for s in sighting.partition.sighted)
        assert list(kept) == sorted(kept)
        assert len(kept) == sighting.partition.undecided
        assert kept.items() <= sighting.sighted.items()
        decided = sighting.partition.decided_offset
        assert kept.keys() >= {o for o, t in sighting.sighted.items() if t in sighting.live and o >= decided}


@pytest.mark.parametrize("each", [1, PORTION, 5 * PORTION])
def test_those_of_finished_transactions_are_removed_faster_than_they_come(each: int) -> None:
    sighting = Sighting()
    many = 40 * each
    for _ in range(40):
        sighting.sight(each, live=True)
    assert sighting.partition.undecided == many
    sighting.live = {"t0"}
    most = 0
    for i in range(400):
        sighting.sight(each, live=False)
        if i > 80:
            most = max(most, sighting.partition.undecided)
    assert most <= 3 * max(LEAST, 3 * each)
    assert sighting.partition.oldest_undecided() == (0, "t0")


def test_where_there_is_hardly_any_room_all_are_removed_at_once() -> None:
    sighting = Sighting()
    for _ in range(40):
        sighting.sight(PORTION, live=True)
    sighting.live, sighting.crowded = set(), True
    sighting.sight(PORTION, live=True)
    while not sighting.partition.undecided <= PORTION:
        before = sighting.partition.undecided
        sighting.sight(PORTION, live=False)
        assert sighting.partition.undecided in (before + PORTION, 0, PORTION)


def test_one_message_looks_at_no_more_than_a_portion_and_a_batch() -> None:
    sighting = Sighting()
    for _ in range(40):
        sighting.sight(1, live=True)
    sighting.live.clear()
    before = sighting.partition.undecided
    removed = []
    for _ in range(40):
        sighting.sight(1, live=True)
        removed.append(before + 1 - sighting.partition.undecided)
        before = sighting.partition.undecided
    assert 0 < max(removed) <= PORTION + 2


def test_what_has_settled_does_not_stay_in_the_queue_by_which_it_did_not_settle() -> None:
    """No partition is ever seen as of a moment, so all settle by what was read past, and stand in the other queue.

    The first one in it, with a close from the future, stays.
    """
    rounds, each = 200, 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settlement, "LEAST_COMPACTED", 40)
        patch.setattr(settlement, "COMPACTED_A_STEP", 15)
        core = Core(make_rules(Style())._replace(linger_s=0.0), remembers=False)
        core.apply(discover(1e6, A))
        before, most = alive(), 0
        for i in range(rounds):
            low, names = 2 * each * i, [f"t{i}-{j}" for j in range(each)]
            opens = [ev(low + j, OPEN, 100 + i, name) for j, name in enumerate(names)]
            closes = [ev(low + each + j, CLOSE, 100 + i if i else FUTURE, name) for j, name in enumerate(names)]
            high = low + 2 * each
            for message in (sight(A, high, *opens, *closes), cover(A, low, high, list(range(low, high)), 100 + i)):
                core.apply(message)
            core.settle(100 + i)
            core.tick(100 + i)
            most = max(most, alive() - before)
    assert len(core.live) < 100, "those of the last seconds wait"
    assert most < 300


def alive() -> int:
    """How many transactions there are in memory."""
    return sum(isinstance(each, Transaction) for each in gc.get_objects())
