"""Every process of the daemon and its broker are killed and hung, its host misbehaves, and under load nothing is lost.

The load's truth is known beforehand (campaign/load.py), the faults strike with work in flight (campaign/faults.py), and
a real Prometheus scrapes through it all. Afterwards every transaction, every event and every counter must be what they
would have been without any fault, and no counter may ever have fallen. The table is printed, and left in .run/; that of
the long form is what docs/reliability.md shows.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.harness.campaign.experiment import Experiment, Form, Told, table
from tests.harness.campaign.faults import FAULTS
from tests.harness.campaign.load import LoadBroken
from tests.harness.campaign.recovery import await_checkpoint, kill_and_await_ready, write_open
from tests.harness.campaign.verdict import (
    counter_differences,
    counts_of,
    event_differences,
    prometheus_differences,
    transaction_differences,
)
from tests.harness.daemon import Daemon
from tests.harness.fixtures import MakeTopic, new_broker
from tests.harness.json_log import LogTail
from tests.harness.paths import RUN_DIR
from txninsightd.tools.stack.broker import Broker

SEED = 4711
APART = 1000
"""Between the seeds of two trials: each round of the load has the next one."""

MOST_TRIALS = 3
SHORT = Form("short", kills=3, hangs=1, host_faults=1, idle_partitions=500)
LONG = Form("long", kills=20, hangs=5, host_faults=10, idle_partitions=5000)
ABORTED_SHARE = 0.2
LABELLED_BY_EVENTS = {
    "txninsight_transactions_finished_total",
    "txninsight_step_duration_seconds_count",
    "txninsight_step_gap_seconds_count",
}


class Ran(NamedTuple):
    """A campaign that is over; each list holds differences to the truth, in words."""

    form: Form
    experiment: Experiment
    told: Told
    transactions: list[str]
    events: list[str]
    counters: list[str]
    prometheus: list[str]


@pytest.fixture(scope="module", params=[SHORT, pytest.param(LONG, marks=pytest.mark.full)], ids=["short", "long"])
def ran(
    request: pytest.FixtureRequest,
    kafka_libs: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Ran]:
    with ExitStack() as ends:
        for seed in range(SEED, SEED + MOST_TRIALS * APART, APART):
            directory = tmp_path_factory.mktemp("campaign")
            broker = ends.enter_context(new_broker(directory / "broker", kafka_libs))
            experiment = Experiment(request.param, broker, directory, seed, ends)
            try:
                told = experiment.run()
                break
            except LoadBroken as broken:
                print(f"begun anew: {broken}")
                ends.close()
        else:
            pytest.fail(f"no load came to its end in {MOST_TRIALS} trials")
        truth = told.truth
        found = Ran(
            request.param,
            experiment,
            told,
            transaction_differences(told.details, told.known, truth),
            event_differences(told.details, told.logs),
            counter_differences(counts_of(told.metrics), truth.counts),
            prometheus_differences(experiment.prometheus, told.scraped, truth.counts),
        )
        differences = sum(map(len, (found.transactions, found.events, found.counters, found.prometheus)))
        result = table(experiment.injected, told, differences)
        print(result)
        (RUN_DIR / f"campaign-{found.form.name}.md").write_text(f"{result}\n")
        yield found


def test_every_fault_struck_as_often_as_planned(ran: Ran) -> None:
    assert Counter(injected.fault for injected in ran.experiment.injected) == ran.form.often


def test_the_idle_partitions_were_read_beside_the_loaded_ones(ran: Ran) -> None:
    assert ran.told.partitions == ran.form.idle_partitions + len(ran.told.logs)


def test_each_struck_with_work_in_flight_and_some_in_a_checkpoint(ran: Ran) -> None:
    injected = ran.experiment.injected
    assert min(s.in_flight.undecided for s in injected) > 0
    assert min(s.in_flight.unapplied for s in injected) > 0
    for fault in FAULTS:
        assert any(s.in_checkpoint for s in injected if s.fault is fault), fault


def test_a_fifth_was_aborted_and_all_kinds_of_ends_came_to_be(ran: Ran) -> None:
    truth = ran.told.truth
    assert truth.aborted_share >= ABORTED_SHARE
    assert {t["stuck"] for t in truth.transactions.values()} >= {"idle", "never_committed", None}
    assert max(t["attempts"] for t in truth.transactions.values()) > 1


def test_every_transaction_is_what_it_would_be_without_faults(ran: Ran) -> None:
    assert ran.transactions == []


def test_every_event_is_told_once_with_the_verdict_of_the_log(ran: Ran) -> None:
    assert ran.events == []


def test_every_counter_is_what_it_would_be_without_faults(ran: Ran) -> None:
    assert ran.counters == []


def test_no_counter_ever_fell(ran: Ran) -> None:
    assert len(ran.told.scraped.series) > 100
    assert ran.told.scraped.fallen() == []


def test_what_prometheus_saw_gained_is_the_truth(ran: Ran) -> None:
    assert ran.prometheus == []


def test_counters_begin_at_0_before_the_first_event(ran: Ran) -> None:
    """But for those whose labels only events can tell."""
    later = {name for (name, _), value in ran.told.scraped.later_born().items() if value}
    assert later <= LABELLED_BY_EVENTS


def test_nothing_outlived_its_parent(ran: Ran) -> None:
    ended = ran.experiment.service.ended
    assert sum(each.by_watchdog for each in ended) == ran.form.hangs
    assert len(ended) == ran.form.kills + ran.form.hangs
    assert [each.outlived for each in ended if each.outlived and not each.by_watchdog] == []


def test_it_stops_in_order(ran: Ran) -> None:
    assert ran.experiment.service.stop() == 0


# --- How fast it comes back -------------------------------------------------------------------------------------------

OPEN = 100_000
RECOVERED_GUARD_S = 50.0
"""Ten times the time that is promised."""


def test_recovery_with_many_open_transactions(
    broker: Broker, topic: MakeTopic, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = topic(6)
    daemon = Daemon(tmp_path, broker.bootstrap, {"topics": [name], "state": {"checkpoint_every_s": 2}}).start()
    request.addfinalizer(daemon.end)
    log = LogTail(daemon.log_file)
    daemon.await_ready()
    write_open(broker.bootstrap, name, OPEN)
    daemon.await_that(lambda: daemon.total("txninsight_transactions_opened_total") >= OPEN, "all are seen")
    await_checkpoint(daemon, log)
    recovery = kill_and_await_ready(daemon, log)
    print(f"ready after {recovery.took_s:.2f} s ({recovery.cpu_s:.2f} s of a CPU) with {OPEN:,} open ones:")
    print("\n".join(f"  {step.took_s:5.2f} s  {step.what}" for step in recovery.steps))
    assert recovery.took_s < RECOVERED_GUARD_S
    assert daemon.total("txninsight_transactions", state="open") == OPEN
    assert daemon.total("txninsight_transactions_opened_total") == OPEN
