"""What is written while latencies are measured, in a process of its own, which takes no time of the measuring one.

    python -m tests.bench.latency_load aborted|replayed|live|flood BOOTSTRAP TOPIC COUNT RATE

All records are made beforehand. Then it prints "ready", and writes them when it gets a line; "written" and the seconds
that took are the next line. `aborted` needs a line more, at which it aborts.
"""

import sys
import time
from collections.abc import Callable, Iterable, Sequence

from confluent_kafka import Producer

from tests.bench.preload import Writer
from tests.bench.workload import EVENT_EVERY_S, PRODUCERS, Event, Variant, events
from tests.harness.kafka import new_transactional_producer, retried

SLICE_S = 0.005
TRANSACTION_TIMEOUT_MS = 900_000
"""What a broker allows at most by default."""

RECORDS_A_COMMIT = 500
RECORDS_A_LARGE_COMMIT = 2500

Record = tuple[str, str]
"""Key and value."""


def aborted(bootstrap: str, topic: str, count: int, _: float) -> None:
    """One Kafka transaction of `count` opens, aborted in the end."""
    producer = new_transactional_producer(bootstrap, topic, **{"transaction.timeout.ms": TRANSACTION_TIMEOUT_MS})
    records = [_event("transaction_open", number, 0) for number in range(count)]
    producer.begin_transaction()
    _timed(lambda: _produce(producer, topic, records))
    _await_line()
    retried(producer.abort_transaction)


def replayed(bootstrap: str, topic: str, count: int, rate: float) -> None:
    """Events of the benchmark with their own past times, at `rate`: eight transactional producers."""
    _paced(bootstrap, topic, count, rate, RECORDS_A_COMMIT)


def live(bootstrap: str, topic: str, count: int, rate: float) -> None:
    """The same in larger Kafka transactions."""
    _paced(bootstrap, topic, count, rate, RECORDS_A_LARGE_COMMIT)


def _paced(bootstrap: str, topic: str, count: int, rate: float, records_a_commit: int) -> None:
    variant = Variant("replayed", "", count, records_a_commit=records_a_commit)
    made = list(events(variant, time.time() - count * EVENT_EVERY_S))
    writers = [Writer(bootstrap, f"{topic}-{i}", variant, [topic]) for i in range(PRODUCERS)]
    _timed(lambda: _pace(made, writers, rate))


def flood(bootstrap: str, topic: str, count: int, _: float) -> None:
    """Whole transactions of four events, as fast as one producer can."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "enable.idempotence": True})
    salt = time.time_ns()
    kinds = ("transaction_open", "step_open", "step_done", "transaction_close")
    records = [_event(kinds[i % 4], i // 4, salt) for i in range(count)]
    _timed(lambda: _produce(producer, topic, records))


KINDS: dict[str, Callable[[str, str, int, float], None]] = {
    kind.__name__: kind for kind in (aborted, replayed, live, flood)
}


def _event(kind: str, number: int, salt: int) -> Record:
    txn_id = f"{salt:x}-{number:010d}"
    step = ',"step":"pay"' if kind.startswith("step") else ""
    return txn_id, f'{{"event":"{kind}","txn_id":"{txn_id}","txn_type":"order"{step},"host":"web-01","amount":12.50}}'


def _produce(producer: Producer, topic: str, records: Iterable[Record]) -> None:
    for key, value in records:
        while True:
            try:
                producer.produce(topic, value, key)
                break
            except BufferError:
                producer.poll(SLICE_S)
    producer.flush()


def _pace(made: Sequence[Event], writers: Sequence[Writer], rate: float) -> None:
    began_at, done = time.monotonic(), 0
    while done < len(made):
        due = min(len(made), int((time.monotonic() - began_at) * rate))
        for event in made[done:due]:
            writers[event.number % len(writers)].take(event)
        done = due
        time.sleep(SLICE_S)
    for writer in writers:
        writer.finish()


def _timed(write: Callable[[], None]) -> None:
    print("ready", flush=True)
    _await_line()
    began_at = time.monotonic()
    write()
    print(f"written {time.monotonic() - began_at}", flush=True)


def _await_line() -> None:
    if not sys.stdin.readline():
        sys.exit("not told to go on")


if __name__ == "__main__":
    kind, bootstrap, topic, count, rate = sys.argv[1:]
    KINDS[kind](bootstrap, topic, int(count), float(rate))
