"""Any history of counting, checkpoints, kills and scrapes: no sample falls or exceeds the truth; in the end each is it.

The aggregator of these histories reads two logs, in any order of the two, and counts what it reads: a counter and a
histogram are its state. The parent counts restarts, the aggregator itself failures; both forget at their ends.
"""

from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from prometheus_client.core import Metric

from txninsightd.core.histogram import Histogram
from txninsightd.expose import catalogue
from txninsightd.expose.collector import histograms, simple
from txninsightd.expose.monotonic_counters import MonotonicCounters, StateOrigin

pytestmark = pytest.mark.slow

BOUNDS = (1.0, 4.0)
TYPES = ("order", "refund", "gift")
CHILDREN = ("monitor-0", "validator-0")
LOGS = (0, 1)

Entry = tuple[str, int]
"""A closed transaction: its type, and its duration in whole seconds, so that no order of adding changes a sum."""
Shown = dict[tuple[str, ...], float]


class State:
    """What a checkpoint holds: how far each log was read, and what was counted of it. A type has no zeros before."""

    def __init__(self, positions: list[int]) -> None:
        self.positions = positions
        self.opened: dict[tuple[str], int] = {}
        self.durations: dict[tuple[str], Histogram] = {}

    def count(self, entry: Entry) -> None:
        txn_type, seconds = entry
        self.opened[txn_type,] = self.opened.get((txn_type,), 0) + 1
        self.durations.setdefault((txn_type,), Histogram(BOUNDS)).observe(seconds)

    def families(self) -> list[Metric]:
        return [
            simple(catalogue.TRANSACTIONS_OPENED, self.opened),
            histograms(catalogue.TRANSACTION_DURATION, self.durations),
        ]


def shown_in(families: list[Metric]) -> Shown:
    return {
        (s.name, *s.labels.values()): s.value for f in families for s in f.samples if f.type in ("counter", "histogram")
    }


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = TemporaryDirectory()
        self.path = Path(self.directory.name, "exposed")
        self.logs: list[list[Entry]] = [[] for _ in LOGS]
        self.parents = 0
        self.restarts = dict.fromkeys(CHILDREN, 0)
        self.told = True
        self.state = State([0 for _ in LOGS])
        self.checkpoint = deepcopy(self.state)
        self.last: Shown = {}
        self.of_processes: Shown = {}
        self.failures = 0

    @initialize(began=st.sampled_from(StateOrigin))
    def begin(self, began: StateOrigin) -> None:
        self.monotonic_counters = MonotonicCounters(self.path, "parent-0", began)

    # --- What happens -------------------------------------------------------------------------------------------------

    @rule(log=st.sampled_from(LOGS), entries=st.lists(st.tuples(st.sampled_from(TYPES), st.integers(0, 6)), max_size=4))
    def written(self, log: int, entries: list[Entry]) -> None:
        self.logs[log] += entries

    @rule(log=st.sampled_from(LOGS), most=st.integers(1, 3))
    def read(self, log: int, most: int) -> None:
        start = self.state.positions[log]
        for entry in self.logs[log][start : start + most]:
            self.state.count(entry)
            self.state.positions[log] += 1

    @rule()
    def checkpoint_written(self) -> None:
        self.checkpoint = deepcopy(self.state)

    @rule()
    def checkpoint_failed(self) -> None:
        self.failures += 1

    @rule(child=st.sampled_from(CHILDREN))
    def child_restarted(self, child: str) -> None:
        self.restarts[child] += 1
        self.told = True

    @rule()
    def parent_tells(self) -> None:
        self.told = True

    # --- Restarts -----------------------------------------------------------------------------------------------------

    @rule()
    def aggregator_killed(self) -> None:
        self.aggregator_begins(deepcopy(self.checkpoint), StateOrigin.CHECKPOINT)

    @rule()
    def parent_killed(self) -> None:
        self.parent_begins()
        self.aggregator_begins(deepcopy(self.checkpoint), StateOrigin.CHECKPOINT)

    @rule(with_parent=st.booleans())
    def state_lost_and_begun_at_earliest(self, with_parent: bool) -> None:
        if with_parent:
            self.parent_begins()
        self.aggregator_begins(State([0 for _ in LOGS]), StateOrigin.EMPTY)

    @rule(with_parent=st.booleans())
    def state_lost_and_begun_at_latest(self, with_parent: bool) -> None:
        """After everything was counted and shown: what was not would be lost, as `latest` says."""
        self.read_to_the_end()
        self.scraped()
        if with_parent:
            self.parent_begins()
        self.aggregator_begins(State([len(log) for log in self.logs]), StateOrigin.EMPTY_AT_LATEST)

    def parent_begins(self) -> None:
        self.parents += 1
        for child in CHILDREN:
            key = ("txninsight_child_restarts_total", child)
            self.of_processes[key] = self.last.get(key, 0)
        self.restarts = dict.fromkeys(CHILDREN, 0)

    def aggregator_begins(self, state: State, began: StateOrigin) -> None:
        """The first checkpoint is written before anything is read."""
        self.state, self.checkpoint = state, deepcopy(state)
        key = ("txninsight_checkpoint_failures_total",)
        self.of_processes[key] = self.last.get(key, 0)
        self.failures = 0
        self.told = False
        self.monotonic_counters = MonotonicCounters(self.path, f"parent-{self.parents}", began)

    # --- Scrapes ------------------------------------------------------------------------------------------------------

    def families(self) -> list[Metric]:
        told = {(child,): count for child, count in self.restarts.items() if self.told}
        return [
            *self.state.families(),
            simple(catalogue.CHILD_RESTARTS, told),
            simple(catalogue.CHECKPOINT_FAILURES, {(): self.failures}),
        ]

    @rule()
    def scraped(self) -> None:
        self.seen(list(self.monotonic_counters.without_resets(self.families())))

    @rule(log=st.sampled_from(LOGS))
    @precondition(lambda self: self.logs[0] or self.logs[1])
    def scraped_by_two_at_once(self, log: int) -> None:
        """The second begins first and ends last; what the first has answered must be on disk."""
        other = self.monotonic_counters.without_resets(self.families())
        begun = [next(other)]
        self.read(log, 3)
        self.scraped()
        self.read(log, 3)
        first = self.last
        self.seen(begun + list(other), before={})
        self.last = {key: max(value, first.get(key, 0)) for key, value in self.last.items()}

    @rule(families=st.integers(1, 3))
    def killed_in_the_middle_of_a_scrape(self, families: int) -> None:
        scrape = self.monotonic_counters.without_resets(self.families())
        for _ in range(families):
            next(scrape)
        self.aggregator_killed()

    def seen(self, families: list[Metric], before: Shown | None = None) -> None:
        shown = shown_in(families)
        before = self.last if before is None else before
        fallen = {key: (value, shown.get(key)) for key, value in before.items() if shown.get(key, -1) < value}
        assert not fallen
        truth = self.truth()
        assert not {key: (value, truth.get(key)) for key, value in shown.items() if value > truth.get(key, 0)}
        for txn_type in TYPES:
            self.assert_sound(shown, txn_type)
        self.last = shown

    @staticmethod
    def assert_sound(shown: Shown, txn_type: str) -> None:
        name = "txninsight_transaction_duration_seconds"
        buckets = [value for key, value in shown.items() if key[:2] == (f"{name}_bucket", txn_type)]
        if buckets:
            assert len(buckets) == len(BOUNDS) + 1
            assert buckets == sorted(buckets)
            assert buckets[-1] == shown[f"{name}_count", txn_type]

    def truth(self) -> Shown:
        """What everything that was written counts, and what processes counted until the last scrape of each life."""
        everything = State([])
        for log in self.logs:
            for entry in log:
                everything.count(entry)
        truth = shown_in(everything.families())
        for child, count in self.restarts.items():
            key = ("txninsight_child_restarts_total", child)
            truth[key] = self.of_processes.get(key, 0) + count
        failed = ("txninsight_checkpoint_failures_total",)
        truth[failed] = self.of_processes.get(failed, 0) + self.failures
        return truth

    def read_to_the_end(self) -> None:
        for log in LOGS:
            self.read(log, len(self.logs[log]))

    def teardown(self) -> None:
        self.read_to_the_end()
        self.told = True
        self.scraped()
        assert self.last == self.truth()
        self.directory.cleanup()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=40)
