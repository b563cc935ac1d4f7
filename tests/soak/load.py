"""A steady load, in a process of its own: business transactions through transactional producers, a tenth written twice.

Each producer writes its share of the rate, in Kafka transactions that last 0.2 s and overlap with those of the others.
Every tenth is aborted and written again at once (its events are tried twice). It also carries some transactions that
are not tried again, so that they end as aborted. The others close. They have 6 or 8 events (workload.py) over all
topics, and many are open at a time. The rate counts every record, aborted ones too. Told to stop, the load ends all
that it has begun.

    python -m tests.soak.load BOOTSTRAP NAME RATE OPEN TOPIC...

prints once a second how much was written so far, as JSON; the end of its standard input tells it to stop. Then the last
line is the truth. NAME begins the ids of transactions.
"""

import json
import select
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from random import Random

from confluent_kafka import Producer

from tests.bench.workload import PLANS, TYPES, Variant
from tests.harness.kafka import new_transactional_producer, retried

PRODUCERS = 4
KAFKA_TRANSACTION_S = 0.2
SLICE_S = 0.01
ABORTED_EVERY = 10
CRASHES_A_TIME = 2
CRASH_PLAN = (("transaction_open", None), ("step_open", "payment"), ("transaction_close", None))
REPORT_EVERY_S = 1.0
TOPICS = 3
SPREAD = Variant("soak", "", 0, topics=TOPICS, partitions=2)

Record = tuple[str, str, str]
"""Topic, key, value."""


@dataclass
class Written:
    """Records, as often as written; transactions opened, closed, and aborted for good; steps of closed ones."""

    records: int = 0
    opened: int = 0
    closed: int = 0
    aborted: int = 0
    closed_steps: int = 0

    def __add__(self, more: "Written") -> "Written":
        return Written(*(getattr(self, f.name) + getattr(more, f.name) for f in fields(self)))


def value(kind: str, txn_id: str, txn_type: str, step: str | None) -> str:
    """An event that happens now, of some 130 bytes."""
    ours = f'"event":"{kind}","txn_id":"{txn_id}","ts":{time.time():.6f},"txn_type":"{txn_type}"'
    if step is not None:
        ours += f',"step":"{step}"'
    elif kind == "transaction_close":
        ours += ',"status":"ok"'
    return f'{{{ours},"host":"web-01","amount":12.50}}'


class Writer(threading.Thread):
    """One producer with its share of the load: `rate` in records a second, `open_at_once` business transactions."""

    def __init__(self, bootstrap: str, name: str, topics: list[str], rate: float, open_at_once: int) -> None:
        super().__init__(name=name, daemon=True)
        self.stopping = threading.Event()
        self.failure: BaseException | None = None
        self.written = Written()
        self._producer: Producer = new_transactional_producer(bootstrap, name)
        self._topics = topics
        self._rate = rate
        self._open_at_once = open_at_once
        self._draw = Random(name)
        self._kafka_transactions = 0
        self._began_at = 0.0
        self._is_over = False

    def run(self) -> None:
        """The thread's work, until everything is ended after `stopping`."""
        try:
            self._began_at = time.monotonic()
            events = self._events()
            while not self._is_over:
                self._kafka_transaction(events)
        except BaseException as failure:
            self.failure = failure

    def _kafka_transaction(self, events: Iterator[Record]) -> None:
        self._kafka_transactions += 1
        self._producer.begin_transaction()
        batch = list(self._paced(events))
        if self._kafka_transactions % ABORTED_EVERY == 0:
            self._write(self._crashing())
            self._producer.flush()
            retried(self._producer.abort_transaction)
            self._producer.begin_transaction()
            self._write(batch)
        retried(self._producer.commit_transaction)

    def _paced(self, events: Iterator[Record]) -> Iterator[Record]:
        """Writes what is due until the Kafka transaction has lasted long enough, or nothing is left."""
        until = time.monotonic() + KAFKA_TRANSACTION_S
        while (now := time.monotonic()) < until:
            due = int((now - self._began_at) * self._rate) - self.written.records
            for _ in range(due):
                record = next(events, None)
                if record is None:
                    self._is_over = True
                    return
                self._write([record])
                yield record
            time.sleep(SLICE_S)

    def _write(self, records: Iterable[Record]) -> None:
        for topic, key, text in records:
            while True:
                try:
                    self._producer.produce(topic, text, key)
                    break
                except BufferError:
                    self._producer.poll(SLICE_S)
            self.written.records += 1
        self._producer.poll(0)

    def _events(self) -> Iterator[Record]:
        """Of business transactions in progress, drawn at random, each told in order; without end until `stopping`."""
        running: list[tuple[int, Iterator[tuple[str, str | None]]]] = []
        while True:
            while len(running) < self._open_at_once and not self.stopping.is_set():
                running.append((self.written.opened, iter(self._begun())))
            if not running:
                return
            slot = self._draw.randrange(len(running))
            number, plan = running[slot]
            following = next(plan, None)
            if following is None:
                running[slot] = running[-1]
                running.pop()
                self.written.closed += 1
                self.written.closed_steps += _steps(PLANS[number % len(PLANS)])
            else:
                yield self._record(number, *following)

    def _begun(self) -> tuple[tuple[str, str | None], ...]:
        plan = PLANS[self.written.opened % len(PLANS)]
        self.written.opened += 1
        return plan

    def _crashing(self) -> list[Record]:
        """Some whole transactions that are aborted with this Kafka transaction, and never tried again."""
        numbers = range(self.written.opened, self.written.opened + CRASHES_A_TIME)
        self.written.opened += CRASHES_A_TIME
        self.written.aborted += CRASHES_A_TIME
        return [self._record(number, *event) for number in numbers for event in CRASH_PLAN]

    def _record(self, number: int, kind: str, step: str | None) -> Record:
        txn_id = f"{self.name}-{number}"
        return self._topics[SPREAD.topic(step)], txn_id, value(kind, txn_id, TYPES[number % len(TYPES)], step)


def _steps(plan: tuple[tuple[str, str | None], ...]) -> int:
    return sum(kind == "step_done" for kind, _ in plan)


def main(bootstrap: str, name: str, rate: str, open_at_once: str, *topics: str) -> int:
    """Entry point; gives the exit code."""
    shares = float(rate) / PRODUCERS, int(open_at_once) // PRODUCERS
    writers = [Writer(bootstrap, f"{name}-{i}", list(topics), *shares) for i in range(PRODUCERS)]
    for writer in writers:
        writer.start()
    while not select.select([sys.stdin], [], [], REPORT_EVERY_S)[0] and not _failed(writers):
        _report(writers)
    for writer in writers:
        writer.stopping.set()
    for writer in writers:
        writer.join()
    _report(writers)
    for failure in _failed(writers):
        print(f"a producer could not go on: {failure!r}", file=sys.stderr)
    return 1 if _failed(writers) else 0


def _failed(writers: list[Writer]) -> list[BaseException]:
    return [writer.failure for writer in writers if writer.failure is not None]


def _report(writers: list[Writer]) -> None:
    print(json.dumps(asdict(sum((writer.written for writer in writers), start=Written()))), flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
