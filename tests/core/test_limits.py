"""What grows with what comes in is bounded, and past the bound it is said what becomes of it.

Small stories first, then floods: the same ones with the limit lifted exceed the bound, so that a test can fail. Bounds
in bytes are those of docs/reliability.md.
"""

import os
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.harness.core.by_hand import CLOSE, OPEN, STEP_DONE, STEP_OPEN, A, B, cover, discover, ev, sight
from tests.harness.core.core import Core
from tests.harness.core.side_by_side import reachable_from
from tests.harness.core.worlds import Message, Style, make_rules
from txninsightd.core.deadlines import Bucket
from txninsightd.core.eviction import LEAST_EVICTED, LOOKS_PER_EVICTION
from txninsightd.core.rules import NO_LIMIT
from txninsightd.core.transaction import MOST_CAUSES, Ending
from txninsightd.vocabulary import Cause, Outcome, PartitionRef, Sightings, State, Verdict

BYTES_A_TRANSACTION = 1_500
BYTES_AN_EVENT = 300
"""What an open transaction takes, and each event of it, all that belongs to them included: docs/reliability.md."""

BASE_BYTES = 12_000_000
"""What floods of tiny limits may hold beside: tables, messages, what is borne with before it is sorted out."""

BATCH = 5_000


def new_core(colocated: bool = False, most_labels: int = 100, remembers: bool = True, **limits: int | float) -> Core:
    rules = make_rules(Style(colocated))._replace(most_lingering=100, **limits)  # type: ignore[arg-type]
    return Core(rules, most_labels=most_labels, remembers=remembers)


def hand(core: Core, *messages: Message, now: float = 0.0) -> list[tuple[str, Outcome]]:
    """Hand it messages, with a settlement after each; returns the outcomes of those that ended."""
    ended = []
    for message in messages:
        core.apply(message)
        ended += [(f.txn.txn_id, f.outcome) for f in core.settle(now)]
    return ended


def hits(core: Core) -> dict[str, int]:
    """The limits that have bitten, and how often."""
    return {name: count for name, count in core.figures.limit_hits.items() if count}


# --- Open transactions ------------------------------------------------------------------------------------------------


def test_past_the_limit_those_idle_for_longest_are_evicted() -> None:
    core = new_core(most_open=2)
    hand(core, discover(0, A), sight(A, 2, ev(0, OPEN, 10, "old"), ev(1, OPEN, 20, "idle")))
    hand(core, sight(A, 3, ev(2, STEP_OPEN, 30, "old", step="x")))
    assert hand(core, sight(A, 4, ev(3, OPEN, 31, "new")), now=40) == [("idle", Outcome.EVICTED)]
    assert set(core.live) == {"old", "new"}
    assert hits(core) == {"open_transactions": 1}
    assert core.figures.finished == {("unspecified", "evicted", "unspecified"): 1}
    gone = core.archive.lingering["idle"]
    assert (gone.outcome, gone.settled_at, gone.kpis.duration_s, gone.kpis.anomalies) == (
        Outcome.EVICTED,
        40,
        None,
        set(),
    )
    assert [j.verdict for j in gone.life] == [Verdict.PENDING]


def test_an_evicted_one_is_not_raised_from_the_dead() -> None:
    core = new_core(most_open=1)
    hand(core, discover(0, A), sight(A, 2, ev(0, OPEN, 10, "t"), ev(1, OPEN, 20, "u")))
    assert hand(core, sight(A, 4, ev(2, OPEN, 30, "t"), ev(3, CLOSE, 31, "t"))) == []
    assert set(core.live) == {"u"}
    assert core.figures.anomalies["late_event"] == 2
    assert hand(core, cover(A, 0, 4, [1], 50, as_of=50)) == []  # a late verdict changes nothing
    assert core.archive.lingering["t"].outcome is Outcome.EVICTED


def test_evicted_it_is_stuck_no_more_and_counts_in_no_gauge() -> None:
    core = new_core(most_open=1)
    hand(core, discover(99, A), sight(A, 1, ev(0, OPEN, 10, "t"), as_of=60), cover(A, 0, 1, [0], 60, as_of=60))
    assert core.live["t"].cause is Cause.IDLE
    hand(core, sight(A, 2, ev(1, OPEN, 61, "u"), as_of=61))
    assert core.stuck == {}
    assert core.figures.gauges.stuck == {}
    assert core.figures.gauges.live == {("unspecified", "open"): 1}
    assert core.stuck_changes[-1].txn_id == "t"
    assert core.stuck_changes[-1].cause is None


def test_what_can_be_settled_is_settled_and_not_evicted() -> None:
    core = new_core(most_open=1)
    hand(core, discover(99, A), sight(A, 2, ev(0, OPEN, 10, "t"), ev(1, CLOSE, 11, "t"), as_of=12))
    core.apply(cover(A, 0, 2, [0, 1], 20, as_of=20))
    assert hand(core, sight(A, 3, ev(2, OPEN, 61, "u"), as_of=61)) == [("t", Outcome.CLOSED)]
    assert hits(core) == {}


def test_eviction_looks_at_few_even_if_all_have_moved_on_and_finds_the_idle_one_soon() -> None:
    core = new_core(most_open=2 * LOOKS_PER_EVICTION * LEAST_EVICTED)
    count = core.rules.most_open
    hand(core, discover(0, A), sight(A, count, *(ev(i, OPEN, 10, f"t{i}") for i in range(count))))
    hand(core, sight(A, count + 1, ev(count, OPEN, 12, "idle")), now=1)
    again = [ev(count + 1 + i, STEP_OPEN, 50, t) for i, t in enumerate(core.live) if t != "idle"]
    end = count + 1 + len(again)
    hand(core, sight(A, end, *again))
    ended, new = [], 0
    while not ended:
        ended = hand(core, sight(A, end + new + 1, ev(end + new, OPEN, 60, f"n{new}")))
        new += 1
        assert new < 40
    assert ended[0] == ("idle", Outcome.EVICTED)


def test_a_limit_that_falls_is_reached_in_steps_so_that_nothing_stands_still() -> None:
    core = new_core()
    count = 3 * LEAST_EVICTED
    hand(core, discover(0, A), sight(A, count, *(ev(i, OPEN, 10 + i, f"t{i}") for i in range(count))))
    core.settle(0)
    for _ in core.adopt(core.rules._replace(most_open=10), 0):
        pass
    assert [len(core.settle(0)) for _ in range(4)] == [LEAST_EVICTED, LEAST_EVICTED, LEAST_EVICTED - 10, 0]
    assert set(core.live) == {f"t{i}" for i in range(count - 10, count)}


# --- Events of one transaction ----------------------------------------------------------------------------------------


def test_past_the_limit_steps_are_not_kept_and_opens_and_closes_are() -> None:
    core = new_core(most_events_each=4)
    steps = [ev(1 + i, STEP_OPEN if i % 2 == 0 else STEP_DONE, 11 + i, step="x") for i in range(10)]
    hand(core, discover(99, A), sight(A, 12, ev(0, OPEN, 10), *steps, ev(11, CLOSE, 30), as_of=31))
    txn = core.live["t"]
    assert [e.offset for e in txn.events] == [0, 1, 2, 3, 11]
    assert hits(core) == {"events_per_transaction": 7}
    assert hand(core, cover(A, 0, 12, list(range(12)), 32), sight(A, 12, as_of=40)) == [("t", Outcome.CLOSED)]
    kpis = core.archive.lingering["t"].kpis
    assert (kpis.duration_s, kpis.anomalies) == (20, set())
    assert not core.figures.step_durations  # no pairs are made of what was left
    assert (core.eviction.kept_events, core.eviction.undecided) == (0, 0)


def test_a_step_that_is_not_kept_still_shows_that_its_transaction_is_alive() -> None:
    core = new_core(most_events_each=1)
    hand(core, discover(999, A), sight(A, 1, ev(0, OPEN, 10), as_of=11), cover(A, 0, 1, [0], 11, as_of=99))
    hand(core, sight(A, 2, ev(1, STEP_OPEN, 20, step="x"), as_of=25))
    assert core.live["t"].cause is None  # idle after 12 s
    hand(core, sight(A, 2, as_of=33))
    assert (core.live["t"].cause, core.live["t"].since) == (Cause.IDLE, 32)
    hand(core, sight(A, 3, ev(2, STEP_OPEN, 36, step="x"), as_of=37))
    assert core.live["t"].cause is None
    hand(core, sight(A, 3, as_of=41))
    assert core.live["t"].cause is Cause.OVERDUE  # after 30 s, though what is kept of it is idle


def test_at_twice_as_many_opens_and_closes_it_is_evicted() -> None:
    core = new_core(most_events_each=4)
    events = [ev(i, OPEN if i % 2 == 0 else CLOSE, 10 + i) for i in range(9)]
    assert hand(core, discover(99, A), sight(A, 8, *events[:8])) == []
    assert hand(core, sight(A, 9, events[8])) == [("t", Outcome.EVICTED)]
    assert hits(core) == {"events_per_transaction": 1}
    hand(core, cover(A, 0, 9, [], 20, as_of=20))
    assert not core.partitions[A].pending_closes
    assert (core.eviction.kept_events, core.eviction.undecided) == (0, 0)


def test_all_that_is_kept_was_aborted_but_not_all_was_kept_so_the_outcome_is_unknown() -> None:
    for limit, outcome in ((2, Outcome.UNKNOWN), (NO_LIMIT, Outcome.ABORTED)):
        core = new_core(most_events_each=limit)
        events = [ev(0, OPEN, 10), ev(1, STEP_OPEN, 11, step="x"), ev(2, STEP_DONE, 12, step="x"), ev(3, CLOSE, 13)]
        hand(core, discover(99, A), sight(A, 4, *events, as_of=14), cover(A, 0, 4, [], 15, as_of=15))
        assert hand(core, sight(A, 4, as_of=22)) == [("t", outcome)]


def test_a_million_events_of_one_transaction() -> None:
    core = new_core(most_events_each=1_000)
    hand(core, discover(0, A))
    message = sight(A, BATCH, *(ev(i, STEP_OPEN, 10, step="x") for i in range(BATCH)))
    for i in range(200):
        hand(core, moved(message, i * BATCH))
    assert len(core.live["t"].events) == 1_000
    assert core.live["t"].given_up_steps == hits(core)["events_per_transaction"] == 999_000
    assert core.eviction.undecided == 1_000


# --- Events of all ----------------------------------------------------------------------------------------------------


def test_events_of_all_together_have_a_limit_and_what_lingers_goes_first() -> None:
    core = new_core(most_events=6)
    hand(core, discover(99, A), sight(A, 2, ev(0, OPEN, 10, "t"), ev(1, CLOSE, 11, "t"), as_of=12))
    hand(core, cover(A, 0, 2, [0, 1], 20, as_of=20), sight(A, 2, as_of=21))
    assert core.archive.kept_events == 2
    hand(core, sight(A, 7, *(ev(2 + i, STEP_OPEN, 30 + i, f"u{i % 2}") for i in range(5)), as_of=40))
    assert not core.archive.lingering
    assert hits(core) == {"kept_events": 1}
    assert hand(core, sight(A, 9, ev(7, OPEN, 41, "v"), ev(8, CLOSE, 42, "v"))) == [("u1", Outcome.EVICTED)]
    assert core.eviction.kept_events + core.archive.kept_events <= 6
    assert hits(core)["kept_events"] >= 2


# --- What has no verdict ----------------------------------------------------------------------------------------------


def frozen(most_undecided: int) -> tuple[Core, dict[str, str]]:
    """A last stable offset that stands still at 0, and behind it whole transactions. Gives how each will be decided."""
    core = new_core(most_undecided=most_undecided, most_open=1_000)
    hand(core, discover(10_000, A), sight(A, 1, ev(0, OPEN, 10, "holder"), as_of=11), cover(A, 0, 0, [], 11, as_of=11))
    fates, draw, offset = {}, random.Random(3), 1
    for i in range(300):
        txn_id = f"t{i}"
        fates[txn_id] = draw.choice(("committed", "aborted"))
        steps = [ev(offset + 1 + k, STEP_OPEN if k % 2 == 0 else STEP_DONE, 20 + i, txn_id, step="x") for k in range(4)]
        batch = [ev(offset, OPEN, 20 + i, txn_id), *steps, ev(offset + 5, CLOSE, 21 + i, txn_id)]
        offset += 6
        assert hand(core, sight(A, offset, *batch, as_of=21 + i)) == []
    return core, fates


@pytest.mark.parametrize("most_undecided", [0, 100, 900])
def test_behind_a_frozen_last_stable_offset_steps_are_given_up_and_verdicts_are_right_afterwards(
    most_undecided: int,
) -> None:
    core, fates = frozen(most_undecided)
    assert core.eviction.undecided <= most_undecided + 1 + 2 * 300  # opens and closes always have their place
    assert hits(core)["undecided_records"] == 6 * 300 + 1 - core.eviction.undecided
    delivered = [1 + 6 * i + k for i, fate in enumerate(fates.values()) if fate == "committed" for k in range(6)]
    ended = hand(core, cover(A, 0, 1801, [0, *delivered], 400, as_of=400), sight(A, 1801, as_of=500))
    outcomes = dict(ended)
    assert outcomes.keys() == fates.keys()
    for i, (txn_id, fate) in enumerate(fates.items()):
        whole = txn_id not in {t for t, f in core.archive.lingering.items() if f.txn.given_up_steps}
        if fate == "committed":
            assert outcomes[txn_id] is Outcome.CLOSED
        elif i >= 200:  # still lingering
            assert outcomes[txn_id] is (Outcome.ABORTED if whole else Outcome.UNKNOWN)
        else:
            assert outcomes[txn_id] in (Outcome.ABORTED, Outcome.UNKNOWN)
    assert core.eviction.undecided == 0


def test_with_the_limit_lifted_nothing_is_given_up() -> None:
    core, fates = frozen(NO_LIMIT)
    assert hits(core) == {}
    assert core.eviction.undecided == 1 + 6 * len(fates)


# --- The operator's word ----------------------------------------------------------------------------------------------


def test_the_operator_ends_one_that_is_dead() -> None:
    core = new_core()
    hand(core, discover(99, A), sight(A, 2, ev(0, OPEN, 10), ev(1, CLOSE, 11)))
    assert not core.forget("u", 20)
    assert core.forget("t", 20)
    assert not core.forget("t", 21)
    assert not core.live
    assert core.figures.finished == {("unspecified", "forgotten", "unspecified"): 1}
    assert core.archive.lingering["t"].outcome is Outcome.FORGOTTEN
    assert hits(core) == {}
    hand(core, sight(A, 3, ev(2, OPEN, 30)), cover(A, 0, 3, [], 40, as_of=40))
    assert not core.live
    assert core.figures.anomalies["late_event"] == 1


# --- What is kept over a restart --------------------------------------------------------------------------------------


def test_what_limits_need_is_there_again_after_a_restart() -> None:
    core = new_core(most_events_each=2, most_open=3)
    events = [ev(0, OPEN, 10), *(ev(i, STEP_OPEN, 10 + i) for i in range(1, 5)), ev(5, OPEN, 30, "u")]
    hand(core, discover(99, A), sight(A, 6, *events, as_of=31), cover(A, 0, 0, [], 31, as_of=31))
    again = Core(core.rules)
    again.restore(core.chunks())
    assert again.live["t"].given_up_steps == core.live["t"].given_up_steps == 3
    assert (
        (again.eviction.kept_events, again.eviction.undecided)
        == (core.eviction.kept_events, core.eviction.undecided)
        == (3, 3)
    )
    assert hits(again) == hits(core) == {"events_per_transaction": 3}
    more = sight(A, 8, ev(6, OPEN, 40, "v"), ev(7, OPEN, 41, "w"))
    assert hand(again, more) == hand(core, more) == [("t", Outcome.EVICTED)]


# --- Floods -----------------------------------------------------------------------------------------------------------


def moved(message: Sightings, by: int) -> Sightings:
    """The same events further on in the log."""
    return replace(message, to_offset=message.to_offset + by, offsets=[offset + by for offset in message.offsets])


def flood(
    total: int, kinds: str = "o", spread_s: float = 1e9, seed: int = 1, ref: PartitionRef = A
) -> Iterator[Sightings]:
    """Abandoned transactions: an open (o), step (s), close (c) each, stamped anywhere in 30 years."""
    draw = random.Random(seed)
    words = {"o": OPEN, "s": STEP_OPEN, "c": CLOSE}
    table = [(int(words[kind]), "x" if kind == "s" else None, "order", None, False, False) for kind in kinds]
    offset = 0
    for start in range(0, total, BATCH // len(kinds)):
        count = min(BATCH // len(kinds), total - start)
        stamps = [draw.random() * spread_s for _ in range(count) for _ in kinds]
        yield Sightings(
            topic=ref.topic,
            partition=ref.partition,
            to_offset=offset + len(stamps),
            read_at=1e9,
            as_of=0.0,
            low_timestamp=min(stamps),
            signatures=table,
            offsets=list(range(offset, offset + len(stamps))),
            txn_ids=[f"transaction-{start + i:09d}" for i in range(count) for _ in kinds],
            signature_indexes=list(range(len(kinds))) * count,
            timestamps=stamps,
            record_timestamps=stamps,
            gaps=[],
            results={"ok": len(stamps)},
            end_offset=offset + len(stamps),
            outage_from=0.0,
        )
        offset += len(stamps)


def peak_of(work: Iterator[object]) -> int:
    """The most bytes that were allocated on top of what was before."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in work:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - before


def flooding(core: Core, total: int, kinds: str) -> Iterator[object]:
    """Hand it a flood, message by message."""
    hand(core, discover(2e9, A))
    return (hand(core, message) for message in flood(total, kinds))


def roomy_for(most_open: int, colocated: bool = False) -> Core:
    return new_core(colocated, remembers=False, most_open=most_open, most_undecided=most_open, most_remembered=10_000)


def flooded(total: int, kinds: str, most_open: int) -> Core:
    """A ledger after a flood."""
    core = roomy_for(most_open)
    for _ in flooding(core, total, kinds):
        pass
    return core


@pytest.mark.slow
@pytest.mark.parametrize(("kinds", "colocated"), [("o", False), ("osc", True), ("c", False), ("s", False)])
def test_abandoned_transactions_are_bounded(kinds: str, colocated: bool) -> None:
    most_open = 5_000
    bound = BASE_BYTES + most_open * (BYTES_A_TRANSACTION + len(kinds) * BYTES_AN_EVENT)
    core = roomy_for(most_open, colocated)
    peak = peak_of(flooding(core, 60_000, kinds))
    print(f"{kinds} {colocated}: {peak / 1e6:.1f} MB of {bound / 1e6:.1f} MB")
    assert peak < bound
    assert hits(core)["open_transactions"] == 60_000 - len(core.live)
    assert len(core.live) == most_open
    unlimited = peak_of(flooding(roomy_for(NO_LIMIT, colocated), 40_000, kinds))
    assert unlimited > bound  # the flood would show if nothing held it


@pytest.mark.full
def test_ten_million_abandoned_transactions() -> None:
    """By the memory of the process: what the first million made of it, nine more do not add to."""
    total, most_open = 10_000_000, 50_000
    core, before, held = roomy_for(most_open), resident_bytes(), []
    for i, _ in enumerate(flooding(core, total, "o")):
        if not i % (total // BATCH // 10):
            held.append(resident_bytes() - before)
    held.append(resident_bytes() - before)
    print([f"{each / 1e6:.0f} MB" for each in held])
    assert hits(core)["open_transactions"] == total - most_open
    assert held[-1] < 1.3 * (BASE_BYTES + most_open * (BYTES_A_TRANSACTION + BYTES_AN_EVENT))
    assert held[-1] < 1.3 * held[2]


def resident_bytes() -> int:
    """The memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_a_flood_leaves_nothing_behind() -> None:
    core = flooded(60_000, "osc", 1_000)
    partition = core.partitions[A]
    # Three wheels: what falls due, what is idle for longest, and closes that wait.
    assert len([o for o in reachable_from(core.ledger) if isinstance(o, Bucket)]) <= 3 * 1_000
    assert len(partition.pending_closes) <= 3_000 + 20_000
    assert sum(len(s.offsets) for s in partition.sighted) == partition.undecided == core.eviction.undecided <= 25_000
    assert sum(len(seconds) for seconds in core.figures.gauges.opened_seconds.values()) <= 1_000
    assert core.eviction.kept_events == sum(len(txn.events) for txn in core.live.values()) <= 3_000
    assert len(core.archive.lingering) == 100
    assert len(core.archive.tombstones) <= 10_000


@pytest.mark.slow
def test_the_release_of_what_a_flood_was_held_behind_ends_all_that_was_kept() -> None:
    core = flooded(30_000, "osc", 1_000)
    kept = set(core.live)
    end = core.partitions[A].monitor_offset
    delivered = [offset for offset in range(end) if offset // 3 % 2 == 0]
    ended = dict(hand(core, cover(A, 0, end, delivered, 1.5e9, as_of=1.5e9), sight(A, end, as_of=1.6e9)))
    assert ended.keys() == kept
    for txn_id, outcome in ended.items():
        committed = int(txn_id.rpartition("-")[2]) % 2 == 0
        assert outcome in ((Outcome.CLOSED,) if committed else (Outcome.ABORTED, Outcome.UNKNOWN))
    assert (core.eviction.undecided, core.eviction.kept_events, len(core.partitions[A].pending_closes)) == (0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("total", [20_000, pytest.param(1_000_000, marks=pytest.mark.full)])
def test_very_many_distinct_types_steps_and_statuses(total: int) -> None:
    def flood_of_words(total: int) -> Iterator[Sightings]:
        for start in range(0, total, 1_000):
            ids = range(start, start + 1_000)
            events = [
                (i * 4 + k, f"t{i}", (kind, f"type-{i}", f"step-{i}", f"status-{i}"))
                for i in ids
                for k, kind in enumerate((OPEN, STEP_OPEN, STEP_DONE, CLOSE))
            ]
            table = [
                (int(kind), step, txn_type, status, False, False) for _, _, (kind, txn_type, step, status) in events
            ]
            offsets = [offset for offset, _, _ in events]
            stamps = [10.0 + start] * len(events)
            yield Sightings(
                *(A.topic, A.partition, offsets[-1] + 1, 0.0, 10.0 + start, 10.0 + start, table, offsets),
                *([txn_id for _, txn_id, _ in events], list(range(len(events))), stamps, stamps, [], {}, 0, 0.0),
            )

    def live_through(core: Core) -> Iterator[object]:
        hand(core, discover(1e9, A))
        for message in flood_of_words(total):
            end = message.to_offset
            hand(core, message)
            yield hand(core, cover(A, end - 4_000, end, list(range(end - 4_000, end)), message.as_of))

    core = new_core(most_open=2_000, most_remembered=10_000, most_labels=50, remembers=False)
    for _ in live_through(core):
        pass
    figures = core.figures
    assert figures.txn_types.cut >= total - 1_000
    assert len(figures.finished) <= 3 * (2 + 50) * 6
    assert len(figures.durations) <= 52
    assert len(figures.step_durations) <= 1 + 51 * 6
    assert len(figures.gauges.live) <= 4 * 52
    assert len(core.ledger.intake.signatures) <= 10_000


@pytest.mark.slow
def test_one_that_aborts_again_and_again_waits_once() -> None:
    core = new_core()
    hand(core, discover(99, A, B))
    hand(core, sight(A, 1, ev(0, OPEN, 10, "first")), cover(A, 0, 1, [], 20))
    for i in range(1, 30_000, 1_000):
        events = [ev(i + k, OPEN, 10, f"t{k}") for k in range(1_000)]
        hand(core, sight(A, i + 1_000, *events), cover(A, i, i + 1_000, [], 20.0 + i))
    assert len([o for o in reachable_from(core.ledger) if isinstance(o, Ending)]) <= 1_000 + 11_000


def test_causes_are_remembered_so_many_at_most() -> None:
    core = new_core()
    hand(core, discover(1e6, A))
    for i in range(300):
        at = 10.0 + 100 * i
        hand(core, sight(A, i + 1, ev(i, OPEN, at), as_of=at), cover(A, i, i + 1, [], at, as_of=at))
        hand(core, sight(A, i + 1, as_of=at + 50))
    causes = core.live["t"].causes if "t" in core.live else core.archive.lingering["t"].txn.causes
    assert len(causes) <= MOST_CAUSES


def test_ids_forgotten_and_finished_ones_not_shown_for_lack_of_room_are_counted() -> None:
    core = flooded(30_000, "o", 1_000)
    assert len(core.archive.tombstones) <= 10_000
    evicted = 29_000
    assert hits(core) == {
        "open_transactions": evicted,
        "lingering": evicted - 100,
        "remembered_ids": evicted - len(core.archive.tombstones),
    }


def test_ids_for_which_a_lowered_limit_leaves_no_room_are_counted() -> None:
    core = new_core(most_open=0, most_remembered=1_000)
    hand(core, discover(0, A), sight(A, 100, *(ev(i, OPEN, 10, f"t{i}") for i in range(100))))
    assert (len(core.archive.tombstones), hits(core)["open_transactions"]) == (100, 100)
    for _ in core.adopt(core.rules._replace(most_remembered=80), 0):
        pass
    assert len(core.archive.tombstones) == 70
    assert hits(core)["remembered_ids"] == 30


def test_state_names_of_live_ones_are_right_after_an_eviction_storm() -> None:
    core = flooded(20_000, "oc", 1_000)
    assert {txn.state for txn in core.live.values()} == {State.TENTATIVELY_CLOSED}
    assert core.figures.gauges.live == {("order", "tentatively_closed"): 1_000}
