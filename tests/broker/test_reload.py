"""SIGHUP and `txninsightd forget` on the installed daemon, with a real broker behind it: nothing is lost by either."""

import json
import os
import signal
import time
from typing import Any

from confluent_kafka import Producer

from tests.harness.daemon import Daemon
from tests.harness.fixtures import MakeTopic, Start
from tests.harness.kafka import publish
from txninsightd.tools.stack.broker import Broker

PATIENT = {"backoff_initial_s": 0.05, "backoff_max_s": 0.1, "give_up_after": 1000}
OPEN = {f"open-{i}" for i in range(5)}
RELOADS = "txninsight_config_reloads_total"
FINISHED = "txninsight_transactions_finished_total"
STUCK = "txninsight_stuck_transactions"

SECTIONS = {"supervise": PATIENT, "state": {"retry_grace_s": 0.5}}


def write(broker: Broker, topic: str) -> None:
    """Five open ones, and `left`, whose close was aborted and never tried again."""
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": topic})
    producer.init_transactions(60)

    def transaction(kind: str, *txn_ids: str) -> None:
        producer.begin_transaction()
        for txn_id in txn_ids:
            producer.produce(topic, json.dumps({"event": kind, "txn_id": txn_id, "ts": time.time()}), txn_id)
        producer.flush()

    transaction("transaction_open", "left", *sorted(OPEN))
    producer.commit_transaction(60)
    transaction("transaction_close", "left")
    producer.abort_transaction(60)


def stuck(daemon: Daemon) -> dict[str, str]:
    """Which transactions are stuck, and why."""
    return {txn_id: t["cause"] for txn_id, t in daemon.transactions(state="stuck").items()}


def events(daemon: Daemon, event: str) -> list[dict[str, Any]]:
    return [line for line in daemon.log() if line["event"] == event]


def await_reloads(daemon: Daemon, applied: int, refused: int) -> None:
    """Wait until the metrics say so; the last word is what the latest reload came to."""
    daemon.await_that(
        lambda: (
            (daemon.total(RELOADS, result="applied"), daemon.total(RELOADS, result="refused")) == (applied, refused)
        ),
        f"{applied} reloads applied, {refused} refused",
    )


def test_thresholds_change_and_nothing_else_does(broker: Broker, topic: MakeTopic, start: Start) -> None:
    name = topic(2)
    write(broker, name)
    daemon = start(name).await_ready()
    daemon.await_that(lambda: stuck(daemon) == {"left": "never_committed"}, "one is stuck")
    before, pids = daemon.transactions(), daemon.pids()
    assert daemon.total("txninsight_config_last_reload_successful") == 1
    await_reloads(daemon, applied=0, refused=0)

    daemon.reload(stuck={"idle_after_s": 0.5})
    idle = dict.fromkeys(OPEN, "idle")
    daemon.await_that(lambda: stuck(daemon) == {"left": "never_committed", **idle}, "all that idle are stuck")
    await_reloads(daemon, applied=1, refused=0)
    assert daemon.total("txninsight_stuck_total", cause="idle") == 5
    assert events(daemon, "config_applied")[-1]["changed"] == ["stuck.idle_after_s"]
    after = daemon.transactions()
    unchanged = ("opened_at", "last_event_at", "events", "attempts")
    assert {t: [after[t][key] for key in unchanged] for t in after} == {
        t: [before[t][key] for key in unchanged] for t in before
    }
    assert daemon.total("txninsight_records_total", view="monitor", topic=name) == 7

    daemon.reload(limits={"value_bytes": 200})
    await_reloads(daemon, applied=2, refused=0)

    def too_large() -> bool:
        publish(broker.bootstrap, name, [("large", json.dumps({"event": "step_open", "txn_id": "x" * 200}))])
        return daemon.total("txninsight_records_total", result="oversized") > 0

    daemon.await_that(too_large, "the monitor goes by the new bound")
    assert daemon.pids() == pids

    daemon.reload("stuck:\n  idle_after_s: 9\n  idle_afters: 9\nlog:\n  level: 7\n")
    await_reloads(daemon, applied=2, refused=1)
    assert daemon.total("txninsight_config_last_reload_successful") == 0
    faults = [line["fault"].removeprefix(f"{daemon.config_file}:") for line in events(daemon, "config_fault")]
    assert [fault.partition(": expected")[0] for fault in faults] == ["3: stuck.idle_afters", "5: log.level"]
    assert stuck(daemon).keys() == {"left", *OPEN}


def test_what_a_reload_changed_outlives_the_aggregator(broker: Broker, topic: MakeTopic, start: Start) -> None:
    name = topic(2)
    write(broker, name)
    daemon = start(name, stuck={"idle_after_s": 0.5}).await_ready()
    daemon.await_that(lambda: stuck(daemon).keys() == {"left", *OPEN}, "all are stuck")
    counted = daemon.total("txninsight_stuck_total")
    refused = daemon.config_file.read_text()
    daemon.reload("nonsense: 1\n")
    await_reloads(daemon, applied=0, refused=1)
    daemon.config_file.write_text(refused)
    daemon.reload(
        stuck={"idle_after_s": 900},
        topics=[name, "another"],
        limits={"prefetch_bytes": 1_048_576, "queue_batches": 9},
        log={"level": "info", "format": "json"},
    )
    daemon.await_that(lambda: stuck(daemon) == {"left": "never_committed"}, "idle ones are stuck no more")
    await_reloads(daemon, applied=1, refused=1)
    assert events(daemon, "config_needs_restart")[-1]["keys"] == ["topics", "limits.prefetch_bytes"]

    pids = daemon.pids()
    os.kill(pids["aggregator"], signal.SIGKILL)
    daemon.await_gone(pids.values())
    daemon.await_ready()
    daemon.await_that(lambda: stuck(daemon) == {"left": "never_committed"}, "the new thresholds hold")
    await_reloads(daemon, applied=1, refused=1)
    assert daemon.total("txninsight_stuck_total") == counted
    assert daemon.total("txninsight_config_last_reload_successful") == 1

    daemon.reload()
    await_reloads(daemon, applied=2, refused=1)
    assert events(daemon, "config_applied")[-1]["changed"] == []
    assert events(daemon, "config_needs_restart")[-1]["keys"] == ["topics", "limits.prefetch_bytes"]
    assert daemon.stop() == 0


def test_thresholds_that_were_changed_while_it_was_down_apply_after_the_start(
    broker: Broker, topic: MakeTopic, start: Start
) -> None:
    name = topic(2)
    write(broker, name)
    daemon = start(name).await_ready()
    daemon.await_that(lambda: stuck(daemon) == {"left": "never_committed"}, "one is stuck")
    counted = daemon.total("txninsight_stuck_total", cause="never_committed")
    assert daemon.stop() == 0
    text = daemon.config_file.read_text()
    daemon.config_file.write_text(text + "stuck: {idle_after_s: 0.5}\n")
    daemon.start().await_ready()
    daemon.await_that(lambda: stuck(daemon).keys() == {"left", *OPEN}, "all are stuck")
    assert daemon.total("txninsight_stuck_total", cause="never_committed") == counted
    assert daemon.total("txninsight_stuck_total", cause="idle") == 5
    assert daemon.stop() == 0


def test_a_hail_of_hangups_and_kills_loses_nothing(broker: Broker, topic: MakeTopic, start: Start) -> None:
    name = topic(2)
    write(broker, name)
    daemon = start(name)
    for i in range(12):
        daemon.await_that(lambda: daemon.status("/healthz") == 200, "it answers")
        daemon.reload(stuck={"idle_after_s": 0.5 if i % 2 else 900})
        if i % 3 == 0:
            os.kill(daemon.pids()["aggregator"], signal.SIGKILL)
        elif i % 3 == 1:
            os.kill(daemon.pids()["monitor-0"], signal.SIGKILL)
    daemon.await_ready()
    daemon.await_that(lambda: stuck(daemon).keys() == {"left", *OPEN}, "the last word holds")
    assert daemon.total("txninsight_records_total", view="monitor", topic=name) == 7
    assert daemon.total("txninsight_transactions_opened_total") == 6
    assert daemon.total(RELOADS, result="refused") == 0
    assert daemon.stop() == 0


# --- Forget -----------------------------------------------------------------------------------------------------------


def test_forget_ends_what_was_never_committed_for_good(broker: Broker, topic: MakeTopic, start: Start) -> None:
    name = topic(2)
    write(broker, name)
    checkpoints = {"checkpoint_every_s": 3600, "retry_grace_s": 0.5}
    daemon = start(name, state=checkpoints).await_ready()
    daemon.await_that(lambda: stuck(daemon) == {"left": "never_committed"}, "one is stuck")
    unknown = daemon.command("forget", "unknown")
    assert (unknown.returncode, unknown.stderr) == (1, "no live transaction 'unknown' is known: check the id\n")

    done = daemon.command("forget", "left")
    pids = daemon.pids()
    os.kill(pids["aggregator"], signal.SIGKILL)  # what was confirmed outlives this
    assert (done.returncode, done.stdout) == (0, "forgotten: left\n")
    daemon.await_gone(pids.values())
    daemon.await_ready()
    assert stuck(daemon) == {}
    assert daemon.transactions(state="open").keys() == OPEN
    assert daemon.total(FINISHED, outcome="forgotten") == 1
    assert daemon.total(STUCK, cause="never_committed") == 0
    again = daemon.command("forget", "left")
    assert (again.returncode, "already ended" in again.stderr) == (1, True)

    assert daemon.stop() == 0
    down = daemon.command("forget", "open-0")
    socket = daemon.directory / "state" / "control.sock"
    assert (down.returncode, down.stderr) == (
        1,
        f"no txninsightd listens at {socket}: check that it runs, and with this --config\n",
    )
