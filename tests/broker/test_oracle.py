"""The daemon's verdicts against Kafka's own log dump, offset by offset, on a dense run.

100,000 events over 3 topics x 2 partitions by interleaved producers, with aborts, retries and one Kafka transaction
that is left hanging, are published as fast as it goes while the daemon reads. Then a second daemon reads the same log
from its beginning, its readers split and its batches and queues tiny: it must come to the same end.
"""

import json
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.harness.daemon import Daemon
from tests.harness.metrics import Samples, total
from tests.harness.oracle import Log, LogEntry, RecordId, differences, log_entries, read_logs, reported_events
from tests.harness.paths import PROGRAMS, ROOT
from txninsightd.tools.stack.broker import Broker, create_topics
from txninsightd.vocabulary import Verdict

SCENARIO = ROOT / "scenarios" / "oracle.yaml"

SETTLED_ONCE = (
    "txninsight_transactions_opened_total",
    "txninsight_transactions_finished_total",
    "txninsight_records_total",
    "txninsight_anomalies_total",
    "txninsight_undecided_records",
    "txninsight_transactions",
    "txninsight_stuck_transactions",
    "txninsight_transaction_duration_seconds_count",
    "txninsight_step_duration_seconds_count",
    "txninsight_step_gap_seconds_count",
    "txninsight_commit_delay_seconds_count",
)
"""What does not depend on when something was read."""

OUTCOME_FIELDS = ("state", "outcome", "attempts", "cause", "duration_s", "anomalies", "status", "events", "partial")


class Pass(NamedTuple):
    """What one daemon said at its end."""

    details: dict[str, dict[str, Any]]
    metrics: Samples
    exit_code: int

    def total(self, name: str, **labels: str) -> float:
        """The sum over all samples of a metric that have these labels."""
        return total(self.metrics, name, **labels)


class Run(NamedTuple):
    """The log, and what two daemons made of it."""

    logs: list[Log]
    entries: dict[RecordId, LogEntry]
    live: Pass
    again: Pass


@pytest.fixture(scope="module")
def run(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Publish, read twice, and dump the log."""
    directory = tmp_path_factory.mktemp("oracle")
    topics = simulate(directory)
    create_topics(broker.bootstrap, topics)
    sections = yaml.safe_load((directory / "sections.yaml").read_text())
    sections["state"]["linger_s"] = 86400
    sections["stuck"]["commit_pending_after_s"] = 3600
    small = {
        **sections,
        "readers": {"monitors": 2, "validators": 2},
        "limits": {**sections["limits"], "queue_batches": 2, "batch_records": 100},
    }
    live, again = (
        Daemon(tmp_path_factory.mktemp(n), broker.bootstrap, s) for n, s in (("live", sections), ("again", small))
    )
    try:
        live.start().await_ready()
        publish(directory / "events.jsonl", broker.bootstrap)
        published_at = time.time()
        again.start()
        logs = read_logs(broker, topics)
        entries = log_entries(logs)
        yield Run(logs, entries, finish(live, entries, published_at), finish(again, entries, published_at))
    finally:
        live.end()
        again.end()


def simulate(directory: Path) -> dict[str, int]:
    """Write the scenario's events; gives the number of partitions by topic.

    Its one crash comes earlier than in the file, so that much of the log lies behind the transaction left hanging.
    """
    run_program(
        "txninsight-sim", SCENARIO, "--out", directory, "--daemon-config", directory / "sections.yaml", "--quiet"
    )
    with (directory / "events.jsonl").open() as lines:
        header = json.loads(next(lines))["header"]
    return {topic: described["partitions"] for topic, described in header["topics"].items()}


def publish(events: Path, bootstrap: str) -> None:
    """Replay the events as fast as it goes."""
    run_program("txninsight-replay", events, "--bootstrap", bootstrap, "--strict", "--speed", "max")


def run_program(name: str, *arguments: str | Path) -> None:
    """Run one of the installed programs to its end, which must be a good one."""
    subprocess.run([PROGRAMS / name, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=True)


def finish(daemon: Daemon, entries: dict[RecordId, LogEntry], published_at: float) -> Pass:
    """Wait until all is read and settled and every grace for a retry is over; ask for everything, and stop it."""
    daemon.await_read(published_at)
    expected = sum(outcomes(entries).values())
    daemon.await_that(
        lambda: daemon.total("txninsight_transactions_finished_total") >= expected, f"{expected} transactions settled"
    )
    daemon.await_that(
        lambda: daemon.total("txninsight_transactions", state="aborted") == 0, "no transaction may still be tried again"
    )
    details = daemon.details({entry.txn_id for entry in entries.values()})
    return Pass(details, daemon.metrics(), daemon.stop())


def outcomes(entries: dict[RecordId, LogEntry]) -> Counter[str]:
    """How many transactions are settled, by the log: all events aborted, or a committed close and none pending."""
    lives: dict[str, list[LogEntry]] = defaultdict(list)
    for entry in entries.values():
        lives[entry.txn_id].append(entry)
    found: Counter[str] = Counter()
    for life in lives.values():
        verdicts = {entry.verdict for entry in life}
        if verdicts == {Verdict.ABORTED}:
            found["aborted"] += 1
        elif Verdict.PENDING not in verdicts and any(
            entry.kind == "transaction_close" and entry.verdict is Verdict.COMMITTED for entry in life
        ):
            found["closed"] += 1
    return found


# --- The run is what it should be -------------------------------------------------------------------------------------


def test_the_run_is_dense_enough(run: Run) -> None:
    verdicts = Counter(entry.verdict for entry in run.entries.values())
    switches = sum(a != b for log in run.logs for a, b in pairwise(log.producers))
    assert len(run.entries) >= 100_000
    assert len(run.logs) == 6
    assert min(len(set(log.producers)) for log in run.logs) >= 10
    assert switches > len(run.entries) / 10
    assert verdicts[Verdict.ABORTED] > len(run.entries) / 20
    assert verdicts[Verdict.PENDING] > 500
    assert verdicts[Verdict.UNKNOWN] == 0


# --- Verdicts ---------------------------------------------------------------------------------------------------------


def test_every_verdict_is_the_logs(run: Run) -> None:
    assert differences(run.entries, reported_events(run.live.details.values())) == []


def test_every_verdict_is_the_logs_read_later_by_other_readers(run: Run) -> None:
    assert differences(run.entries, reported_events(run.again.details.values())) == []


def test_the_comparison_finds_what_is_wrong(run: Run) -> None:
    record_ids = iter(run.entries)
    flipped, lost, foreign = next(record_ids), next(record_ids), next(record_ids)
    other = {Verdict.COMMITTED: Verdict.ABORTED, Verdict.ABORTED: Verdict.PENDING, Verdict.PENDING: Verdict.COMMITTED}
    entries = dict(run.entries)
    entries[flipped] = entries[flipped]._replace(verdict=other[entries[flipped].verdict])
    del entries[foreign]
    reported = [
        (record_id, event) for record_id, event in reported_events(run.live.details.values()) if record_id != lost
    ]
    twice = reported[-1]
    found = differences(entries, [*reported, twice])
    assert len(found) == 4
    assert any(text.startswith(f"{flipped} is LogEntry(") for text in found)
    assert any(text.startswith(f"{foreign} is not in the log") for text in found)
    assert any(text.startswith(f"{twice[0]} is told twice") for text in found)
    assert f"{lost} is {run.entries[lost]}, but not told" in found


# --- Counters and states ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["live", "again"])
def test_the_counters_are_the_logs(run: Run, which: str) -> None:
    said: Pass = getattr(run, which)
    for topic in {record_id.topic for record_id in run.entries}:
        verdicts = Counter(entry.verdict for record_id, entry in run.entries.items() if record_id.topic == topic)
        assert said.total("txninsight_records_total", view="monitor", topic=topic) == verdicts.total()
        assert said.total("txninsight_records_total", view="monitor", topic=topic, result="ok") == verdicts.total()
        assert said.total("txninsight_records_total", view="validator", topic=topic) == verdicts[Verdict.COMMITTED]
        assert said.total("txninsight_undecided_records", topic=topic) == verdicts[Verdict.PENDING]
    opened = {entry.txn_id for entry in run.entries.values() if entry.kind == "transaction_open"}
    assert said.total("txninsight_transactions_opened_total") == len(opened)
    for outcome, count in outcomes(run.entries).items():
        assert said.total("txninsight_transactions_finished_total", outcome=outcome) == count
    assert said.total("txninsight_transactions_finished_total") == outcomes(run.entries).total()
    assert said.total("txninsight_anomalies_total") == 0


def test_a_later_reading_comes_to_the_same_end(run: Run) -> None:
    for name in SETTLED_ONCE:
        assert samples(run.live, name) == samples(run.again, name)
    different = [
        (txn_id, field, detail[field], run.again.details[txn_id][field])
        for txn_id, detail in run.live.details.items()
        for field in OUTCOME_FIELDS
        if detail[field] != run.again.details[txn_id][field]
    ]
    assert different == []


def samples(said: Pass, name: str) -> Samples:
    """All samples of one name."""
    return {key: value for key, value in said.metrics.items() if key[0] == name}


def test_both_daemons_stopped_in_order(run: Run) -> None:
    assert (run.live.exit_code, run.again.exit_code) == (0, 0)
