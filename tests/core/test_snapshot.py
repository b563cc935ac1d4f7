"""What is dumped and restored goes on, message for message, as what was not.

The worlds of `test_ledger_equals_plain` are played again, but the ledger is replaced by what its own dump restores, at
moments that the world chooses; the plain model, which knows no restart, must still agree with it after every message.
"""

from array import array

import msgspec
import pytest

from tests.core.by_hand import OPEN, A, B, cover, discover, ev, side_by_side, sight
from tests.core.side_by_side import SideBySide, give, new_ledger
from tests.core.test_ledger_equals_plain import STYLES, every_style
from tests.core.worlds import ORDERS, Chooser, Seeded, Style, arrive, make_world, nows, pick, read_world, resend
from txninsightd.core import snapshot
from txninsightd.core.figures import Figures, Histogram
from txninsightd.core.finished import Finished
from txninsightd.core.ledger import Ledger
from txninsightd.core.snapshot import FLAGS, PARTITION_FIELDS, Unusable, dump, restore
from txninsightd.core.transaction import PendingClose, Transaction
from txninsightd.core.verdicts import PartitionState


class Restarted(SideBySide):
    """A ledger that is dumped, thrown away and restored after a message, whenever the chooser says so."""

    def __init__(self, c: Chooser, style: Style) -> None:
        self.c = c
        self.world = make_world(c, style)
        self.restarts = 0
        self.restored_live = 0
        super().__init__(self.world)

    def settle(self, now: float) -> None:
        """A checkpoint lies between two messages, after what is final was settled."""
        super().settle(now)
        if pick(self.c, (False, True)):
            before = self.ledger
            self.ledger = new_ledger(self.world)
            restore([bytes(chunk) for chunk in dump(before)], self.ledger)
            self.ledger.stuck_changes = before.stuck_changes
            assert whole(self.ledger) == whole(before)
            self.restarts += 1
            self.restored_live += len(before.live)


def whole(ledger: Ledger) -> list[object]:
    """All that is dumped, to be compared."""
    head, *chunks = dump(ledger)
    decode = msgspec.msgpack.Decoder(snapshot.Chunk).decode
    return [msgspec.msgpack.decode(head, type=snapshot.Head), *map(decode, chunks)]


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
    monkeypatch.setattr(snapshot, "TRANSACTIONS_A_CHUNK", 3)
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


def test_every_field_is_saved_or_known_to_be_worked_out_again() -> None:
    worked_out = {"bucket", "due_at", "retype", "idle_bucket"}
    columns = {"txn_id", "txn_type", "events", "last_at", "opened_at", "shown"}
    rest = {"state", "cause", "since", "causes", "ending", "deciding", "notes", "pending_closes", "given_up_steps"}
    assert set(Transaction.__slots__) == worked_out | columns | rest | set(FLAGS)
    assert set(PendingClose.__slots__) == {"txn", "bucket", "due_at", "ref", "offset", "record_ts", "sighted_at"}
    told = {"ref", "pending_closes", "close_deadlines", "_waiting", "_sighted", "undecided"}
    not_saved = {"compacted", "closes_given_up"}
    assert set(vars(PartitionState(ref_of_a(), 0))) == told | not_saved | set(PARTITION_FIELDS)
    assert set(Finished.__struct_fields__) == {*snapshot.SavedEnd.__struct_fields__, "txn", "doubtful_life", "kpis"} - {
        *("duration_s", "status", "anomalies", "verdicts")
    }
    figures = {*snapshot.COUNTERS, *snapshot.HISTOGRAMS, *snapshot.SavedFigures.__struct_fields__, "steps", "statuses"}
    assert set(vars(Figures((1.0,), 2))) == figures - {"counters", "histograms", "pairs"}
    whole = {
        "rules",
        "judged_by",
        "figures",
        "start_at",
        "live",
        "stuck",
        "partitions",
        "topics",
        "archive",
        "caught_up",
    }
    parts = {"watermark", "settlement", "_await_validator", "_withheld", "_resumed_at"}
    counted_again = {"kept_events", "undecided", "_eviction_order"}
    between_messages = {"stuck_changes", "_dirty", "_signatures", "_outsized", "_admitted", "on_progress"}
    assert set(vars(a_ledger()[0])) == whole | parts | counted_again | between_messages


def test_what_is_withheld_while_warming_up_is_stuck_after_a_second_start_too() -> None:
    began, idle_until = 100_000.0, 99_000.0
    ledger = side_by_side(
        discover(1.0, A), sight(A, 1, ev(0, OPEN, 1), as_of=5.0), cover(A, 0, 1, [0], 4.0, as_of=5.0)
    ).ledger
    for _ in range(2):
        ledger = resumed(ledger, began)
        ledger.discovered(discover(idle_until, A, found=()))
        ledger.sighted(sight(A, 1, as_of=idle_until))
        ledger.settle(began)
        assert not ledger.stuck
    ledger.discovered(discover(began + 1, A, found=()))
    ledger.sighted(sight(A, 1, as_of=began + 1))
    ledger.covered(cover(A, 1, 1, [], began + 1, as_of=began + 1))
    assert ledger.stuck.keys() == {"t"}


def test_what_is_stuck_at_a_first_catch_up_is_not_counted_though_a_restart_came_before_it() -> None:
    # One partition was seen before the restart, and the other was not: not yet caught up.
    began = 100_000.0
    first = sight(A, 1, ev(0, OPEN, 1), as_of=5.0)
    ledger = side_by_side(discover(1.0, A, B), first, cover(A, 0, 1, [0], 4.0, as_of=5.0)).ledger
    assert not ledger.caught_up
    ledger = resumed(ledger, began)
    ledger.discovered(discover(began + 1, A, B, found=()))
    for ref, offset in ((B, 0), (A, 1)):
        assert ledger.warming_up
        ledger.sighted(sight(ref, offset, as_of=began + 1))
        ledger.covered(cover(ref, offset, offset, [], began + 1, as_of=began + 1))
    assert not ledger.warming_up
    assert ledger.caught_up
    assert ledger.stuck.keys() == {"t"}
    assert not +ledger.figures.stuck


def resumed(ledger: Ledger, now: float) -> Ledger:
    """What a restart makes of it."""
    after = Ledger(ledger.rules, Figures(ledger.figures.bounds, most_label_values=100))
    restore([bytes(chunk) for chunk in dump(ledger)], after)
    after.resume(now)
    return after


def ref_of_a() -> snapshot.PartitionRef:
    return snapshot.PartitionRef("a", 0)


def a_ledger() -> tuple[Ledger, SideBySide]:
    """A ledger with something in it."""
    for seed in range(100):
        c = Seeded(seed)
        world = make_world(c, STYLES["large"])
        both = SideBySide(world)
        arrived = arrive(c, read_world(c, world, STYLES["large"]), ORDERS[0])
        for now, message in nows(arrived):
            give(both.ledger, message)
            both.ledger.settle(now)
        if len(both.ledger.live) > 2 and both.ledger.archive.lingering and both.ledger.figures.durations:
            return both.ledger, both
    raise AssertionError("no such world")


# --- Bytes that are no state ------------------------------------------------------------------------------------------


def chunks_of_a_ledger() -> list[bytes]:
    return list(dump(a_ledger()[0]))


def empty_like(both: SideBySide) -> Ledger:
    return Ledger(both.ledger.rules, Figures(both.ledger.figures.bounds, most_label_values=100))


def test_a_missing_chunk_is_noticed() -> None:
    ledger, both = a_ledger()
    chunks = list(dump(ledger))
    for missing in range(len(chunks)):
        with pytest.raises(Unusable):
            restore(chunks[:missing] + chunks[missing + 1 :], empty_like(both))


@pytest.mark.parametrize("column", ["type_numbers", "flags", "event_counts", "place_numbers", "offsets", "due_at"])
def test_columns_of_different_lengths_are_noticed(column: str) -> None:
    ledger, both = a_ledger()
    head, live, *more = dump(ledger)
    chunk = msgspec.msgpack.decode(live, type=snapshot.Chunk)
    setattr(chunk, column, getattr(chunk, column)[:-8])
    with pytest.raises(Unusable):
        restore([head, msgspec.msgpack.encode(chunk), *more], empty_like(both))


def test_a_place_that_is_not_there_is_noticed() -> None:
    ledger, both = a_ledger()
    head, live, *more = dump(ledger)
    chunk = msgspec.msgpack.decode(live, type=snapshot.Chunk)
    chunk.place_numbers = array("I", [999] * (len(chunk.place_numbers) // 4)).tobytes()
    with pytest.raises(Unusable):
        restore([head, msgspec.msgpack.encode(chunk), *more], empty_like(both))


def test_what_other_buckets_counted_stands_in_the_first_that_reaches_as_far() -> None:
    ledger, both = a_ledger()
    before = ledger.figures.durations["unspecified"] = Histogram(ledger.figures.bounds)
    assert before.bounds == (0.5, 2.0, 10.0, 60.0)
    before.counts, before.sum = [1, 2, 4, 8, 16], 1000.0
    other = Ledger(both.ledger.rules, Figures((0.4, 2.0, 30.0), most_label_values=100))
    restore(dump(ledger), other)
    after = other.figures.durations["unspecified"]
    assert (after.counts, after.sum, after.exemplars) == ([0, 1 + 2, 4, 8 + 16], 1000.0, {})
    assert other.live.keys() == ledger.live.keys()
    assert other.figures.finished == ledger.figures.finished
