"""Whole business transactions in known numbers, and whether a daemon has counted each of them once."""

import itertools
import json
import time
from typing import NamedTuple

from tests.harness.daemon import Daemon
from tests.harness.kafka import new_transactional_producer, retried
from tests.harness.waiting import HANG_GUARD_S


class Written(NamedTuple):
    """How much was written: records, those that were committed, transactions that were closed, and aborted."""

    records: int = 0
    committed: int = 0
    closed: int = 0
    aborted: int = 0

    def plus(self, more: "Written") -> "Written":
        """Both together."""
        return Written(*(mine + theirs for mine, theirs in zip(self, more, strict=True)))


def write_transactions(bootstrap: str, topic: str, name: str, kafka_transactions: int) -> Written:
    """Whole business transactions (open, step, close), twenty in a Kafka transaction; every fourth of those aborts."""
    producer = new_transactional_producer(bootstrap, name, **{"linger.ms": 5})
    kinds = ("transaction_open", "step_open", "step_done", "transaction_close")
    written = Written()
    for i in range(kafka_transactions):
        producer.begin_transaction()
        txn_ids = [f"{name}-{i}-{j}" for j in range(20)]
        for kind, txn_id in itertools.product(kinds, txn_ids):
            step = {"step": "pay"} if kind.startswith("step") else {}
            producer.produce(topic, json.dumps({"event": kind, "txn_id": txn_id, "ts": time.time(), **step}), txn_id)
        assert producer.flush(HANG_GUARD_S) == 0
        if i % 4 == 3:
            retried(producer.abort_transaction)
            written = written.plus(Written(records=80, aborted=20))
        else:
            retried(producer.commit_transaction)
            written = written.plus(Written(records=80, committed=80, closed=20))
    return written


def await_counted(daemon: Daemon, topic: str, written: Written) -> None:
    """Wait until the daemon has counted everything, and see that it is counted once."""
    finished = "txninsight_transactions_finished_total"
    daemon.await_that(
        lambda: (
            daemon.total(finished) >= written.closed + written.aborted
            and daemon.total("txninsight_records_total", view="validator", topic=topic) >= written.committed
            and not daemon.missing()
        ),
        f"{written} is counted",
    )
    assert daemon.total("txninsight_records_total", view="monitor", topic=topic, result="ok") == written.records
    assert daemon.total("txninsight_records_total", view="monitor", topic=topic) == written.records
    assert daemon.total("txninsight_records_total", view="validator", topic=topic) == written.committed
    assert daemon.total("txninsight_transactions_opened_total") == written.closed + written.aborted
    assert daemon.total(finished, outcome="closed") == written.closed
    assert daemon.total(finished, outcome="aborted") == written.aborted
    for nothing in ("transactions", "undecided_records", "anomalies_total", "stuck_total"):
        assert daemon.total(f"txninsight_{nothing}") == 0, nothing
