"""Other rules for a running aggregator: in slices beside all other work, and not before it has caught up."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.harness.core.by_hand import OPEN, A, cover, discover, ev, sight
from tests.harness.core.core import Core
from tests.harness.core.worlds import Style, make_rules
from txninsightd.aggregate import rule_reload
from txninsightd.aggregate.aggregator import Aggregator
from txninsightd.aggregate.assembly import make_pipeline
from txninsightd.aggregate.assembly import make_rules as rules_of
from txninsightd.aggregate.rule_reload import RuleReload
from txninsightd.config import Config
from txninsightd.config.model import LimitsConfig
from txninsightd.core import ledger as ledger_module
from txninsightd.daemon import SCOUT, reader_roles
from txninsightd.vocabulary import OVERFLOW, Thresholds

RULES = make_rules(Style())
LOWER = RULES._replace(stuck=Thresholds(2, 3, 1))
COUNT = 10


class Turns:
    """An event loop that comes round when the test says so, and a clock that runs out with each look at it."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []
        self.slices = 0
        self.warm = True

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        self.calls.append(lambda: callback(*args))

    def come_round(self) -> bool:
        """Once; says whether anything was left to do."""
        calls, self.calls = self.calls, []
        for call in calls:
            call()
        return bool(calls)

    def finished_slice(self) -> None:
        self.slices += 1


@pytest.fixture(autouse=True)
def one_step_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "REJUDGED_A_STEP", 1)
    ticks = iter(range(10**9))
    monkeypatch.setattr(rule_reload, "perf_counter", lambda: next(ticks) * 2 * rule_reload.SLICE_S)


@pytest.fixture
def core() -> Core:
    """Some that have been open for 11 s."""
    core = Core(RULES)
    core.apply(discover(120, A))
    core.apply(sight(A, COUNT, *[ev(i, OPEN, 100, f"t{i}") for i in range(COUNT)], as_of=111))
    core.apply(cover(A, 0, COUNT, list(range(COUNT)), 111, as_of=111))
    assert not core.stuck
    return core


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def adopting(core: Core, turns: Turns) -> RuleReload:
    return RuleReload(core.pipeline, turns, lambda: 120.0, lambda: not turns.warm, turns.finished_slice)


def test_it_takes_a_slice_each_time_the_loop_comes_round(core: Core, turns: Turns, adopting: RuleReload) -> None:
    adopting.want(LOWER)
    for i in range(COUNT + 1):
        assert turns.come_round()
        assert (len(core.stuck), turns.slices) == (i, i + 1)
    while turns.come_round():
        assert len(core.stuck) == COUNT
    assert core.ledger.judged_by == LOWER.judging
    assert sum(core.figures.stuck.values()) == COUNT


def test_rules_that_come_meanwhile_take_over(core: Core, turns: Turns, adopting: RuleReload) -> None:
    adopting.want(LOWER)
    turns.come_round()
    turns.come_round()
    adopting.want(RULES)
    while turns.come_round():
        pass
    assert not core.stuck
    assert (core.rules, core.ledger.judged_by) == (RULES, RULES.judging)
    assert turns.slices <= 2 + COUNT + 2


def test_thresholds_wait_until_the_views_have_caught_up_and_all_else_does_not(
    core: Core, turns: Turns, adopting: RuleReload
) -> None:
    turns.warm = False
    adopting.want(LOWER._replace(linger_s=3.0))
    while turns.come_round():
        pass
    adopting.tick()
    assert not turns.come_round()
    assert core.rules == RULES._replace(linger_s=3.0)
    turns.warm = True
    adopting.tick()
    while turns.come_round():
        pass
    assert len(core.stuck) == COUNT
    assert core.rules == LOWER._replace(linger_s=3.0)
    adopting.tick()
    assert not turns.come_round()


def test_the_last_word_counts_where_several_wait(core: Core, turns: Turns, adopting: RuleReload) -> None:
    turns.warm = False
    adopting.want(LOWER)
    adopting.want(RULES)
    turns.warm = True
    adopting.tick()
    while turns.come_round():
        pass
    assert not core.stuck
    assert core.rules == RULES


def test_types_that_were_added_are_named_though_the_cap_is_full() -> None:
    config = Config(limits=LimitsConfig(label_values=2))
    loop: Any = Turns()
    aggregator = Aggregator(make_pipeline(config, 0.0), loop, reader_roles(config), SCOUT, lambda: 100.0, 1.0)
    rules = rules_of(config)._replace(stuck_by_type={"loan": Thresholds(), "refund": Thresholds()})
    aggregator.adopt(rules, 2, 10.0)
    assert [aggregator.figures.txn_types(name) for name in ("new", "loan", "refund")] == [OVERFLOW, "loan", "refund"]


def test_a_raised_cap_gives_live_transactions_their_own_gauge_at_once() -> None:
    config = Config(limits=LimitsConfig(label_values=1))
    loop: Any = Turns()
    pipeline = make_pipeline(config, 0.0)
    aggregator = Aggregator(pipeline, loop, reader_roles(config), SCOUT, lambda: 100.0, 1.0)
    opens = [ev(i, OPEN, 90, f"t{i}", txn_type=txn_type) for i, txn_type in enumerate(("order", "loan", "loan"))]
    for message in (discover(99, A), sight(A, 3, *opens)):
        pipeline.apply(message, 100.0)
    gauges = aggregator.figures.gauges
    assert gauges.live == {("order", "open"): 1, (OVERFLOW, "open"): 2}
    aggregator.adopt(rules_of(config), 2, 10.0)
    assert gauges.live == {("order", "open"): 1, ("loan", "open"): 2}
    aggregator.adopt(rules_of(config), 1, 10.0)
    assert gauges.live == {("order", "open"): 1, ("loan", "open"): 2}
    assert aggregator.forget("t1")
    assert gauges.live == {("order", "open"): 1, ("loan", "open"): 1}
