"""The ledger against the plain model: after every message the same states, causes, gauges, endings and counters.

Both get the same messages of a random world (worlds.py) in a random order of arrival. The plain model works everything
out from the beginning each time; the ledger is incremental. It may settle later than the plain rule allows, never
earlier, and never with another result.
"""

import math

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from tests.harness.core.by_hand import CLOSE, OPEN, A, cover, discover, ev, side_by_side, sight
from tests.harness.core.core import Core
from tests.harness.core.side_by_side import Manner, SideBySide, all_decided, end_of, new_core, no_leftovers
from tests.harness.core.styles import STYLES, every_style
from tests.harness.core.worlds import (
    ORDERS,
    Chooser,
    Drawn,
    Message,
    Seeded,
    Sent,
    Style,
    World,
    arrive,
    make_rules,
    make_world,
    nows,
    pick,
    read_world,
    resend,
    runs,
)
from txninsightd.vocabulary import Anomaly, Cause, Coverage, Discovery, Outcome, PartitionRef, PartitionStart, Sightings

SMALL = ("plain", "colocated", "impatient", "vanishing", "breached")


def hold_equal(c: Chooser, style: Style) -> tuple[World, SideBySide]:
    """Play one world and hold both equal; then nothing may be left of what was settled."""
    world = make_world(c, style)
    streams = read_world(c, world, style)
    if pick(c, (False, False, False, True)):
        streams = resend(c, streams)
    arrived = arrive(c, streams, pick(c, ORDERS))
    manner = Manner(pick(c, (False, True)), pick(c, (None, 1, 3)), pick(c, (False, False, True)))
    both = SideBySide(world, manner)
    both.run(arrived, settle_every=pick(c, (1, 1, 3)), ticking=pick(c, (False, True)))
    both.conserved()
    if not both.core.live and all_decided(both.core):
        both.settle(1e9)
        no_leftovers(both.core)
    return world, both


@settings(max_examples=40)
@given(st.data())
def test_small_worlds(data: st.DataObject) -> None:
    c = Drawn(data.draw)
    style = pick(c, SMALL)
    note(style)
    hold_equal(c, STYLES[style])


@every_style
def test_many_worlds(style: str) -> None:
    for seed in range(20 if style.startswith("large") else 50):
        hold_equal(Seeded(seed), STYLES[style])


@pytest.mark.full
@every_style
def test_very_many_worlds(style: str) -> None:
    settled = compared = 0
    for seed in range(1000, 2500):
        _, both = hold_equal(Seeded(seed), STYLES[style])
        settled += len(both.finished)
        compared += both.compared
    print(f"{style}: 1,500 worlds, {compared} comparisons of a transaction, {settled} settled")


@pytest.mark.slow
def test_the_worlds_have_everything_in_them() -> None:
    """A property holds of what was tried: every outcome, cause, anomaly and way to settle turns up, and soon."""
    wanted = {*Outcome, *Cause, *Anomaly, "timed out"} - {Outcome.EVICTED, Outcome.FORGOTTEN}
    for seed in range(100, 400):
        for style in ("plain", "impatient", "breached"):
            _, both = hold_equal(Seeded(seed), STYLES[style])
            for _, ended in both.finished:
                wanted -= {ended.outcome, *ended.anomalies}
            wanted -= {change.cause for change in both.core.stuck_changes}
            wanted -= {"timed out"} if both.timed_out[True] else set()
            wanted -= {Anomaly.LATE_EVENT} if both.plain.late_events else set()
        if not wanted:
            return
    raise AssertionError(f"never came up: {wanted}")


@pytest.mark.parametrize("leak", ["wheel", "look again", "eviction order"])
def test_a_leftover_is_found(leak: str) -> None:
    both = side_by_side(
        discover(99, A),
        sight(A, 2, ev(0, OPEN, 100), ev(1, CLOSE, 101)),
        cover(A, 0, 2, [0, 1], 102),
        discover(200, A, found=()),
        sight(A, 2, as_of=200),
        cover(A, 2, 2, [], 200, as_of=200),
    )
    no_leftovers(both.core)
    finished = both.core.archive.lingering["t"].txn
    if leak == "wheel":
        _, domain = next(both.core.ledger.watermark.domains())
        domain.wheel.set(finished, 1e6)
    elif leak == "look again":
        both.core.ledger.stuck_tracker.look_again(finished)
    else:
        both.core.eviction.add(finished)
    with pytest.raises(AssertionError):
        no_leftovers(both.core)


# --- Told again, and nonsense -----------------------------------------------------------------------------------------


def ends(world: World, arrived: list[Sent]) -> list[tuple[str, object]]:
    """What a ledger alone settles, by name."""
    core = new_core(world)
    finished = []
    for now, message in nows(arrived):
        core.apply(message)
        finished += core.settle(now)
    return sorted(((f.txn.txn_id, end_of(f)) for f in finished), key=repr)


@pytest.mark.parametrize("style", ["plain", "colocated"])
def test_what_is_told_again_changes_nothing(style: str) -> None:
    for seed in range(60):
        c = Seeded(seed)
        world = make_world(c, STYLES[style])
        streams = read_world(c, world, STYLES[style])
        once, again = (arrive(c, told, "partition by partition") for told in (streams, resend(c, streams)))
        assert len(again) > len(once)
        assert ends(world, once) == ends(world, again)


offsets = st.integers(0, 30)
ascending = st.lists(offsets, unique=True, max_size=8).map(sorted)
moments = st.one_of(st.integers(-5, 60).map(float), st.floats(-1e12, 1e12), st.just(0.0))
names = st.sampled_from(["t1", "t2", "t3"])
signatures = st.tuples(
    st.integers(0, 3),
    st.sampled_from([None, "x"]),
    st.sampled_from([None, "order", "pay"]),
    st.sampled_from([None, "ok"]),
    st.booleans(),
    st.sampled_from([False, False, True]),
)


@st.composite
def any_sightings(draw: st.DrawFn) -> Sightings:
    """A monitor's message that keeps its shape (columns of equal length, ascending offsets), but no promise."""
    found = draw(ascending)
    table = draw(st.lists(signatures, min_size=1, max_size=3))
    column = {"min_size": len(found), "max_size": len(found)}
    return Sightings(
        topic="a",
        partition=draw(st.integers(0, 1)),
        to_offset=(found[-1] + 1 if found else 0) + draw(st.integers(0, 3)),
        read_at=draw(moments),
        as_of=draw(moments),
        low_timestamp=draw(moments),
        signatures=table,
        offsets=found,
        txn_ids=draw(st.lists(names, **column)),
        signature_indexes=draw(st.lists(st.integers(0, len(table) - 1), **column)),
        timestamps=draw(st.lists(moments, **column)),
        record_timestamps=draw(st.lists(moments, **column)),
        gaps=runs(draw(ascending)),
        results={"ok": len(found)},
        end_offset=draw(offsets),
        outage_from=draw(moments),
    )


@st.composite
def any_coverage(draw: st.DrawFn) -> Coverage:
    """A validator's message of any range, with any runs and gaps."""
    low = draw(offsets)
    return Coverage(
        topic="a",
        partition=draw(st.integers(0, 1)),
        from_offset=low,
        to_offset=low + draw(st.integers(0, 12)),
        decided_at=draw(moments),
        as_of=draw(moments),
        runs=runs(draw(ascending)),
        gaps=runs(draw(ascending)),
        end_offset=draw(offsets),
    )


any_discovery = st.builds(
    Discovery,
    moments,
    st.lists(st.builds(PartitionStart, st.just("a"), st.integers(0, 3), st.integers(0, 5)), max_size=2),
    st.dictionaries(st.sampled_from(["a", "b"]), st.lists(st.integers(0, 3), max_size=4), max_size=2),
    st.just([]),
)


any_message = st.one_of(any_sightings(), any_coverage(), any_discovery)


@settings(max_examples=150)
@given(st.lists(any_message, max_size=20), st.booleans(), moments)
def test_no_sequence_of_messages_raises(told: list[Message], colocated: bool, start: float) -> None:
    rules = make_rules(Style(colocated, settle_max_s=30.0))
    core = Core(rules, start, most_labels=2)
    core.ledger.add_partition(PartitionRef("a", 0), 0)
    core.ledger.add_partition(PartitionRef("a", 1), 2)
    for k, message in enumerate(told):
        core.apply(message)
        core.settle(float(k))
        core.tick(float(k))
    core.tick(1e13)
    core.settle(1e13)
    assert sum(core.figures.gauges.stuck.values()) == len(core.stuck)
    assert all(math.isfinite(count) and count >= 0 for count in core.figures.gauges.live.values())
