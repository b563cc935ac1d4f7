"""Floods and monsters through a real broker: the daemon keeps within its limits, says what it gave up, and lives."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.harness.daemon import Daemon
from tests.harness.fixtures import MakeTopic
from tests.harness.kafka import publish
from txninsightd.tools.stack.broker import Broker

Start = Callable[..., Daemon]

TRANSACTIONS = 300_000
OPEN_TRANSACTIONS = 50_000
PREFETCH_BYTES = 16 << 20
MEGABYTE = 1 << 20
MOST_RSS_BYTES = {"aggregator": 350 * MEGABYTE, "monitor-0": 250 * MEGABYTE, "validator-0": 250 * MEGABYTE}
"""By the formula of docs/reliability.md, with the limits of this test."""


@pytest.fixture
def start(broker: Broker, tmp_path: Path) -> Iterator[Start]:
    """Starts a daemon that is ended after the test."""
    started: list[Daemon] = []

    def make(topic: str, **sections: Any) -> Daemon:
        started.append(Daemon(tmp_path, broker.bootstrap, {"topics": [topic], **sections}))
        return started[-1].start()

    yield make
    for daemon in started:
        daemon.end()


def event(kind: str, txn_id: str, **more: Any) -> str:
    return json.dumps({"event": kind, "txn_id": txn_id, "ts": time.time(), **more})


def peak_rss_bytes(pid: int) -> int:
    """The most memory that a process ever had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def test_more_open_transactions_than_there_is_room_for(broker: Broker, topic: MakeTopic, start: Start) -> None:
    name = topic(3)
    publish(broker.bootstrap, name, ((f"t{i}", event("transaction_open", f"t{i}")) for i in range(TRANSACTIONS)))
    limits = {
        "open_transactions": OPEN_TRANSACTIONS,
        "lingering": 10_000,
        "remembered_ids": 200_000,
        "prefetch_bytes": PREFETCH_BYTES,
    }
    daemon = start(name, limits=limits).await_ready()
    evicted = TRANSACTIONS - OPEN_TRANSACTIONS
    finished = "txninsight_transactions_finished_total"
    daemon.await_that(lambda: daemon.total(finished, outcome="evicted") == evicted, "all too many are evicted")
    assert daemon.total(finished) == evicted
    assert daemon.total("txninsight_transactions", state="open") == OPEN_TRANSACTIONS
    assert daemon.total("txninsight_transactions_opened_total") == TRANSACTIONS
    assert daemon.total("txninsight_limit_hits_total", limit="open_transactions") == evicted
    assert daemon.total("txninsight_limit_hits_total", limit="lingering") == evicted - 10_000
    peaks = {child: peak_rss_bytes(pid) for child, pid in daemon.pids().items()}
    print({child: round(peak / MEGABYTE) for child, peak in peaks.items()}, "MB")
    assert peaks.keys() >= MOST_RSS_BYTES.keys()
    assert {child for child, most in MOST_RSS_BYTES.items() if peaks[child] > most} == set()


def test_monsters_are_counted_and_passed_over(broker: Broker, topic: MakeTopic, start: Start) -> None:
    name = topic(config={"max.message.bytes": str(64 * MEGABYTE)})
    daemon = start(name).await_ready()
    producer = Producer({"bootstrap.servers": broker.bootstrap, "message.max.bytes": 64 * MEGABYTE})
    monsters = {
        "of 50 MB": event("step_open", "t", note="x" * 50_000_000),
        "100,000 deep": "[" * 100_000 + "]" * 100_000,
        "100,000 deep where the decoder does not look": event("transaction_open", "t")[:-1]
        + ', "n": '
        + "[" * 10**5
        + "]" * 10**5
        + "}",
        "a txn_id of 1 MB": event("transaction_open", "x" * 1_000_000),
        "a txn_type of 1 MB": event("transaction_open", "t", txn_type="x" * 1_000_000),
    }
    producer.produce(name, event("transaction_open", "good"))
    for value in monsters.values():
        producer.produce(name, value)
    producer.produce(name, event("transaction_close", "good"))
    assert producer.flush(60) == 0
    daemon.await_that(lambda: daemon.total("txninsight_transactions_finished_total") == 1, "the good one is settled")
    results = {
        result: daemon.total("txninsight_records_total", view="monitor", topic=name, result=result)
        for result in ("ok", "oversized", "malformed", "foreign", "gap")
    }
    assert results == {"ok": 2, "oversized": 1, "malformed": 4, "foreign": 0, "gap": 0}
    assert daemon.total("txninsight_limit_hits_total", limit="value_bytes") == 1
    assert daemon.total("txninsight_child_restarts_total") == 0
    assert daemon.status("/readyz") == 200
