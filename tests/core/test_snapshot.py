"""What is dumped and restored goes on, message for message, as what was not.

The worlds of `test_ledger_equals_plain` are played again, but the ledger is replaced by what its own dump restores, at
moments that the world chooses; the plain model, which knows no restart, must still agree with it after every message.
"""

import gzip
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.harness.core.by_hand import CLOSE, OPEN, A, B, cover, discover, ev, side_by_side, sight
from tests.harness.core.core import Core
from tests.harness.core.side_by_side import SideBySide
from tests.harness.core.styles import STYLES, every_style
from tests.harness.core.worlds import (
    ORDERS,
    Chooser,
    Message,
    Seeded,
    Style,
    arrive,
    make_rules,
    make_world,
    nows,
    pick,
    read_world,
    resend,
)
from txninsightd.core import figures_saved
from txninsightd.core.facts import Fact
from txninsightd.core.figures import Figures
from txninsightd.core.finished import Finished
from txninsightd.core.histogram import Histogram
from txninsightd.core.ledger import Ledger
from txninsightd.core.pipeline import Pipeline
from txninsightd.core.rules import Objectives, Rules
from txninsightd.core.sinks import Sink, StatefulSink
from txninsightd.core.snapshot import Section, Unusable, dump, head, restore, transactions
from txninsightd.core.transaction import PendingClose, Transaction
from txninsightd.core.verdicts import PartitionState
from txninsightd.vocabulary import Objective, PartitionRef, Thresholds


class Restarted(SideBySide):
    """A core that is dumped, thrown away and restored after a message, whenever the chooser says so."""

    def __init__(self, c: Chooser, style: Style) -> None:
        self.c = c
        self.world = make_world(c, style)
        self.restarts = 0
        self.restored_live = 0
        super().__init__(self.world)

    def give(self, message: Message, now: float = 0.0) -> None:
        """A checkpoint lies between two messages, also before what is final was settled."""
        super().give(message, now)
        if self.c.integer(0, 9) == 9:
            self._restart()

    def settle(self, now: float) -> None:
        super().settle(now)
        if pick(self.c, (False, True)):
            self._restart()

    def _restart(self) -> None:
        before, self.core = self.core, self.core.restored()
        assert whole(self.core) == whole(before)
        self.restarts += 1
        self.restored_live += len(before.live)


def whole(core: Core) -> list[object]:
    """All that is dumped, to be compared."""
    first, *columns, figures = core.chunks()
    section = msgspec.msgpack.decode(figures, type=Section)
    return [
        msgspec.msgpack.decode(first, type=head.Head),
        *map(msgspec.msgpack.Decoder(transactions.Chunk).decode, columns),
        msgspec.msgpack.decode(section.part, type=figures_saved.SavedFigures),
    ]


def play(seed: int, style: str) -> Restarted:
    c = Seeded(seed)
    both = Restarted(c, STYLES[style])
    streams = read_world(c, both.world, STYLES[style])
    if pick(c, (False, False, False, True)):
        streams = resend(c, streams)
    both.run(arrive(c, streams, pick(c, ORDERS)), settle_every=pick(c, (1, 1, 3)), ticking=pick(c, (False, True)))
    both.conserved()
    return both


@every_style
def test_a_restored_ledger_goes_on_as_if_nothing_had_happened(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "TRANSACTIONS_A_CHUNK", 3)
    restarts = restored = 0
    for seed in range(3000, 3010 if style.startswith("large") else 3030):
        both = play(seed, style)
        restarts += both.restarts
        restored += both.restored_live
    assert restarts > 100
    assert restored > 100


@pytest.mark.full
@every_style
def test_very_many_restored_ledgers(style: str) -> None:
    restarts = sum(play(seed, style).restarts for seed in range(4000, 4700))
    print(f"{style}: 700 worlds, {restarts} restarts")


def test_every_field_of_a_transaction_is_saved_or_known_to_be_worked_out_again() -> None:
    worked_out = {"bucket", "due_at", "retype", "idle_bucket", "standing"}
    columns = {"txn_id", "txn_type", "events", "last_at", "opened_at"}
    rest = {"state", "cause", "since", "causes", "ending", "deciding", "notes", "pending_closes", "given_up_steps"}
    rest |= {"been_stuck"}
    assert set(Transaction.__slots__) == worked_out | columns | rest | set(transactions.FLAGS)
    assert set(PendingClose.__slots__) == {"txn", "bucket", "due_at", "ref", "offset", "record_ts", "sighted_at"}
    assert set(Finished.__struct_fields__) == {
        *transactions.SavedEnd.__struct_fields__,
        "txn",
        "doubtful_life",
        "kpis",
    } - {*("duration_s", "status", "anomalies", "verdicts")}


def test_every_field_of_a_partition_is_saved_or_known_to_be_worked_out_again() -> None:
    saved_beside = {"ref", "pending_closes", "close_deadlines", "_waiting", "_sighted", "undecided"}
    not_saved = {"compacted", "_compacting", "closes_given_up"}
    fields = saved_beside | not_saved | set(head.PARTITION_FIELDS)
    assert set(vars(PartitionState(PartitionRef("a", 0), 0))) == fields


def test_every_field_of_the_ledger_and_its_parts_is_saved_or_known_to_be_worked_out_again() -> None:
    ledger = a_core()[0].ledger
    parts = {"topics", "watermark", "settlement", "stuck_tracker", "eviction", "archive", "intake"}
    assert set(vars(ledger)) == parts | {"rules", "judged_by", "live", "partitions", "agenda", "our_clock"} | {
        *("_facts", "_now", "_handlers")
    }
    assert set(vars(ledger.topics)) == {"partitions", "incarnations"}
    assert set(vars(ledger.intake)) == {"start_at", "signatures", "_live", "_archive", "_eviction", "_facts"} | {
        "_compacting"
    }
    assert set(vars(ledger.stuck_tracker)) == {"rules", "stuck", "caught_up", "_partitions", "_watermark", "_facts"} | {
        *("_warming_up_since", "_look_again", "_withheld")
    }
    counted_again = {"kept_events", "undecided", "_order"}
    # An outsized one that a snapshot missed is found again with its next open or close.
    assert set(vars(ledger.eviction)) == counted_again | {"rules", "_limit_hit", "_admitted", "_outsized"}


def test_every_figure_is_saved_or_worked_out_again() -> None:
    saved = {*figures_saved.COUNTERS, *figures_saved.HISTOGRAMS, *figures_saved.SavedFigures.__struct_fields__}
    assert set(vars(Figures((1.0,), 2))) == saved - {"counters", "histograms", "pairs"} | {"steps", "statuses"} | {
        *("gauges", "_fold")
    }


def test_a_restart_names_no_type_and_counts_no_cut() -> None:
    core = side_by_side(discover(1.0, A), sight(A, 2, ev(0, OPEN, 1, "t", txn_type="x"), ev(1, OPEN, 1, "u"))).core
    crowded = Core(core.rules, most_labels=0)
    crowded.apply(discover(1.0, A))
    crowded.apply(sight(A, 2, ev(0, OPEN, 1, "t", txn_type="x"), ev(1, OPEN, 1, "u")))
    before = list(crowded.figures.save())
    after = Core(core.rules, most_labels=10)
    after.restore(crowded.chunks())
    assert list(after.figures.save()) == before
    assert after.figures.gauges.live == {("__overflow__", "open"): 1, ("unspecified", "open"): 1}


def test_what_is_withheld_while_warming_up_is_stuck_after_a_second_start_too() -> None:
    began, idle_until = 100_000.0, 99_000.0
    core = side_by_side(
        discover(1.0, A), sight(A, 1, ev(0, OPEN, 1), as_of=5.0), cover(A, 0, 1, [0], 4.0, as_of=5.0)
    ).core
    for _ in range(2):
        core = resumed(core, began)
        core.apply(discover(idle_until, A, found=()))
        core.apply(sight(A, 1, as_of=idle_until))
        core.settle(began)
        assert not core.stuck
    core.apply(discover(began + 1, A, found=()))
    core.apply(sight(A, 1, as_of=began + 1))
    core.apply(cover(A, 1, 1, [], began + 1, as_of=began + 1))
    assert core.stuck.keys() == {"t"}


def test_what_is_stuck_at_a_first_catch_up_is_not_counted_though_a_restart_came_before_it() -> None:
    # One partition was seen before the restart, and the other was not: not yet caught up.
    began = 100_000.0
    first = sight(A, 1, ev(0, OPEN, 1), as_of=5.0)
    core = side_by_side(discover(1.0, A, B), first, cover(A, 0, 1, [0], 4.0, as_of=5.0)).core
    assert not core.caught_up
    core = resumed(core, began)
    core.apply(discover(began + 1, A, B, found=()))
    for ref, offset in ((B, 0), (A, 1)):
        assert core.ledger.warming_up
        core.apply(sight(ref, offset, as_of=began + 1))
        core.apply(cover(ref, offset, offset, [], began + 1, as_of=began + 1))
    assert not core.ledger.warming_up
    assert core.caught_up
    assert core.stuck.keys() == {"t"}
    assert not +core.figures.stuck


def resumed(core: Core, now: float) -> Core:
    """What a restart makes of it."""
    after = core.restored()
    after.ledger.start_reading(now)
    return after


def a_core() -> tuple[Core, SideBySide]:
    """A ledger with something in it."""
    for seed in range(100):
        c = Seeded(seed)
        world = make_world(c, STYLES["large"])
        both = SideBySide(world)
        arrived = arrive(c, read_world(c, world, STYLES["large"]), ORDERS[0])
        for now, message in nows(arrived):
            both.core.apply(message)
            both.core.settle(now)
        if len(both.core.live) > 2 and both.core.archive.lingering and both.core.figures.durations:
            return both.core, both
    raise AssertionError("no such world")


# --- Bytes that are no state ------------------------------------------------------------------------------------------


def empty_like(both: SideBySide) -> Core:
    return Core(both.core.rules)


def test_a_missing_chunk_is_noticed() -> None:
    core, both = a_core()
    chunks = core.chunks()
    for missing in range(len(chunks)):
        with pytest.raises(Unusable):
            empty_like(both).restore(chunks[:missing] + chunks[missing + 1 :])


@pytest.mark.parametrize("twice", [1, 3])
def test_a_transaction_that_stands_twice_is_noticed(twice: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "TRANSACTIONS_A_CHUNK", 1)
    core = Core(make_rules(Style(colocated=True)))
    core.apply(discover(99, A), 99)
    lives = [ev(0, OPEN, 100, "a"), ev(1, CLOSE, 101, "a"), ev(2, OPEN, 102, "b"), ev(3, CLOSE, 103, "b")]
    core.apply(sight(A, 4, *lives), 104)
    core.apply(cover(A, 0, 4, [0, 1, 2, 3], 104), 104)
    core.settle(104)
    core.apply(sight(A, 6, ev(4, OPEN, 105, "c"), ev(5, OPEN, 105, "d")), 105)
    # Two live ones, then two that linger, then the figures.
    chunks = core.chunks()
    assert (len(core.live), len(core.archive.lingering), len(chunks)) == (2, 2, 6)
    with pytest.raises(Unusable, match="stands twice"):
        Core(core.rules).restore([*chunks[: twice + 1], *chunks[twice:]])


@pytest.mark.parametrize("column", ["type_numbers", "flags", "event_counts", "place_numbers", "offsets", "due_at"])
def test_columns_of_different_lengths_are_noticed(column: str) -> None:
    core, both = a_core()
    first, live, *more = core.chunks()
    chunk = msgspec.msgpack.decode(live, type=transactions.Chunk)
    setattr(chunk, column, getattr(chunk, column)[:-8])
    with pytest.raises(Unusable):
        empty_like(both).restore([first, msgspec.msgpack.encode(chunk), *more])


def test_a_partition_that_is_not_there_is_noticed() -> None:
    core, both = a_core()
    first, live, *more = core.chunks()
    chunk = msgspec.msgpack.decode(live, type=transactions.Chunk)
    chunk.place_numbers = array("I", [999] * (len(chunk.place_numbers) // 4)).tobytes()
    with pytest.raises(Unusable):
        empty_like(both).restore([first, msgspec.msgpack.encode(chunk), *more])


def test_what_other_buckets_counted_stands_in_the_first_that_reaches_as_far() -> None:
    core, both = a_core()
    before = core.figures.durations["unspecified"] = Histogram(core.figures.bounds)
    assert before.bounds == (0.5, 2.0, 10.0, 60.0)
    before.counts, before.sum = [1, 2, 4, 8, 16], 1000.0
    other = Core(both.core.rules, bounds=(0.4, 2.0, 30.0))
    other.restore(core.chunks())
    after = other.figures.durations["unspecified"]
    assert (after.counts, after.sum, after.exemplars) == ([0, 1 + 2, 4, 8 + 16], 1000.0, {})
    assert other.live.keys() == core.live.keys()
    assert other.figures.finished == core.figures.finished


# --- Sections of sinks ------------------------------------------------------------------------------------------------


class Tally(StatefulSink):
    """A sink that counts facts; its state comes in two parts."""

    name = "tally"

    def __init__(self) -> None:
        self.counted = 0

    def take(self, facts: Sequence[Fact], now: float) -> None:
        self.counted += len(facts)

    def save(self) -> Iterator[bytes]:
        yield str(self.counted).encode()
        yield b"!"

    def restore(self, parts: list[bytes]) -> None:
        number, end = parts
        if end != b"!":
            raise ValueError("no tally")
        self.counted = int(number)


def pipeline(*sinks: Sink) -> Pipeline:
    return Pipeline(Ledger(make_rules(Style())), Figures((1.0,), 10), sinks)


def test_a_new_sink_brings_its_section_and_touches_nothing_else() -> None:
    tally = Tally()
    before = pipeline(tally)
    facts = before.apply(discover(1.0, A), 2.0) + before.apply(sight(A, 1, ev(0, OPEN, 1)), 2.0)
    assert tally.counted == len(facts) > 0
    after = Tally()
    assert restore(dump(before), pipeline(after)) == []
    assert after.counted == tally.counted


def test_figures_in_the_head_and_sections_are_of_no_version() -> None:
    core, both = a_core()
    first, *more = core.chunks()
    head = msgspec.msgpack.decode(first)
    assert head["sections"] == ["figures"]
    head["figures"] = {}
    with pytest.raises(Unusable, match="version 1"):
        empty_like(both).restore([msgspec.msgpack.encode(head), *more])


def test_a_sink_without_a_section_begins_empty_and_a_section_without_a_sink_is_named() -> None:
    new = Tally()
    assert restore(dump(pipeline()), pipeline(new)) == []
    assert new.counted == 0
    assert restore(dump(pipeline(Tally())), pipeline()) == ["tally"]


def test_a_section_that_its_sink_cannot_read_makes_the_snapshot_unusable() -> None:
    *chunks, last = dump(pipeline(Tally()))
    with pytest.raises(Unusable):
        restore([*chunks, last.replace(b"!", b"?")], pipeline(Tally()))


# --- Version 1 --------------------------------------------------------------------------------------------------------

VERSION_1 = msgspec.msgpack.decode(
    gzip.decompress((Path(__file__).parent / "snapshot_version_1.msgpack.gz").read_bytes())
)
"""Snapshots that the last program of version 1 wrote in random worlds, with what it said of each, the messages that
followed, and what it said after these, having restored the snapshot itself."""


@pytest.mark.parametrize("case", VERSION_1, ids=[case["name"] for case in VERSION_1])
def test_a_snapshot_of_version_1_goes_on_as_with_the_program_that_wrote_it(case: dict[str, Any]) -> None:
    rules = msgspec.convert(case["rules"], dict[str, Any])
    rules["stuck"] = msgspec.convert(rules["stuck"], Thresholds)
    rules["stuck_by_type"] = msgspec.convert(rules["stuck_by_type"], dict[str, Thresholds])
    usual, by_type = rules["objectives"]
    rules["objectives"] = Objectives(msgspec.convert(usual, Objective), msgspec.convert(by_type, dict[str, Objective]))
    core = Core(Rules(**rules), bounds=tuple(case["bounds"]), most_labels=case["labels"])
    assert core.restore(case["chunks"]) == []
    assert told_by(core, []) == case["before"]
    finished = []
    decode = msgspec.msgpack.Decoder(Message).decode
    for now, message in case["messages"]:
        core.apply(decode(message), now)
        finished += core.settle(now)
        core.tick(now)
    finished += core.settle(case["end"])
    assert told_by(core, finished) == case["after"]


def test_the_snapshots_of_version_1_hold_every_kind_of_state() -> None:
    held = {feature for case in VERSION_1 for feature in case["features"]}
    assert held == {"stuck", "withheld", "pending", "ending", "notes", "doubtful", "given_up", "waiting", "sighted"} | {
        *("live", "incarnations", "cut", "zero")
    }


def told_by(core: Core, finished: list[Finished]) -> dict[str, Any]:
    """All that a core says, in the words of the fixture."""
    figures, gauges = core.figures, core.figures.gauges
    counters = ("opened", "finished", "replayed", "objective_missed", "stuck", "anomalies", "records", "limit_hits")
    histograms = ("durations", "commit_delays", "step_durations", "step_gaps")
    return {
        "live": {t: [x.state, x.cause, x.since, list(x.causes), len(x.events)] for t, x in core.live.items()},
        "lingering": {
            t: [f.outcome, f.attempts, f.kpis.duration_s, f.kpis.status, sorted(f.kpis.anomalies)]
            for t, f in core.archive.lingering.items()
        },
        "finished": [[f.txn.txn_id, f.outcome, f.attempts, f.kpis.duration_s] for f in finished],
        "counters": {name: joined(getattr(figures, name)) for name in counters},
        "histograms": {
            name: {
                joined_key(k): [h.counts, round(h.sum, 6)] for k, h in getattr(figures, name).items() if any(h.counts)
            }
            for name in histograms
        },
        "gauges": {
            "live": joined(gauges.live),
            "live_stuck": joined(gauges.stuck),
            "live_partial": joined(gauges.partial),
        },
        "opened_seconds": {t: {str(s): n for s, n in by_s.items()} for t, by_s in gauges.opened_seconds.items()},
        "settled_by_timeout": figures.settled_by_timeout,
        "caught_up": core.caught_up,
        "warming_up": core.ledger.warming_up,
    }


def joined(counter: dict[Any, int]) -> dict[str, int]:
    return {joined_key(key): count for key, count in counter.items() if count}


def joined_key(key: str | tuple[str, ...]) -> str:
    return key if isinstance(key, str) else "|".join(key)
