"""What to compare with, measured on the same topic in the same hour: programs that do much less.

`raw` only consumes. `loop` is what one would write in an afternoon: one view, no verdicts, no memory of steps; it
decodes each event, keeps the open ones in a dict, and sums durations by type. Both read with the daemon's own settings
for its monitor. Each runs as a process of its own, and its start is left out of its figure:

    python -m tests.bench.yardsticks raw|loop BOOTSTRAP EVENTS TOPIC...      prints CPU us per event
"""

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from txninsightd.cluster.client_settings import client_settings
from txninsightd.ingest.consumer_settings import consumer_settings
from txninsightd.vocabulary import View

BATCH_RECORDS = 10_000


class Record(msgspec.Struct, gc=False):
    """The fields that the loop looks at."""

    event: str
    txn_id: str
    ts: float
    txn_type: str


class Loop:
    """Open transactions, and durations by type."""

    def __init__(self) -> None:
        self.opened: dict[str, float] = {}
        self.durations: defaultdict[str, float] = defaultdict(float)
        self.closed: Counter[str] = Counter()
        self._decode = msgspec.json.Decoder(Record).decode

    def __call__(self, records: Iterable[Any]) -> None:
        """Take in a batch."""
        opened = self.opened
        for record in records:
            event = self._decode(record.value())
            if event.event == "transaction_open":
                opened[event.txn_id] = event.ts
            elif event.event == "transaction_close":
                opened_at = opened.pop(event.txn_id, None)
                if opened_at is not None:
                    self.closed[event.txn_type] += 1
                    self.durations[event.txn_type] += event.ts - opened_at


def nothing(records: Iterable[Any]) -> None:
    """Raw consumption."""


YARDSTICKS: dict[str, Callable[[], Callable[[Iterable[Any]], None]]] = {"raw": lambda: nothing, "loop": Loop}


def cpu_us_per_event(name: str, bootstrap: str, expected: int, topics: list[str]) -> float:
    """Read `expected` records of the topics from their beginning."""
    consumer = Consumer(consumer_settings(client_settings({"bootstrap.servers": bootstrap}), View.MONITOR))
    known = consumer.list_topics(timeout=30).topics
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for topic in topics for p in known[topic].partitions])
    take, seen = YARDSTICKS[name](), 0
    started = time.process_time()
    while seen < expected:
        records = [r for r in consumer.consume(BATCH_RECORDS, 0.05) if r.error() is None]
        take(records)
        seen += len(records)
    used_s = time.process_time() - started
    consumer.close()
    return used_s / seen * 1e6


if __name__ == "__main__":
    print(cpu_us_per_event(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
