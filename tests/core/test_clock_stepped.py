"""Our own clock is stepped: all moments that it gave are corrected, and nothing is called stuck by it."""

import pytest

from tests.harness.core.by_hand import CLOSE, OPEN, STEP_OPEN, A, B, cover, discover, ev, sight
from tests.harness.core.core import Core
from tests.harness.core.styles import STYLES, every_style
from tests.harness.core.worlds import Message, Seeded, Style, arrive, make_rules, make_world, nows, read_world
from txninsightd.aggregate.wall_time import WallTime
from txninsightd.core.facts import StuckChanged
from txninsightd.core.lifecycle import Outage
from txninsightd.core.pauses import Pauses
from txninsightd.vocabulary import Cause, Coverage, Discovery, Seen, Sightings, Thresholds

HOUR_S = 3600.0
NEVER_STUCK = Thresholds(1e12, 1e12, 1e12)


# --- Everything is corrected ------------------------------------------------------------------------------------------


def by_the_clock_of(message: Message, ahead_s: float) -> Sightings | Coverage | Seen | Discovery:
    return WallTime(ahead_s=lambda: ahead_s).message(message)


# The worlds begin at 1000, and 0 stands for what is not known.
@every_style
@pytest.mark.parametrize("step_s", [HOUR_S, -500.0])
def test_a_stepped_clock_leaves_what_one_that_was_always_right_would_have_left(style: str, step_s: float) -> None:
    """But for what time alone had decided before: so nothing is ever stuck here, or waits too long to settle."""
    for seed in range(20):
        c = Seeded(seed)
        world = make_world(c, STYLES[style])
        rules = world.rules._replace(stuck=NEVER_STUCK, stuck_by_type={}, settle_max_s=1e12)
        arrived = list(nows(arrive(c, read_world(c, world, STYLES[style]), "in order")))
        stepped, right = Core(rules, world.start_at), Core(rules, world.start_at + step_s)
        half = len(arrived) // 2
        for i, (now, message) in enumerate(arrived):
            if i == half:
                stepped.pipeline.clock_stepped(step_s, now + step_s)
            stepped.apply(by_the_clock_of(message, 0 if i < half else step_s), now)
            right.apply(by_the_clock_of(message, step_s), now)
        stepped.ledger.watermark.pauses = Pauses(right.ledger.watermark.pauses.outages)
        for _ in stepped.ledger.settle(0.0), right.ledger.settle(0.0):
            pass
        assert moments_of(stepped) == pytest.approx(moments_of(right), abs=1e-6)


def moments_of(core: Core) -> dict[str, float]:
    """Each moment of our own clock that the core keeps, by its place."""
    watermark = core.ledger.watermark
    found: dict[str, float] = {"discovered_at": watermark.discovered_at, "start_at": core.ledger.start_at}
    for ref, partition in core.partitions.items():
        own = (partition.monitor_as_of, partition.validator_as_of, partition.absent_at, partition.waiting_since)
        found |= {f"{ref} {i}": moment for i, moment in enumerate(own)}
        for i, coverage in enumerate(partition.waiting):
            found |= {f"{ref} waiting {i}": coverage.decided_at, f"{ref} waiting {i} as_of": coverage.as_of}
    for ref, domain in watermark.domains():
        found[f"{ref} domain"] = domain.as_of
        for i, gap in enumerate(domain.gaps):
            found |= {f"{ref} gap {i} passed": gap.passed_at, f"{ref} gap {i} seen": gap.seen_before}
    for txn_id, txn in core.live.items():
        for place, note in txn.notes.items():
            found |= {f"{txn_id} {place} decided": note.decided_at, f"{txn_id} {place} sighted": note.sighted_at}
        found |= {f"{txn_id} {c.ref} {c.offset} sighted": c.sighted_at for c in txn.pending_closes}
        if txn.deciding is not None:
            found[f"{txn_id} deciding"] = txn.deciding[3]
        if txn.ending is not None:
            # When an abort may settle is left out: a leap makes its wait begin anew.
            found[f"{txn_id} ending"] = txn.ending.decided_at
    return found


# --- Nothing is called stuck by it ------------------------------------------------------------------------------------


class Daemon:
    """Two partitions with fresh transactions on them, and a clock beside the true one."""

    def __init__(self, fresh: int = 40) -> None:
        self.core = Core(make_rules(Style())._replace(stuck=Thresholds(300, 3600, 60), stuck_by_type={}))
        self.true = 10_000.0
        self.ahead_s = 0.0
        self.at = 0
        self.stable: int | None = None  # where the validator stands in A; None: where the monitor does
        self.core.apply(discover(self.true, A, B))
        self.core.ledger.start_reading(self.true)
        self.opens("old", ago_s=1000)
        self.hear(5)
        assert list(self.core.stuck) == ["old"]
        self.opens(*(f"fresh-{i}" for i in range(fresh)))
        self.hear(5)

    def opens(self, *txn_ids: str, ago_s: float = 1.0) -> None:
        """Events of a producer with the true time."""
        events = [ev(self.at + i, OPEN, self.true - ago_s, txn_id) for i, txn_id in enumerate(txn_ids)]
        self.at += len(events)
        self._tell(sight(A, self.at, *events))
        self._tell(cover(A, self.at - len(events), self.at, [e[0] for e in events], self.true))

    def adopt(self, idle_after_s: float, overdue_after_s: float, commit_pending_after_s: float) -> None:
        """A reload brings these thresholds."""
        thresholds = Thresholds(idle_after_s, overdue_after_s, commit_pending_after_s)
        rules = self.core.ledger.rules._replace(stuck=thresholds, stuck_by_type={})
        for _ in self.core.pipeline.adopt(rules, self.true + self.ahead_s):
            pass

    def new_causes(self, txn_id: str) -> list[Cause | None]:
        """What it became stuck for, as it is counted."""
        return [c.cause for c in self.core.stuck_changes if c.txn_id == txn_id and c.is_new]

    def step_of(self, txn_id: str) -> None:
        """A step of this transaction begins."""
        self._tell(sight(A, self.at + 1, ev(self.at, STEP_OPEN, self.true, txn_id)))
        self._tell(cover(A, self.at, self.at + 1, [self.at], self.true))
        self.at += 1

    def pends(self, txn_id: str, *kinds: int, ts: float | None = None) -> None:
        """Events that the validator does not pass yet."""
        if self.stable is None:
            self.stable = self.at
        for kind in kinds:
            self._tell(sight(A, self.at + 1, ev(self.at, kind, ts or self.true, txn_id)))
            self.at += 1

    def decide(self, start: int, end: int, delivered: bool) -> None:
        """The validator passes these."""
        self.stable = end
        self._tell(cover(A, start, end, [*range(start, end)] if delivered else [], self.true))

    def hear(self, seconds: float) -> None:
        """So many seconds in which readers report that they have seen all."""
        for _ in range(int(seconds)):
            self.true += 1
            self._tell(discover(self.true, A, B, found=()))
            for ref, offset in ((A, self.at), (B, 0)):
                self._tell(sight(ref, offset, as_of=self.true))
                passed = offset if ref is B or self.stable is None else self.stable
                self._tell(cover(ref, passed, passed, [], self.true, as_of=self.true, stable_offset=passed))
            self.core.settle(self.true + self.ahead_s)
            self.core.tick(self.true + self.ahead_s)

    def step(self, by_s: float) -> None:
        """The clock of our host is stepped."""
        self.ahead_s += by_s
        self.core.pipeline.clock_stepped(by_s, self.true + self.ahead_s)

    def _tell(self, message: Message) -> None:
        self.core.apply(by_the_clock_of(message, self.ahead_s), self.true + self.ahead_s)

    @property
    def counted(self) -> int:
        return sum(self.core.figures.stuck.values())


@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S, 20.0, -20.0])
def test_a_step_and_back_makes_nothing_stuck(by_s: float) -> None:
    daemon = Daemon()
    for step_s in (by_s, -by_s) * 3:
        daemon.step(step_s)
        daemon.opens(f"between-{daemon.at}")
        daemon.hear(10)
        assert not daemon.core.ledger.warming_up
        assert set(daemon.core.stuck) <= {"old"}
        if not daemon.ahead_s:
            assert list(daemon.core.stuck) == ["old"]
    assert daemon.counted == 0  # it was so before both views had caught up
    assert by_s < 0 or not daemon.core.ledger.watermark.pauses.all


@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S])
def test_what_is_stuck_once_is_counted_once(by_s: float) -> None:
    daemon = Daemon(fresh=3)
    daemon.hear(310)
    assert daemon.counted == 3
    for step_s in (by_s, -by_s):
        daemon.step(step_s)
        daemon.hear(5)
    assert set(daemon.core.stuck) == {"old", "fresh-0", "fresh-1", "fresh-2"}
    assert daemon.counted == 3
    fresh = [c for c in daemon.core.stuck_changes if c.txn_id == "fresh-0" and c.is_new]
    assert [c.cause for c in fresh] == [Cause.IDLE]


def test_an_event_makes_it_another_time() -> None:
    daemon = Daemon(fresh=1)
    daemon.hear(310)
    daemon.step_of("fresh-0")
    daemon.hear(310)
    assert daemon.counted == 2


def test_what_hangs_is_found_in_time_after_a_step_and_back() -> None:
    daemon = Daemon(fresh=1)
    for step_s in (HOUR_S, -HOUR_S):
        daemon.step(step_s)
        daemon.hear(10)
    daemon.hear(250)
    assert "fresh-0" not in daemon.core.stuck
    daemon.hear(50)
    assert "fresh-0" in daemon.core.stuck


def test_a_close_settles_at_once_after_the_clock_was_set_back() -> None:
    daemon = Daemon(fresh=1)
    daemon.step(HOUR_S)
    daemon._tell(sight(A, daemon.at + 1, ev(daemon.at, CLOSE, daemon.true, "fresh-0")))
    daemon._tell(cover(A, daemon.at, daemon.at + 1, [daemon.at], daemon.true))
    daemon.at += 1
    daemon.step(-HOUR_S)
    assert not daemon.core.settled
    daemon.hear(2)
    assert len(daemon.core.settled) == 1


def test_silence_that_was_not_seen_is_not_claimed() -> None:
    """The monitor was ten minutes behind when the clock was set back: it is so after it, too."""
    daemon = Daemon(fresh=1)
    daemon.step(HOUR_S)
    daemon.hear(2)
    daemon.true += 600
    daemon.step(-HOUR_S)
    (monitor_as_of,) = {p.monitor_as_of for p in daemon.core.partitions.values()}
    assert daemon.true - monitor_as_of == 600
    assert "fresh-0" not in daemon.core.stuck


def test_what_is_stuck_is_so_again_after_a_step_back_a_restart_and_a_step_forward() -> None:
    daemon = Daemon(fresh=1)
    daemon.step(-HOUR_S)
    daemon.hear(5)
    assert not daemon.core.stuck
    daemon.core = daemon.core.restored()
    daemon.step(HOUR_S)
    daemon.hear(5)
    assert list(daemon.core.stuck) == ["old"]


def test_an_event_after_it_was_stuck_makes_a_leap_count_again() -> None:
    daemon = Daemon(fresh=0)
    daemon.step_of("old")
    for step_s in (-HOUR_S, HOUR_S):
        daemon.step(step_s)
        daemon.hear(5)
        assert not daemon.core.stuck


def test_a_leap_counts_for_a_cause_that_it_was_not_stuck_for() -> None:
    daemon = Daemon(fresh=1)
    daemon.adopt(300, 3, 60)
    daemon.hear(5)
    assert daemon.core.stuck["fresh-0"].cause is Cause.OVERDUE
    daemon.step(HOUR_S)
    daemon.hear(5)
    assert daemon.core.stuck["fresh-0"].cause is Cause.OVERDUE
    assert daemon.core.stuck["old"].cause is Cause.IDLE


def test_a_state_of_another_boot_claims_nothing_beyond_now() -> None:
    daemon = Daemon(fresh=1)
    daemon.step(HOUR_S)
    daemon.hear(5)
    after = daemon.core.restored()
    after.ledger.start_reading(daemon.true)
    after.settle(daemon.true)
    assert {p.monitor_as_of for p in after.partitions.values()} == {daemon.true}
    assert after.ledger.watermark.discovered_at == daemon.true
    assert after.ledger.warming_up


def test_a_leap_of_another_boot_hides_nothing_that_begins_after_it() -> None:
    daemon = Daemon(fresh=1)
    daemon.step(HOUR_S)
    daemon.hear(5)
    daemon.core, daemon.ahead_s = daemon.core.restored(), 0.0
    daemon.core.ledger.start_reading(daemon.true)
    daemon.hear(2)
    daemon.opens("new")
    daemon.hear(310)
    assert set(daemon.core.stuck) == {"old", "fresh-0", "new"}


def test_a_busy_one_that_is_overdue_stays_so_and_is_counted_once() -> None:
    daemon = Daemon(fresh=1)
    daemon.adopt(300, 60, 60)
    daemon.hear(70)
    assert daemon.core.stuck["fresh-0"].cause is Cause.OVERDUE
    daemon.step_of("fresh-0")
    for step_s in (-HOUR_S, HOUR_S):
        daemon.step(step_s)
        daemon.hear(5)
    assert daemon.core.stuck["fresh-0"].cause is Cause.OVERDUE
    assert daemon.counted == 1


@pytest.mark.parametrize("retry_first", [True, False])
@pytest.mark.parametrize("kind", [CLOSE, OPEN])
def test_a_retry_is_another_wait(kind: int, retry_first: bool) -> None:
    """Its close may hang, or it may be overdue, in its turn; and a leap is no part of that wait."""
    daemon = Daemon(fresh=0)
    daemon.adopt(1e6, 60, 60)
    first = daemon.at
    daemon.pends("t", *([OPEN] if kind == OPEN else [OPEN, CLOSE]))
    if kind == CLOSE:
        daemon.decide(first, first + 1, delivered=True)
    daemon.hear(70)
    cause = Cause.OVERDUE if kind == OPEN else Cause.COMMIT_PENDING
    assert daemon.core.stuck["t"].cause is cause
    ends = daemon.at
    for is_sighting in (retry_first, not retry_first):
        if is_sighting:
            daemon.pends("t", kind)
        else:
            daemon.decide(ends - 1, ends, delivered=False)
    daemon.hear(5)
    daemon.step(HOUR_S)
    daemon.hear(5)
    assert "t" not in daemon.core.stuck
    daemon.step(-HOUR_S)
    daemon.hear(60)
    assert daemon.core.stuck["t"].cause is cause
    assert daemon.new_causes("t") == [cause, cause]


def test_a_higher_threshold_is_another_wait() -> None:
    """What is overdue by it, or idle, is counted in its turn; and a leap is no part of the rest of the wait."""
    for thresholds, cause in (((300, 60, 60), Cause.OVERDUE), ((60, 3600, 60), Cause.IDLE)):
        daemon = Daemon(fresh=1)
        daemon.adopt(*thresholds)
        daemon.hear(70)
        assert daemon.core.stuck["fresh-0"].cause is cause
        daemon.adopt(7200, 7200, 60)
        for step_s in (2 * HOUR_S, -2 * HOUR_S):
            daemon.step(step_s)
            daemon.hear(5)
            assert "fresh-0" not in daemon.core.stuck
        daemon.adopt(*(min(seconds * 2, 7200) for seconds in thresholds))
        daemon.hear(60)
        assert daemon.new_causes("fresh-0") == [cause, cause]


def test_a_leap_before_it_was_stuck_is_no_part_of_a_longer_wait() -> None:
    daemon = Daemon(fresh=1)
    daemon.adopt(60, 7200, 60)
    daemon.step(HOUR_S)
    daemon.hear(70)
    assert daemon.new_causes("fresh-0") == [Cause.IDLE]
    daemon.adopt(600, 7200, 60)
    daemon.hear(20)
    assert "fresh-0" not in daemon.core.stuck
    daemon.step(-HOUR_S)
    daemon.hear(600)
    assert daemon.new_causes("fresh-0") == [Cause.IDLE, Cause.IDLE]


def test_an_outage_that_is_learnt_of_late_adds_no_more_than_itself_to_a_wait_that_was_over() -> None:
    daemon = Daemon(fresh=1)
    daemon.hear(310)
    for step_s in (-HOUR_S, HOUR_S):
        daemon.step(step_s)
        daemon.hear(5)
    assert "fresh-0" in daemon.core.stuck
    began = daemon.core.live["fresh-0"].last_at + 100
    daemon.core.ledger.watermark.pauses.outage(began, began + 60)
    daemon.core.ledger.agenda.add(daemon.core.stuck.values())
    daemon.hear(70)
    assert "fresh-0" in daemon.core.stuck
    assert daemon.new_causes("fresh-0") == [Cause.IDLE]


def test_an_abort_that_was_stuck_before_another_boot_counts_once() -> None:
    daemon = Daemon(fresh=0)
    first = daemon.at
    daemon.pends("t", OPEN, CLOSE)
    daemon.decide(first, first + 1, delivered=True)
    daemon.step(20.0)
    daemon.decide(first + 1, first + 2, delivered=False)
    grace_s = daemon.core.ledger.rules.retry_grace_s
    daemon.hear(grace_s + 3)
    assert daemon.new_causes("t") == [Cause.NEVER_COMMITTED]
    daemon.core, daemon.ahead_s = daemon.core.restored(), 0.0
    daemon.core.ledger.start_reading(daemon.true)
    daemon.hear(grace_s + 30)
    assert daemon.core.stuck["t"].cause is Cause.NEVER_COMMITTED
    assert daemon.core.live["t"].causes == (Cause.NEVER_COMMITTED,)


def test_overdue_after_idle_is_another_time() -> None:
    """As the simulator's truth has it: each change of cause counts."""
    daemon = Daemon(fresh=1)
    daemon.adopt(60, 30, 60)
    daemon.hear(70)
    daemon.step_of("fresh-0")
    daemon.hear(5)
    assert daemon.new_causes("fresh-0") == [Cause.OVERDUE, Cause.IDLE, Cause.OVERDUE]
    assert daemon.core.live["fresh-0"].causes == (Cause.OVERDUE, Cause.IDLE, Cause.OVERDUE)


def test_an_open_that_is_retried_with_the_same_timestamp_is_another_time() -> None:
    daemon = Daemon(fresh=0)
    daemon.adopt(1e6, 60, 60)
    opened_at, first = daemon.true, daemon.at
    daemon.pends("t", OPEN)
    daemon.hear(70)
    daemon.decide(first, first + 1, delivered=False)
    daemon.pends("t", OPEN, ts=opened_at)
    daemon.hear(5)
    assert daemon.new_causes("t") == [Cause.OVERDUE, Cause.OVERDUE]


def test_a_close_that_hangs_stays_so_over_a_step_of_its_transaction() -> None:
    daemon = Daemon(fresh=0)
    daemon.pends("t", OPEN, CLOSE)
    daemon.hear(70)
    cause = daemon.core.stuck["t"].cause
    daemon.pends("t", STEP_OPEN)
    daemon.hear(5)
    for step_s in (-HOUR_S, HOUR_S):
        daemon.step(step_s)
        daemon.hear(5)
    assert daemon.core.stuck["t"].cause is cause
    assert daemon.new_causes("t") == [cause]


def test_a_retry_that_came_before_its_first_close_was_stuck_is_another_wait() -> None:
    daemon = Daemon(fresh=0)
    first = daemon.at
    daemon.pends("t", OPEN, CLOSE)
    daemon.decide(first, first + 1, delivered=True)
    daemon.hear(30)
    daemon.pends("t", CLOSE)
    daemon.hear(35)
    assert "t" in daemon.core.stuck
    daemon.decide(first + 1, first + 2, delivered=False)
    daemon.step(HOUR_S)
    daemon.hear(5)
    assert "t" not in daemon.core.stuck
    daemon.step(-HOUR_S)
    daemon.hear(40)
    assert len(daemon.new_causes("t")) == 2


def test_an_outage_in_which_the_clock_leaps_lengthens_waits_by_all_of_it() -> None:
    daemon = Daemon(fresh=1)
    began = daemon.true
    daemon.true += 590
    daemon.step(HOUR_S)
    daemon.true += 10
    for ref, offset in ((A, daemon.at), (B, 0)):
        daemon._tell(sight(ref, offset, as_of=daemon.true, outage_from=began))
    daemon.hear(5)
    assert "fresh-0" not in daemon.core.stuck
    assert daemon.counted == 0


# --- Pauses -----------------------------------------------------------------------------------------------------------


def test_leaps_are_taken_back_the_latest_first_and_in_part() -> None:
    pauses = Pauses()
    pauses.clock_stepped(100, 1100)
    pauses.clock_stepped(50, 1200)
    assert pauses.all == [Outage(1000, 1100), Outage(1150, 1200)]
    pauses.clock_stepped(-60, 1140)
    assert pauses.all == [Outage(1000, 1090)]
    pauses.clock_stepped(-500, 640)
    assert pauses.all == []


def test_outages_learnt_under_the_wrong_clock_are_moved_and_no_others() -> None:
    pauses = Pauses()
    pauses.outage(900, 950)
    pauses.clock_stepped(100, 1100)
    pauses.outage(1150, 1160)
    pauses.clock_stepped(-100, 1100)
    assert pauses.outages == [Outage(900, 950), Outage(1050, 1060)]


def test_stuck_changes_say_whether_they_are_new() -> None:
    daemon = Daemon(fresh=1)
    daemon.hear(310)
    daemon.step(-HOUR_S)
    daemon.hear(5)
    changes = [c for c in daemon.core.facts if isinstance(c, StuckChanged) and c.txn_id == "fresh-0"]
    assert [(c.cause, c.is_new) for c in changes] == [(Cause.IDLE, True), (None, False)]


def test_an_outage_that_is_told_after_a_leap_is_put_where_it_was() -> None:
    pauses = Pauses()
    pauses.clock_stepped(3600, 1590 + 3600)
    pauses.outage(1000 + 3600, 1600 + 3600)
    assert pauses.outages == [Outage(1000, 1590), Outage(5190, 5200)]
    assert pauses.all == [Outage(1000, 5200)]
    pauses.clock_stepped(-3600, 1610)
    assert pauses.all == pauses.outages == [Outage(1000, 1600)]
    before_it = Pauses(leaps=[Outage(1590, 5190)])
    before_it.outage(1000 + 3600, 1500 + 3600)
    assert before_it.outages == [Outage(1000, 1500)]


def test_no_pause_is_later_than_now() -> None:
    pauses = Pauses([Outage(100, 200), Outage(400, 500)], [Outage(250, 350)])
    pauses.no_later_than(300)
    assert pauses.all == [Outage(100, 200), Outage(250, 300)]
