"""Stop the daemon's processes dead (SIGSTOP): a silent process is found and replaced, and no other.

Judged from outside, as in test_supervision.py: signals, process ids, the log, and the daemon's figures against what
was written.
"""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.harness.daemon import Daemon
from tests.harness.fixtures import MakeTopic, Start
from tests.harness.kafka import publish
from tests.harness.transactions import await_counted, write_transactions
from txninsightd.supervise.exit_codes import EXIT_KILLED
from txninsightd.tools.stack.broker import Broker

TIMEOUT_S = 4.0
SUPERVISE = {
    "backoff_initial_s": 0.05,
    "backoff_max_s": 0.1,
    "give_up_after": 1000,
    "stop_timeout_s": 60,
    "heartbeat_timeout_s": TIMEOUT_S,
}
AGE = "txninsight_child_heartbeat_age_seconds"
FLOOD = 100_000

SECTIONS = {"supervise": SUPERVISE, "state": {"retry_grace_s": 0.5}}


def hung(daemon: Daemon) -> list[str]:
    """The children that were found hung, in order."""
    return [line["child"] for line in daemon.log(event="child_hung")]


@pytest.mark.parametrize("child", ["monitor-0", "validator-0"])
def test_a_stopped_reader_is_replaced_and_nothing_is_lost(
    broker: Broker, topic: MakeTopic, start: Start, child: str
) -> None:
    name = topic(3)
    daemon = start(name).await_ready()
    written = write_transactions(broker.bootstrap, name, "before", 20)
    before = daemon.pids()
    os.kill(before[child], signal.SIGSTOP)
    written = written.plus(write_transactions(broker.bootstrap, name, "meanwhile", 20))
    daemon.await_that(lambda: daemon.total(AGE, child=child) > TIMEOUT_S / 2, "its age grows")
    daemon.await_that(lambda: daemon.pids().get(child, before[child]) != before[child], f"{child} is replaced")
    written = written.plus(write_transactions(broker.bootstrap, name, "after", 20))
    await_counted(daemon, name, written)
    assert hung(daemon) == [child]
    assert {c for c, pid in daemon.pids().items() if before[c] != pid} == {child}
    assert daemon.total(AGE, child=child) < TIMEOUT_S
    assert daemon.total("txninsight_child_restarts_total") == 1
    assert daemon.stop() == 0


def test_a_stopped_aggregator_is_replaced(broker: Broker, topic: MakeTopic, start: Start) -> None:
    name = topic(3)
    daemon = start(name).await_ready()
    written = write_transactions(broker.bootstrap, name, "before", 20)
    before = daemon.pids()
    os.kill(before["aggregator"], signal.SIGSTOP)
    daemon.await_gone(before.values())
    daemon.await_ready()
    await_counted(daemon, name, written.plus(write_transactions(broker.bootstrap, name, "after", 20)))
    assert hung(daemon) == ["aggregator"]
    assert daemon.stop() == 0


def test_a_whole_daemon_that_was_stopped_for_long_goes_on_as_it_was(
    broker: Broker, topic: MakeTopic, start: Start
) -> None:
    """As a virtual machine that was paused: all beats are old at once, and the parent sees it first."""
    name = topic(3)
    daemon = start(name).await_ready()
    assert daemon.process is not None
    before = daemon.pids()
    every_pid = [daemon.process.pid, *before.values()]
    for pid in every_pid:
        os.kill(pid, signal.SIGSTOP)
    clock_s = os.times().elapsed
    written = write_transactions(broker.bootstrap, name, "meanwhile", 20)
    while os.times().elapsed < clock_s + 1.5 * TIMEOUT_S:
        written = written.plus(write_transactions(broker.bootstrap, name, f"at-{os.times().elapsed}", 1))
    slept = voluntary_switches(daemon.process.pid)
    daemon.process.send_signal(signal.SIGCONT)
    daemon.await_that(lambda: voluntary_switches(every_pid[0]) > slept, "the parent has looked, and waits again")
    for pid in before.values():
        os.kill(pid, signal.SIGCONT)
    await_counted(daemon, name, written)
    assert hung(daemon) == []
    assert daemon.pids() == before
    assert daemon.stop() == 0


def voluntary_switches(pid: int) -> int:
    """How often a process went to sleep of its own accord."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["voluntary_ctxt_switches"])


def test_one_that_works_hard_is_not_taken_for_dead(broker: Broker, topic: MakeTopic, start: Start) -> None:
    name = topic(2)
    records = ((f"t-{i}", json.dumps({"event": "transaction_open", "txn_id": f"t-{i}"})) for i in range(FLOOD))
    publish(broker.bootstrap, name, records)
    daemon = start(name)
    daemon.await_that(
        lambda: daemon.status("/readyz") != 0 and daemon.total("txninsight_transactions_opened_total") == FLOOD,
        "all is read",
    )
    assert hung(daemon) == []
    assert daemon.stop() == 0


def test_no_child_outlives_a_killed_parent_stopped_or_not(broker: Broker, topic: MakeTopic, start: Start) -> None:
    daemon = start(topic(1)).await_ready()
    assert daemon.process is not None
    pids = daemon.pids()
    assert set(pids) == {"aggregator", "monitor-0", "validator-0"}
    os.kill(pids["aggregator"], signal.SIGSTOP)
    os.kill(pids["validator-0"], signal.SIGSTOP)
    daemon.process.kill()
    daemon.process.wait()
    daemon.await_gone(pids.values())
    assert not [pid for pid in pids.values() if Path(f"/proc/{pid}").exists()]


def test_a_stopped_reader_does_not_keep_the_rest_from_stopping_in_order(
    broker: Broker, topic: MakeTopic, start: Start
) -> None:
    daemon = start(topic(1), supervise={**SUPERVISE, "heartbeat_timeout_s": 3600, "stop_timeout_s": 8}).await_ready()
    os.kill(daemon.pids()["monitor-0"], signal.SIGSTOP)
    assert daemon.stop() == EXIT_KILLED
    assert [line["child"] for line in daemon.log(event="child_did_not_stop")] == ["monitor-0"]
    assert daemon.pids() == {}
