"""Fills a variant's topics through transactional producers, once: the next run of the benchmark finds them filled.

Each producer works on a thread of its own, so their Kafka transactions overlap as those of separate programs do. None
of them runs ahead of the others by more than two batches, so that timestamps rise along every partition but for a
second or two. What was filled to the end is noted in a file beside the broker's data; what was not is filled again.
"""

import json
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from zlib import crc32

from confluent_kafka import KafkaException, Producer

from tests.bench.workload import EVENT_EVERY_S, PRODUCERS, Event, Variant, events
from txninsightd.tools.stack.broker import Broker, create_topics

MOST_BATCHES_AHEAD = 2
TRANSACTION_WITHIN_S = 60.0
INIT_ATTEMPTS = 50

Advance = Callable[[int], object]


class Preloaded:
    """The filled topics of one broker, by variant."""

    def __init__(self, broker: Broker) -> None:
        self._bootstrap = broker.bootstrap
        self._notes = broker.data_dir / "preloaded.json"

    def topics(self, variant: Variant, advance: Advance) -> list[str]:
        """The names of the variant's filled topics; `advance` is told how many events were written."""
        known: dict[str, list[str]] = json.loads(self._notes.read_text()) if self._notes.exists() else {}
        key = f"{variant.name}-{crc32(repr(variant).encode()):08x}"
        if key not in known:
            topics = [f"{key}-{time.time_ns():x}-{i}" for i in range(variant.topics)]
            create_topics(self._bootstrap, dict.fromkeys(topics, variant.partitions), {"retention.ms": "-1"})
            _fill(self._bootstrap, variant, topics, advance)
            known[key] = topics
            _replace(self._notes, json.dumps(known))
        return known[key]


def _fill(bootstrap: str, variant: Variant, topics: list[str], advance: Advance) -> None:
    writers = [Writer(bootstrap, f"{topics[0]}-{i}", variant, topics) for i in range(PRODUCERS)]
    first_at = time.time() - variant.events * EVENT_EVERY_S
    for event in events(variant, first_at):
        advance(writers[event.number % PRODUCERS].take(event))
    for writer in writers:
        advance(writer.finish())


class Writer:
    """One transactional producer. Works behind the caller's back, at most `MOST_BATCHES_AHEAD` batches."""

    def __init__(self, bootstrap: str, transactional_id: str, variant: Variant, topics: list[str]) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "transactional.id": transactional_id,
                "linger.ms": 0 if variant.records_a_commit == 1 else 5,
            }
        )
        self._variant = variant
        self._topics = topics
        self._thread = ThreadPoolExecutor(1)
        self._under_way: deque[Future[None]] = deque([self._thread.submit(_init, self._producer)])
        self._batch: list[Event] = []
        self._written = 0

    def take(self, event: Event) -> int:
        """Write this event some time soon; gives how many were handed on to be written now."""
        self._batch.append(event)
        return self._send() if len(self._batch) >= self._variant.records_a_commit else 0

    def finish(self) -> int:
        """Write what is left, and wait for it."""
        sent = self._send() if self._batch else 0
        while self._under_way:
            self._under_way.popleft().result()
        self._thread.shutdown()
        return sent

    def _send(self) -> int:
        batch, self._batch = self._batch, []
        while len(self._under_way) >= MOST_BATCHES_AHEAD:
            self._under_way.popleft().result()
        self._under_way.append(self._thread.submit(self._write, batch))
        return len(batch)

    def _write(self, batch: list[Event]) -> None:
        self._written += 1
        every = self._variant.aborted_every
        if every and self._written % every == 0:
            self._produce(batch)
            self._producer.flush()
            self._producer.abort_transaction(TRANSACTION_WITHIN_S)
        self._produce(batch)
        self._producer.commit_transaction(TRANSACTION_WITHIN_S)

    def _produce(self, batch: list[Event]) -> None:
        self._producer.begin_transaction()
        for event in batch:
            self._producer.produce(self._topics[event.topic], event.value, event.key, timestamp=int(event.at * 1000))


def _init(producer: Producer) -> None:
    for attempt in range(INIT_ATTEMPTS):
        try:
            return producer.init_transactions(TRANSACTION_WITHIN_S)
        except KafkaException as failure:
            if not failure.args[0].retriable() or attempt == INIT_ATTEMPTS - 1:
                raise
    return None


def _replace(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)
