"""A daemon that ends, however it ends, and another that goes on from what it left: as if nothing had happened.

Judged from outside: what the API and the metrics said before the end, against what they say after the next start.
"""

import contextlib
import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.harness.daemon import Daemon
from tests.harness.fixtures import MakeTopic, Start
from tests.harness.kafka import publish
from tests.harness.tmpfs import Tmpfs, tmpfs
from tests.harness.transactions import await_counted, write_transactions
from txninsightd.supervise.exit_codes import EXIT_STATE
from txninsightd.tools.stack.broker import Broker

STUCK_SOON = {"idle_after_s": 1, "overdue_after_s": 3600, "commit_pending_after_s": 1}
QUICK = {"retry_grace_s": 0.5, "checkpoint_every_s": 0.2}

SECTIONS = {"state": QUICK}


def stop(daemon: Daemon) -> None:
    """An orderly stop."""
    assert daemon.stop() == 0


def await_checkpoint(daemon: Daemon) -> None:
    """Wait until all that was applied by now is in a checkpoint."""
    now = time.time()
    daemon.await_that(
        lambda: time.time() - daemon.total("txninsight_checkpoint_age_seconds") > now, "a checkpoint is written"
    )


def event(kind: str, txn_id: str, **more: Any) -> tuple[str, str]:
    """A record of an event."""
    return txn_id, json.dumps({"event": kind, "txn_id": txn_id, "ts": time.time(), **more})


def timeless(told: Any) -> Any:
    """What the API says, without ages."""
    if isinstance(told, dict):
        return {key: timeless(value) for key, value in told.items() if not key.startswith(("age", "why", "idle"))}
    return [timeless(each) for each in told] if isinstance(told, list) else told


COUNTERS = (
    "txninsight_transactions_opened_total",
    "txninsight_transactions_finished_total",
    "txninsight_stuck_total",
    "txninsight_anomalies_total",
    "txninsight_records_total",
    "txninsight_transaction_duration_seconds_count",
    "txninsight_transaction_duration_seconds_sum",
    "txninsight_commit_delay_seconds_sum",
    "txninsight_step_duration_seconds_count",
    "txninsight_transactions",
    "txninsight_stuck_transactions",
    "txninsight_undecided_records",
)


def told(daemon: Daemon) -> tuple[Any, Any]:
    """All transactions, and all counters and gauges of what is in the state."""
    details = {name: timeless(daemon.transaction(name)) for name in daemon.transactions()}
    return details, {key: value for key, value in daemon.metrics().items() if key[0] in COUNTERS}


@pytest.mark.parametrize("end", [Daemon.kill, stop], ids=["killed", "stopped"])
def test_what_was_is_as_it_was(broker: Broker, topic: MakeTopic, start: Start, end: Callable[[Daemon], None]) -> None:
    name = topic(3)
    daemon = start(name, stuck=STUCK_SOON).await_ready()
    written = write_transactions(broker.bootstrap, name, "whole", 8)
    publish(broker.bootstrap, name, [event("transaction_open", "idle"), event("transaction_open", "pending")])
    hanging = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": f"{name}-hangs"})
    hanging.init_transactions()
    hanging.begin_transaction()
    hanging.produce(name, event("transaction_close", "pending")[1], "pending")
    hanging.flush()
    daemon.await_that(lambda: daemon.total("txninsight_stuck_total") == 2, "two are stuck")
    daemon.await_that(
        lambda: daemon.total("txninsight_transactions_finished_total") == written.closed + written.aborted, "all settle"
    )
    await_checkpoint(daemon)
    before = told(daemon)
    assert {t: d["cause"] for t, d in before[0].items() if d["cause"]} == {"idle": "idle", "pending": "commit_pending"}
    end(daemon)
    daemon.start().await_ready()
    assert told(daemon) == before
    assert daemon.total("txninsight_warming_up") == 0
    assert [line["live"] for line in daemon.log(event="resumed")] == [2]
    hanging.commit_transaction()
    publish(broker.bootstrap, name, [event("transaction_close", "idle")])
    daemon.await_that(lambda: daemon.transaction("pending")["outcome"] == "closed", "it is settled")
    assert daemon.total("txninsight_stuck_total", cause="idle") == 1
    causes = [cause for txn_id in ("idle", "pending") for cause in daemon.transaction(txn_id)["causes_passed"]]
    assert daemon.total("txninsight_stuck_total") == len(causes)
    stop(daemon)


def test_what_was_written_while_no_daemon_read_is_counted_once(broker: Broker, topic: MakeTopic, start: Start) -> None:
    """Begun at the latest records, and killed: not what is latest at the next start, but what was not read counts."""
    name = topic(2)
    write_transactions(broker.bootstrap, name, "before", 4)
    daemon = start(name, start="latest").await_ready()
    daemon.kill()
    written = write_transactions(broker.bootstrap, name, "while-down", 4)
    daemon.start().await_ready()
    await_counted(daemon, name, written)
    written = written.plus(write_transactions(broker.bootstrap, name, "after", 4))
    await_counted(daemon, name, written)
    stop(daemon)


def test_lag_tools_are_told_only_what_is_durable(broker: Broker, topic: MakeTopic, start: Start) -> None:
    name = topic(2)
    daemon = start(name).await_ready()
    written = write_transactions(broker.bootstrap, name, "whole", 4)
    await_counted(daemon, name, written)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    ends = {p["partition"]: p["monitor_offset"] for p in daemon.get("/api/v1/partitions")}

    def committed(view: str) -> dict[int, int]:
        asked = ConsumerGroupTopicPartitions(f"txninsightd-{view}", [TopicPartition(name, p) for p in ends])
        [answer] = admin.list_consumer_group_offsets([asked]).values()
        return {tp.partition: tp.offset for tp in answer.result().topic_partitions}

    for view in ("monitor", "validator"):
        daemon.await_that(lambda view=view: committed(view) == ends, f"{view}: all is durable")  # type: ignore[misc]
    stop(daemon)


def test_a_second_daemon_on_one_directory_refuses(topic: MakeTopic, start: Start) -> None:
    name = topic(1)
    first = start(name).await_ready()
    second = start(name, state={"directory": str(first.directory / "state")})
    assert second.process is not None
    assert second.process.wait(60) == EXIT_STATE
    [line] = second.log(event="state_unusable")
    assert first.process is not None
    assert f"pid {first.process.pid}" in line["error"]
    stop(first)


def test_a_directory_that_is_removed_while_it_runs_costs_nothing(
    broker: Broker, topic: MakeTopic, start: Start
) -> None:
    name = topic(2)
    daemon = start(name).await_ready()
    written = write_transactions(broker.bootstrap, name, "before", 4)
    await_counted(daemon, name, written)
    shutil.rmtree(daemon.directory / "state")
    await_checkpoint(daemon)
    daemon.kill()
    written = written.plus(write_transactions(broker.bootstrap, name, "while-down", 4))
    daemon.start().await_ready()
    await_counted(daemon, name, written)
    assert len(daemon.log(event="state_directory_locked_again")) == 1
    stop(daemon)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(broker: Broker, topic: MakeTopic, start: Start) -> None:
    name = topic(2)
    daemon = start(name).await_ready()
    written = write_transactions(broker.bootstrap, name, "whole", 4)
    await_counted(daemon, name, written)
    daemon.kill()
    newest = max(files(daemon))
    newest.write_bytes(newest.read_bytes()[:-7])
    written = written.plus(write_transactions(broker.bootstrap, name, "more", 4))
    daemon.start().await_ready()
    await_counted(daemon, name, written)
    assert daemon.total("txninsight_checkpoint_fallbacks_total") == 1
    [line] = daemon.log(event="checkpoint_passed_over")
    assert newest.name in line["checkpoint"]
    stop(daemon)


def files(daemon: Daemon) -> list[Path]:
    """The checkpoints of a daemon."""
    return [path for path in (daemon.directory / "state").glob("checkpoint-*") if path.suffix != ".tmp"]


def test_a_read_only_directory_is_refused_in_words(topic: MakeTopic, start: Start, tmp_path: Path) -> None:
    with tmpfs(tmp_path, "1m") as disk:
        disk.make_read_only()
        daemon = start(topic(1), state={"directory": str(disk.directory)})
        assert daemon.process is not None
        assert daemon.process.wait(60) == EXIT_STATE
        [line] = daemon.log(event="state_unusable")
        assert "mount its file system writable" in line["error"]


def test_a_full_disk_is_told_and_costs_nothing_but_the_way_back(
    broker: Broker, topic: MakeTopic, start: Start, tmp_path: Path
) -> None:
    name = topic(1)
    with tmpfs(tmp_path, "1m") as disk:
        daemon = start(name, state={"directory": str(disk.directory)}).await_ready()
        written = write_transactions(broker.bootstrap, name, "before", 2)
        await_counted(daemon, name, written)
        await_checkpoint(daemon)
        fill(disk)
        daemon.await_that(lambda: daemon.total("txninsight_checkpoint_failures_total") > 1, "checkpoints fail")
        assert daemon.missing() == ["no checkpoint can be written: No space left on device"]
        assert len(daemon.log(event="checkpoint_failed")) == 1
        more = write_transactions(broker.bootstrap, name, "meanwhile", 2)
        total = written.closed + written.aborted + more.closed + more.aborted
        daemon.await_that(
            lambda: daemon.total("txninsight_transactions_finished_total") == total, "it goes on without checkpoints"
        )
        daemon.kill()
        (disk.directory / "filler").unlink()
        daemon.start().await_ready()
        await_counted(daemon, name, written.plus(more))
        stop(daemon)


def fill(disk: Tmpfs) -> None:
    """Leave no room at all."""
    with (disk.directory / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(b"." * 4096):
            pass


def test_records_that_retention_took_meanwhile_are_unknown(broker: Broker, topic: MakeTopic, start: Start) -> None:
    """Never aborted, never silently skipped: they are a gap in both views."""
    name = topic(1)
    daemon = start(name).await_ready()
    written = write_transactions(broker.bootstrap, name, "whole", 3)
    publish(broker.bootstrap, name, [event("transaction_open", "open")])
    daemon.await_that(lambda: "open" in daemon.transactions(state="open"), "it is open")
    await_checkpoint(daemon)
    [position] = [p["monitor_offset"] for p in daemon.get("/api/v1/partitions")]
    daemon.kill()
    publish(broker.bootstrap, name, [event("step_open", "open", step="pay") for _ in range(50)])
    gone = TopicPartition(name, 0, position + 50)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for future in admin.delete_records([gone]).values():
        future.result()
    publish(broker.bootstrap, name, [event("transaction_close", "open"), event("transaction_open", "other")])
    daemon.start().await_ready()
    daemon.await_that(lambda: "other" in daemon.transactions(state="open"), "it goes on behind the gap")
    for view in ("monitor", "validator"):
        assert daemon.total("txninsight_records_total", view=view, topic=name, result="gap") == 50
    daemon.await_that(lambda: daemon.transaction("open")["outcome"] == "closed", "the close is judged")
    assert daemon.total("txninsight_transactions_finished_total", outcome="aborted") == written.aborted
    assert daemon.total("txninsight_consumer_lag_records") == 0
    stop(daemon)


def test_the_state_survives_a_stopped_reader_and_a_stop_in_between(
    broker: Broker, topic: MakeTopic, start: Start
) -> None:
    """An orderly stop writes the last checkpoint: nothing is read again after it."""
    name = topic(2)
    daemon = start(name, state={"checkpoint_every_s": 3600}).await_ready()
    written = write_transactions(broker.bootstrap, name, "whole", 4)
    await_counted(daemon, name, written)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(60) == 0
    daemon.start().await_ready()
    await_counted(daemon, name, written)
    resumed = daemon.log(event="resumed")
    assert len(resumed) == 1
    daemon.kill()
    daemon.start().await_ready()
    await_counted(daemon, name, written)
    stop(daemon)
