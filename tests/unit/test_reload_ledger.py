"""Other rules for a running ledger: what is live is judged as if they had always held, in steps, and counted once."""

from typing import Any

import pytest

from tests.harness.core.by_hand import CLOSE, OPEN, STEP_OPEN, A, cover, discover, ev, hand, side_by_side, sight
from tests.harness.core.core import Core
from tests.harness.core.side_by_side import SideBySide, end_of, new_core
from tests.harness.core.styles import STYLES
from tests.harness.core.worlds import ORDERS, Seeded, Sent, World, arrive, make_world, nows, pick, read_world
from txninsightd.core import archive as archive_module
from txninsightd.core import ledger as ledger_module
from txninsightd.core.rules import Rules
from txninsightd.core.tombstones import Tombstones
from txninsightd.vocabulary import Cause, State, Thresholds

CHANGES: tuple[dict[str, Any], ...] = (
    {"stuck": Thresholds(3, 8, 1), "stuck_by_type": {}},
    {"stuck": Thresholds(500, 900, 400), "stuck_by_type": {"pay": Thresholds(2, 4, 1)}},
    {"retry_grace_s": 1.0},
    {"retry_grace_s": 40.0, "settle_lateness_s": 9.0},
    {"settle_lateness_s": 0.0, "settle_max_s": 3.0},
    {"settle_max_s": 1.0},
)


def played(seed: int, style: str) -> tuple[World, list[Sent]]:
    """A random world, and its messages in an order of arrival."""
    c = Seeded(seed)
    world = make_world(c, STYLES[style])
    return world, arrive(c, read_world(c, world, STYLES[style]), pick(c, ORDERS))


# --- The whole judgement ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["plain", "colocated", "impatient", "vanishing"])
def test_after_a_change_all_is_as_the_plain_model_says_by_the_new_rules(style: str) -> None:
    for seed in range(40):
        world, arrived = played(seed, style)
        both = SideBySide(world)
        told = list(nows(arrived))
        at = len(told) * (seed % 7 + 1) // 9
        now = 0.0
        for i, (now, message) in enumerate(told):
            if i == at:
                adopt(both, CHANGES[seed % len(CHANGES)], now)
            both.give(message, now)
            both.compare_live()
            both.tick(now)
            both.settle(now)
        both.settle(now)
        both.compare_live()
        both.compare_figures()


def adopt(both: SideBySide, change: dict[str, Any], now: float) -> None:
    """Change the rules of both."""
    rules = both.core.rules._replace(**change)
    for _ in both.core.adopt(rules, now):
        pass
    both.plain.adopt(rules)
    both.compare_live()
    both.tick(now)
    both.settle(now)


@pytest.mark.parametrize("style", ["plain", "colocated", "vanishing"])
def test_messages_between_the_steps_change_nothing_in_the_end(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "REJUDGED_A_STEP", 1)
    for seed in range(40):
        world, arrived = played(seed, style)
        change = CHANGES[seed % len(CHANGES)]
        assert outcome(world, arrived, seed, change, stepwise=True) == outcome(
            world, arrived, seed, change, stepwise=False
        )


def outcome(world: World, arrived: list[Sent], seed: int, change: dict[str, Any], stepwise: bool) -> object:
    """What is live, and what was settled, at the end of a world in which the rules changed."""
    core = new_core(world)
    told, finished = list(nows(arrived)), []
    at, now = len(told) * (seed % 5) // 6, 0.0
    steps = iter(())
    for i, (now, message) in enumerate(told):
        if i == at:
            steps = core.adopt(core.rules._replace(**change), now)
            if not stepwise:
                list(steps)
        core.apply(message)
        next(steps, None)
        finished += core.settle(now)
    list(steps)
    finished += core.settle(now)
    assert core.ledger.judged_by == core.rules.judging
    live = {t: (txn.state, txn.cause, txn.since) for t, txn in core.live.items()}
    return live, sorted(((f.txn.txn_id, end_of(f)) for f in finished), key=repr), core.figures.gauges.live


# --- Told by hand -----------------------------------------------------------------------------------------------------


def opened_at_100_and_seen_until_120() -> SideBySide:
    """One open since 100, busy until 118, in a partition that both views have seen up to 120; idle after 12 s."""
    both = side_by_side(
        discover(120, A),
        sight(A, 2, ev(0, OPEN, 100), ev(1, STEP_OPEN, 118, step="x"), as_of=120),
        cover(A, 0, 2, [0, 1], 120, as_of=120),
    )
    assert both.core.live["t"].cause is None
    return both


def test_lower_thresholds_make_what_is_due_stuck_at_once_and_count_it_once() -> None:
    both = opened_at_100_and_seen_until_120()
    adopt(both, {"stuck": Thresholds(12, 15, 5)}, 120)
    txn = both.core.live["t"]
    assert (txn.cause, txn.since) == (Cause.OVERDUE, 115)
    assert both.core.figures.stuck == {("unspecified", "overdue"): 1}
    adopt(both, {"stuck": Thresholds(12, 14, 5)}, 120)
    assert (txn.cause, txn.since) == (Cause.OVERDUE, 114)
    assert both.core.figures.stuck == {("unspecified", "overdue"): 1}


def test_higher_thresholds_end_what_is_stuck_until_they_are_passed() -> None:
    both = opened_at_100_and_seen_until_120()
    adopt(both, {"stuck": Thresholds(12, 15, 5)}, 120)
    adopt(both, {"stuck": Thresholds(60, 90, 5)}, 120)
    assert not both.core.stuck
    hand(both, discover(179, A, found=()), sight(A, 2, as_of=179), cover(A, 2, 2, [], 179, as_of=179))
    assert both.core.live["t"].cause is Cause.IDLE
    assert both.core.figures.stuck == {("unspecified", "overdue"): 1, ("unspecified", "idle"): 1}


def test_a_pending_close_is_late_by_the_new_threshold() -> None:
    both = opened_at_100_and_seen_until_120()
    hand(both, sight(A, 3, ev(2, CLOSE, 119), as_of=122), cover(A, 2, 2, [], 122, as_of=122, stable_offset=2))
    assert both.core.live["t"].state is State.TENTATIVELY_CLOSED
    assert both.core.live["t"].cause is None
    adopt(both, {"stuck": Thresholds(12, 30, 1)}, 122)
    assert both.core.live["t"].cause is Cause.COMMIT_PENDING


def test_a_shorter_grace_settles_what_was_aborted() -> None:
    both = side_by_side(discover(100, A), sight(A, 2, ev(0, OPEN, 99), as_of=100), cover(A, 0, 2, [], 101, as_of=101))
    hand(both, discover(104, A, found=()), sight(A, 2, as_of=104))
    assert both.core.live["t"].state is State.ABORTED
    adopt(both, {"retry_grace_s": 2.0}, 104)
    assert not both.core.live


def test_a_shorter_wait_for_late_records_makes_a_gap_matter_for_fewer() -> None:
    both = side_by_side(
        discover(200, A),
        sight(A, 2, gaps=[0, 2], read_at=50),
        sight(A, 3, ev(2, OPEN, 100), as_of=200),
        cover(A, 0, 3, [2], 200, as_of=200),
    )
    assert both.core.live["t"].cause is None  # events of it may lie in the gap
    adopt(both, {"settle_max_s": 60.0}, 200)
    assert both.core.live["t"].cause is None
    adopt(both, {"settle_max_s": 40.0}, 200)
    assert both.core.live["t"].cause is Cause.IDLE


def test_nothing_is_judged_anew_where_no_judgement_changed() -> None:
    both = opened_at_100_and_seen_until_120()
    rules = both.core.rules._replace(linger_s=5.0)
    assert list(both.core.adopt(rules, 120)) == []
    assert both.core.ledger.judged_by == rules.judging


def test_back_to_the_former_rules_half_way_judges_all_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "REJUDGED_A_STEP", 1)
    first = [ev(i, OPEN, 100, f"t{i}") for i in range(4)]
    both = side_by_side(discover(120, A), sight(A, 4, *first, as_of=111), cover(A, 0, 4, [0, 1, 2, 3], 111, as_of=111))
    core, before = both.core, both.core.rules
    half = core.adopt(before._replace(stuck=Thresholds(2, 3, 1)), 111)
    for _ in range(3):
        next(half)
    assert len(core.stuck) == 2
    assert core.ledger.judged_by is None
    list(core.adopt(before, 111))
    list(half)
    assert not core.stuck
    assert core.ledger.judged_by == before.judging


# --- What is kept of the dead -----------------------------------------------------------------------------------------


def ledger_with_lingering(count: int) -> tuple[Core, Rules]:
    """Aborted ones, settled at 0, 1, 2 ..."""
    both = side_by_side(discover(0, A))
    for i in range(count):
        both.core.apply(sight(A, i + 1, ev(i, OPEN, i, f"t{i}"), as_of=i))
        both.core.apply(cover(A, i, i + 1, [], i, as_of=i))
    both.core.apply(discover(1000, A, found=()))
    both.core.apply(sight(A, count, as_of=1000))
    assert len(both.core.settle(1000)) == count
    return both.core, both.core.rules


def test_a_smaller_archive_lets_the_oldest_go_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "DROPPED_A_STEP", 10)
    core, rules = ledger_with_lingering(50)
    steps = core.adopt(rules._replace(most_lingering=20), 1000)
    left = [len(core.archive.lingering) for _ in steps]
    assert left == [40, 30, 20]
    assert next(iter(core.archive.lingering)) == "t30"


def test_a_shorter_linger_lets_go_of_all_that_is_too_old_and_a_longer_one_of_nothing() -> None:
    core, rules = ledger_with_lingering(50)
    list(core.adopt(rules._replace(linger_s=2e9), 1000 + 1.5e9))
    core.tick(1000 + 1.5e9)
    assert len(core.archive.lingering) == 50
    list(core.adopt(rules._replace(linger_s=100), 1101))
    assert not core.archive.lingering
    assert len(core.archive.tombstones) == 50


def test_fewer_remembered_ids_are_the_youngest() -> None:
    remembered = Tombstones(remember_s=1e9, most=80)
    for i in range(75):
        remembered.add(f"t{i}", False, i)
    remembered.keep(1e9, 24)
    known = [i for i in range(75) if remembered.was_aborted(f"t{i}") is not None]
    assert known == list(range(75 - len(known), 75))
    assert 8 <= len(remembered) <= 24


def test_a_young_generation_that_is_too_large_is_cut_to_its_youngest() -> None:
    remembered = Tombstones(remember_s=1e9, most=800)
    for i in range(99):
        remembered.add(f"t{i}", True, i)
    remembered.keep(1e9, 8)
    assert [i for i in range(99) if remembered.was_aborted(f"t{i}") is not None] == list(range(92, 99))
    remembered.add("more", False, 100)
    assert 1 <= len(remembered) <= 8
    assert remembered.was_aborted("more") is False


# --- Over a restart ---------------------------------------------------------------------------------------------------


def restarted(core: Core, rules: Rules) -> Core:
    """What another process makes of a checkpoint under these rules."""
    after = Core(rules)
    after.restore(core.chunks())
    return after


def test_a_restarted_ledger_judges_as_before_until_it_adopts_what_the_file_says_now() -> None:
    both = opened_at_100_and_seen_until_120()
    wanted = both.core.rules._replace(stuck=Thresholds(12, 15, 5), linger_s=5.0)
    core = restarted(both.core, wanted)
    assert core.rules == both.core.rules._replace(linger_s=5.0)
    assert core.ledger.judged_by == both.core.rules.judging
    hand_over(core)
    assert not core.stuck
    list(core.adopt(wanted, 121))
    assert core.stuck.keys() == {"t"}
    assert core.rules == wanted


def hand_over(core: Core) -> None:
    """A message after which the transaction is evaluated, but nothing else has changed."""
    core.apply(sight(A, 3, ev(2, OPEN, 100), as_of=120))


def test_a_restart_half_way_judges_all_again_though_the_rules_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "REJUDGED_A_STEP", 1)
    both = opened_at_100_and_seen_until_120()
    wanted = both.core.rules._replace(stuck=Thresholds(12, 15, 5))
    both.core.adopt(wanted, 120)  # and killed before the first step
    core = restarted(both.core, wanted)
    assert not core.stuck
    list(core.adopt(wanted, 121))
    assert core.stuck.keys() == {"t"}
    assert restarted(core, wanted).ledger.judged_by == wanted.judging
