"""Live load: producers that run business transactions until told to stop, whatever becomes of the broker meanwhile.

Each is a thread with a transactional producer of its own, as an application would write it: what can be tried again is
tried again, what must be aborted is aborted and done anew, and a producer that can go on no more is replaced. A
transaction takes about a second; gaps are drawn, so that at any moment some are open and others wait for their commit.
When told to stop, each ends what it has begun, so that nothing is left open. What happened in the end is for the
broker's log to say (oracle.py). For counting there is `write_transactions`, for mere volume `publish`.
"""

import itertools
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from confluent_kafka import KafkaException, Producer

SHORT_GAP_S = (0.05, 0.4)
LONG_GAP_S = 1.0
HANG_GUARD_S = 120.0

WAYS = ("commit", "commit", "abort", "abort_then_commit", "steps_first", "close_aborted_then_commit")
"""What becomes of a transaction; each producer draws from them."""

Events = list[tuple[str, str | None]]
"""Kind and step of each."""

_serial = itertools.count()
_quiet = logging.getLogger("txninsightd.tests.traffic")
_quiet.propagate = False
_quiet.addHandler(logging.NullHandler())


def publish(bootstrap: str, topic: str, records: Iterable[tuple[str, str]], partition: int = -1) -> None:
    """Write records (key, value) outside any Kafka transaction, and return when the broker has them all."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "enable.idempotence": True}, logger=_quiet)
    for key, value in records:
        while True:
            try:
                producer.produce(topic, value, key, partition)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(HANG_GUARD_S) == 0


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
    settings = {"bootstrap.servers": bootstrap, "transactional.id": name, "linger.ms": 5}
    producer = Producer(settings, logger=_quiet)
    _until_done(lambda: producer.init_transactions(HANG_GUARD_S))
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
            _until_done(producer.abort_transaction)
            written = written.plus(Written(records=80, aborted=20))
        else:
            _until_done(producer.commit_transaction)
            written = written.plus(Written(records=80, committed=80, closed=20))
    return written


def _until_done(action: Callable[[], None]) -> None:
    """Again, as long as it may be tried again; raises KafkaException when it may not."""
    while True:
        try:
            action()
            return
        except KafkaException as failure:
            if not failure.args[0].retriable():
                raise


class MustAbort(Exception):
    """The Kafka transaction cannot be committed any more."""


class Traffic:
    """`producers` threads that write opens and closes to the first topic, steps to the last."""

    def __init__(self, bootstrap: str, topics: list[str], producers: int = 6) -> None:
        self._writers = [Writer(bootstrap, topics, f"traffic-{next(_serial)}", i) for i in range(producers)]

    def start(self) -> "Traffic":
        """Begin; returns when every producer is ready to write."""
        for writer in self._writers:
            writer.start()
        return self

    def stop(self) -> None:
        """End what was begun, and stop. Raises what a producer could not cope with."""
        for writer in self._writers:
            writer.stopping.set()
        for writer in self._writers:
            writer.join(HANG_GUARD_S)
            assert not writer.is_alive(), "a producer hangs"
            if writer.failure is not None:
                raise writer.failure

    @property
    def done(self) -> int:
        """How many transactions were carried through so far."""
        return sum(writer.done for writer in self._writers)


class Writer(threading.Thread):
    """One producer, one transaction after the other."""

    def __init__(self, bootstrap: str, topics: list[str], name: str, seed: int) -> None:
        super().__init__(name=f"{name}-{seed}", daemon=True)
        self.stopping = threading.Event()
        self.failure: BaseException | None = None
        self.done = 0
        self._servers = bootstrap
        self._topics = topics
        self._draw = random.Random(seed)
        self._producer = self._new_producer()

    def run(self) -> None:
        """The thread's work."""
        try:
            for i in itertools.count():
                if self.stopping.is_set():
                    return
                self._transaction(f"{self.name}-{i}", self._draw.choice(WAYS))
                self.done += 1
        except BaseException as failure:
            self.failure = failure

    def _transaction(self, txn_id: str, way: str) -> None:
        opening: Events = [("transaction_open", None), ("step_open", "pay"), ("step_done", "pay")]
        closing: Events = [("transaction_close", None)]
        if way in ("steps_first", "close_aborted_then_commit"):
            self._attempt(txn_id, opening, commit=True)
            if way == "close_aborted_then_commit":
                self._attempt(txn_id, closing, commit=False)
            self._attempt(txn_id, closing, commit=True)
            return
        if way != "commit":
            self._attempt(txn_id, opening + closing, commit=False)
        if way != "abort":
            self._attempt(txn_id, opening + closing, commit=True)

    def _attempt(self, txn_id: str, events: Events, *, commit: bool) -> None:
        """One Kafka transaction of these events; done anew until it is decided as it should be."""
        while True:
            try:
                self._retried(self._producer.begin_transaction)
                for kind, step in events:
                    self._write(txn_id, kind, step)
                    time.sleep(self._gap_s())
                if commit:
                    self._retried(self._producer.commit_transaction)
                else:
                    self._retried(self._producer.abort_transaction)
                return
            except MustAbort:
                self._give_up_attempt()
                if not commit:
                    return

    def _gap_s(self) -> float:
        return LONG_GAP_S if self._draw.random() < 0.1 else self._draw.uniform(*SHORT_GAP_S)

    def _write(self, txn_id: str, kind: str, step: str | None) -> None:
        event: dict[str, Any] = {"event": kind, "txn_id": txn_id, "ts": time.time(), "txn_type": "traffic"}
        if step is not None:
            event["step"] = step
        topic = self._topics[0 if step is None else -1]
        self._producer.produce(topic, json.dumps(event), key=txn_id)
        self._producer.poll(0)

    def _retried(self, action: Callable[..., None]) -> None:
        """Until it is done; raises MustAbort when it cannot be."""
        try:
            _until_done(action)
        except KafkaException as failure:
            raise MustAbort(str(failure)) from failure

    def _give_up_attempt(self) -> None:
        try:
            self._retried(self._producer.abort_transaction)
        except MustAbort:
            self._producer = self._new_producer()

    def _new_producer(self) -> Producer:
        settings: dict[str, Any] = {
            "bootstrap.servers": self._servers,
            "transactional.id": self.name,
            "linger.ms": 0,
            "reconnect.backoff.max.ms": 500,
        }
        producer = Producer(settings, logger=_quiet)
        _until_done(lambda: producer.init_transactions(HANG_GUARD_S))
        return producer
