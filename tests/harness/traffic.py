"""Live load: producers that run business transactions until told to stop, whatever becomes of the broker meanwhile.

Each is a thread with a transactional producer of its own, as an application would write it: what can be tried again is
tried again, what must be aborted is aborted and done anew, and a producer that can go on no more is replaced. A
transaction takes about a second; gaps are drawn, so that at any moment some are open and others wait for their commit.
When told to stop, each ends what it has begun, so that nothing is left open. What happened in the end is for the
broker's log to say (oracle.py).
"""

import itertools
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaException, Producer

from tests.harness.kafka import new_transactional_producer, retried
from tests.harness.waiting import HANG_GUARD_S

SHORT_GAP_S = (0.05, 0.4)
LONG_GAP_S = 1.0

WAYS = ("commit", "commit", "abort", "abort_then_commit", "steps_first", "close_aborted_then_commit")
"""What becomes of a transaction; each producer draws from them."""

Events = list[tuple[str, str | None]]
"""Kind and step of each."""

_serial = itertools.count()


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
            retried(action)
        except KafkaException as failure:
            raise MustAbort(str(failure)) from failure

    def _give_up_attempt(self) -> None:
        try:
            self._retried(self._producer.abort_transaction)
        except MustAbort:
            self._producer = self._new_producer()

    def _new_producer(self) -> Producer:
        settings = {"reconnect.backoff.max.ms": 500}
        return new_transactional_producer(self._servers, self.name, **settings)
