"""While we cannot see, nothing is stuck and nothing is aborted: our blindness is never taken for their silence.

One experiment, in which traffic runs all the while. On one broker three daemons watch the same topics: the monitor of
the first is stopped for 20 s and resumed, the validator of the second, the aggregator of the third. Meanwhile another
broker, watched by a fourth daemon, hangs for longer than every threshold and goes on, and is then killed and started
again after as long. Its producers keep trying and go on. At the end one transaction is left open on purpose: the
thresholds do work.

Whether a verdict is false, the brokers' logs say. A machine may be so busy that a producer really falls silent for
longer than a threshold; the log shows that, too, and only a stuck transaction that was not slow is a false alarm.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import Daemon
from tests.harness.fixtures import new_broker
from tests.harness.kafka import publish
from tests.harness.oracle import Log, LogEntry, RecordId, differences, log_entries, read_logs, reported_events
from tests.harness.timeliness import Outage, Patience
from tests.harness.traffic import Traffic
from txninsightd.tools.stack.broker import Broker, create_topics
from txninsightd.vocabulary import Verdict

READER_STOPPED_S = 20.0
BROKER_HANGS_S = 17.0
BROKER_DOWN_S = 10.0
LOOK_EVERY_S = 0.25

SESSION_TIMEOUT = "broker.session.timeout.ms"

PATIENCE = Patience(idle_after_s=5.0, overdue_after_s=8.0, commit_pending_after_s=4.0, retry_grace_s=6.0)
AFTER_AN_OUTAGE_S = PATIENCE.retry_grace_s + 2

SECTIONS: dict[str, Any] = {
    **PATIENCE.sections(),
    "supervise": {"heartbeat_timeout_s": 3600},  # a process that is stopped here is to come back as it was
}

LEFT_OPEN = {"event": "transaction_open", "txn_id": "left-open"}


class Watch:
    """A daemon over topics of a broker, and what it was seen to say."""

    def __init__(self, name: str, broker: Broker, topics: list[str], directory: Path) -> None:
        self.name = name
        self.broker = broker
        self.topics = topics
        self.daemon = Daemon(directory, broker.bootstrap, {**SECTIONS, "topics": topics})
        self.answers = True
        self.outages: list[Outage] = []
        self.down_since = float("inf")
        self.ever_aborted: set[str] = set()
        self.missing: list[str] = []
        self.false_as_of: list[Any] = []
        self.logs: list[Log] = []
        self.entries: dict[RecordId, LogEntry] = {}
        self.details: dict[str, dict[str, Any]] = {}
        self.stuck_total = -1.0
        self.late = -1.0
        self.children_before: dict[str, int] = {}
        self.children_after: dict[str, int] = {}

    def look(self) -> None:
        """Note which transactions are called aborted just now, and what is missing."""
        if not self.answers:
            return
        self.ever_aborted |= self.daemon.transactions(state="aborted").keys()
        self.missing += self.daemon.missing()
        for partition in self.daemon.get("/api/v1/partitions"):
            if max(partition["monitor_as_of"], partition["validator_as_of"]) > self.down_since:
                self.false_as_of.append(partition)

    def broker_is_down(self) -> None:
        """From now on nothing can be seen."""
        self.down_since = time.time()

    def broker_is_up(self) -> None:
        """It may answer again."""
        self.outages.append(Outage(self.down_since, time.time()))
        self.down_since = float("inf")

    def conclude(self, written_by: float) -> None:
        """When all was read: the daemon's last word on it, and the log's."""
        self.logs = read_logs(self.broker, self.topics)
        self.entries = log_entries(self.logs)
        self.daemon.await_read(written_by)
        settled = len({f.txn_id for f in self.entries.values()})
        self.daemon.await_that(
            lambda: self.daemon.total("txninsight_transactions_finished_total") >= settled, f"{settled} are settled"
        )
        self.details = self.daemon.details({f.txn_id for f in self.entries.values()})
        self.stuck_total = self.daemon.total("txninsight_stuck_total")
        self.late = sum(self.daemon.total("txninsight_anomalies_total", kind=k) for k in ("late_event", "late_retry"))

    def await_idle(self, txn_id: str) -> None:
        """Wait until this one, and no other, is idle."""
        self.daemon.await_that(lambda: self.daemon.transactions(cause="idle").keys() == {txn_id}, f"{txn_id} is idle")

    def slow(self) -> set[str]:
        """The transactions that really came close to a threshold, by the log; the broker's outages are excused."""
        return PATIENCE.slow(self.logs, self.outages)


# --- The experiment ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frail(kafka_libs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The broker that hangs and dies. Hanging does not fence it: that may end its clients (test_client_watchdog.py)."""
    session = {SESSION_TIMEOUT: str(int(2 * BROKER_HANGS_S * 1000))}
    running = new_broker(tmp_path_factory.mktemp("frail"), kafka_libs, properties=session)
    running.start()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def watches(broker: Broker, frail: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Watch]]:
    """All four daemons, after all of it."""
    with ExitStack() as ends:
        made = {}
        names = {"monitor": broker, "validator": broker, "aggregator": broker, "broker": frail}
        topics: dict[str, list[str]] = {}
        for name, on in names.items():
            if on.bootstrap not in topics:
                topics[on.bootstrap] = [f"blind-{what}-{on.port}" for what in ("main", "steps")]
                create_topics(on.bootstrap, dict.fromkeys(topics[on.bootstrap], 2))
            made[name] = Watch(name, on, topics[on.bootstrap], tmp_path_factory.mktemp(name))
            ends.callback(made[name].daemon.end)
            made[name].daemon.start()
        for watch in made.values():
            watch.daemon.await_ready()
            watch.children_before = watch.daemon.pids()
        experiment(made, [Traffic(bootstrap, mine) for bootstrap, mine in topics.items()])
        yield made


def experiment(watches: dict[str, Watch], traffics: list[Traffic]) -> None:
    """Stop, resume, kill, restart; then let everything come to rest."""
    for traffic in traffics:
        traffic.start()
    hold(watches, 3)
    children = {"monitor": "monitor-0", "validator": "validator-0", "aggregator": "aggregator"}
    stopped = [watches[name].children_before[child] for name, child in children.items()]
    watches["aggregator"].answers = False
    frozen = watches["broker"]
    for pid in (*stopped, frozen.broker.pid):
        os.kill(pid, signal.SIGSTOP)
    frozen.broker_is_down()
    hold(watches, BROKER_HANGS_S)
    frozen.broker_is_up()
    os.kill(frozen.broker.pid, signal.SIGCONT)
    hold(watches, READER_STOPPED_S - BROKER_HANGS_S)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    watches["aggregator"].answers = True
    hold(watches, AFTER_AN_OUTAGE_S)
    frozen.broker.kill()
    frozen.broker_is_down()
    hold(watches, BROKER_DOWN_S)
    frozen.broker.properties.pop(SESSION_TIMEOUT)  # so long would it wait for the one that is dead
    frozen.broker.start()
    frozen.broker_is_up()
    hold(watches, AFTER_AN_OUTAGE_S)
    for traffic in traffics:
        traffic.stop()
    written_by = time.time()
    for watch in watches.values():
        watch.conclude(written_by)
        watch.children_after = watch.daemon.pids()


def hold(watches: dict[str, Watch], seconds: float) -> None:
    """Let it go on for so long, and keep looking."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for watch in watches.values():
            watch.look()
        time.sleep(LOOK_EVERY_S)


# --- What must be so --------------------------------------------------------------------------------------------------

ALL = pytest.mark.parametrize("name", ["monitor", "validator", "aggregator", "broker"])


@ALL
def test_traffic_ran_all_the_while(watches: dict[str, Watch], name: str) -> None:
    verdicts = [entry.verdict for entry in watches[name].entries.values()]
    assert verdicts.count(Verdict.COMMITTED) > 200
    assert verdicts.count(Verdict.ABORTED) > 50
    assert verdicts.count(Verdict.PENDING) == 0
    healthy = watches[name].details.keys() - watches[name].slow()
    assert len(healthy) > len(watches[name].details) / 2


@ALL
def test_no_false_stuck(watches: dict[str, Watch], name: str) -> None:
    passed = {txn_id: d["causes_passed"] for txn_id, d in watches[name].details.items() if d["causes_passed"]}
    slow = watches[name].slow()
    assert {txn_id: causes for txn_id, causes in passed.items() if txn_id not in slow} == {}
    assert watches[name].stuck_total == sum(len(causes) for causes in passed.values())


@ALL
def test_no_false_aborted(watches: dict[str, Watch], name: str) -> None:
    watch = watches[name]
    ever_aborted = {f.txn_id for f in watch.entries.values() if f.verdict is Verdict.ABORTED}
    standing = {f.txn_id for f in watch.entries.values() if f.verdict is not Verdict.ABORTED}
    assert watch.ever_aborted <= ever_aborted
    assert {t for t, d in watch.details.items() if d["outcome"] == "aborted"} == ever_aborted - standing
    assert {t for t, d in watch.details.items() if d["outcome"] == "closed"} == standing
    assert watch.late == 0


@ALL
def test_every_verdict_is_the_logs(watches: dict[str, Watch], name: str) -> None:
    assert differences(watches[name].entries, reported_events(watches[name].details.values())) == []


@ALL
def test_readiness_named_the_blind_view(watches: dict[str, Watch], name: str) -> None:
    blind = {text.partition(" has seen nothing newer")[0] for text in watches[name].missing if "nothing newer" in text}
    expected = {"monitor": {name}, "validator": {name}, "aggregator": set(), "broker": {"monitor", "validator"}}[name]
    assert blind == {f"the {view}" for view in expected}
    assert any("does not answer" in text for text in watches[name].missing) == (name == "broker")


def test_an_outage_is_no_answer(watches: dict[str, Watch]) -> None:
    assert watches["broker"].false_as_of == []


@ALL
def test_no_process_was_restarted(watches: dict[str, Watch], name: str) -> None:
    assert watches[name].children_after == watches[name].children_before


def test_the_thresholds_do_work(watches: dict[str, Watch]) -> None:
    for on in {watch.broker.bootstrap: watch for watch in watches.values()}.values():
        publish(on.broker.bootstrap, on.topics[0], [("left-open", json.dumps(LEFT_OPEN))])
    for watch in watches.values():
        watch.await_idle(LEFT_OPEN["txn_id"])


def test_they_stop_in_order_though_a_broker_is_down(watches: dict[str, Watch]) -> None:
    watches["broker"].broker.kill()
    assert {name: watch.daemon.stop() for name, watch in watches.items()} == dict.fromkeys(watches, 0)
