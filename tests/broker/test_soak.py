"""A soak in short: half a minute of steady load, in which nothing is lost, nothing counted twice, and nothing grows.

The limits are so low that what the daemon keeps of the past is full long before the end. `make soak` is the long form.
"""

from pathlib import Path

import pytest

from tests.harness.metrics import total
from tests.soak import report
from tests.soak.experiment import Plan, Seen, Soak
from txninsightd.tools.stack.broker import Broker

MEGABYTE = 1 << 20
LIMITS = {
    "open_transactions": 5_000,
    "kept_events": 50_000,
    "undecided_records": 50_000,
    "lingering": 2_000,
    "remembered_ids": 3_000,
    "prefetch_bytes": 16 << 20,
}
STATE = {"checkpoint_every_s": 2.0, "retry_grace_s": 8.0}
PLAN = Plan(minutes=0.4, rate=2_000, open_at_once=1_000, sample_every_s=1.0, limits=LIMITS, state=STATE)
MOST_AGGREGATOR_BYTES = 120 * MEGABYTE + 1.3 * (
    LIMITS["open_transactions"] * 1_500
    + LIMITS["kept_events"] * 300
    + LIMITS["undecided_records"] * 300
    + LIMITS["lingering"] * 1_000
    + LIMITS["remembered_ids"] * 20
)
MOST_READER_BYTES = 80 * MEGABYTE + 3 * LIMITS["prefetch_bytes"]
"""By the formulas of docs/reliability.md."""

FEWEST_PROBES = 3


@pytest.fixture(scope="module")
def seen(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    directory: Path = tmp_path_factory.mktemp("soak")
    soak = Soak(PLAN, broker, directory)
    found = soak.run()
    print(report.markdown(report.figures(found)))
    return found


def test_all_probes_arrive_and_the_metrics_show_what_the_api_shows(seen: Seen) -> None:
    assert seen.probes is not None
    assert len(seen.probes.done) == seen.probes.began >= FEWEST_PROBES
    assert seen.probes.contradictions == []
    assert all(probe.settled_s >= probe.closed_s for probe in seen.probes.done)


def test_nothing_is_lost_and_nothing_counted_twice(seen: Seen) -> None:
    assert seen.written.aborted > 0
    assert seen.written.closed > LIMITS["remembered_ids"]
    assert seen.differences == []


def test_what_is_kept_of_the_past_is_full_and_nothing_else_was_given_up(seen: Seen) -> None:
    name = "txninsight_limit_hits_total"
    hit = {dict(labels)["limit"] for (of, labels), value in seen.metrics.items() if of == name and value}
    assert hit == {"lingering", "remembered_ids"}
    assert total(seen.metrics, "txninsight_lingering_transactions") <= LIMITS["lingering"]


def test_no_process_was_restarted_and_it_stops_in_order(seen: Seen) -> None:
    assert seen.restarted == []
    assert seen.exit_code == 0


def test_descriptors_and_threads_do_not_grow(seen: Seen) -> None:
    for name in seen.samples[-1].processes:
        looks = [sample.processes[name] for sample in seen.samples]
        assert not report.grew([look.descriptors for look in looks]), name
        assert not report.grew([look.threads for look in looks]), name


def test_memory_stays_below_the_documented_bound(seen: Seen) -> None:
    peaks = {name: look.most_rss_bytes for name, look in seen.samples[-1].processes.items()}
    assert peaks["aggregator"] < MOST_AGGREGATOR_BYTES
    assert peaks["monitor-0"] < MOST_READER_BYTES
    assert peaks["validator-0"] < MOST_READER_BYTES


def test_checkpoints_are_written_all_the_while(seen: Seen) -> None:
    assert len(seen.checkpoints) >= 2
    assert all(checkpoint.size_bytes > 0 for checkpoint in seen.checkpoints)


def test_told_to_stop_it_gives_what_it_has_seen_so_far(broker: Broker, tmp_path: Path) -> None:
    soak = Soak(PLAN._replace(minutes=10.0, rate=200.0, open_at_once=40), broker, tmp_path)

    def stop_at_the_second(_: object) -> None:
        if len(soak.seen.samples) > 1:
            soak.stop.set()

    found = soak.run(stop_at_the_second)
    assert len(found.samples) == 2
    assert found.differences == []
    assert "none" in report.markdown(report.figures(found)).splitlines()[-1]
