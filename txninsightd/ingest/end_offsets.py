"""Asks the broker, about once a second, where the partitions end, and never waits for the answer.

The monitor asks for the high watermark, the validator for the last stable offset. The moment noted is the one before
the question: nothing that was in the log then lies beyond the answer. A question that fails shows that the
broker did not answer. A partition without a leader answers by that fact, if it was read to its end.

A property of librdkafka: a broker that hangs until the time-out gives no error but an offset below 0.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Protocol

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from txninsightd.vocabulary import PartitionRef, View

ASK_EVERY_S = 1.0
ANSWER_WITHIN_S = 3.0


class Metadata(Protocol):
    """The admin client's metadata."""

    def request(self) -> None:
        """A question has failed: have the metadata fetched again."""


class EndOffset:
    """Where one partition ends. `offset` None: no answer. `leaderless`: the cluster says that it has no leader."""

    __slots__ = ("asked_at", "leaderless", "offset", "ref")

    def __init__(self, ref: PartitionRef, asked_at: float, offset: int | None, leaderless: bool) -> None:
        self.ref = ref
        self.asked_at = asked_at
        self.offset = offset
        self.leaderless = leaderless


class EndOffsets:
    """One question at a time, about all assigned partitions."""

    def __init__(self, admin: AdminClient, metadata: Metadata, view: View, now: Callable[[], float]) -> None:
        self._admin = admin
        self._metadata = metadata
        self._isolation = IsolationLevel.READ_UNCOMMITTED if view is View.MONITOR else IsolationLevel.READ_COMMITTED
        self._now = now
        self._asked_at = 0.0
        self._pending: dict[PartitionRef, Future[Any]] = {}

    def poll(self, refs: Iterable[PartitionRef]) -> list[EndOffset]:
        """The answers that have arrived; asks again when it is time."""
        answers = []
        if self._pending and all(future.done() for future in self._pending.values()):
            answers = [self._answer(ref, future) for ref, future in self._pending.items()]
            self._pending = {}
            if any(answer.offset is None for answer in answers):
                self._metadata.request()
        now = self._now()
        # Negative: the wall clock was set back. The next question must not wait until it has caught up.
        if not self._pending and not 0 <= now - self._asked_at < ASK_EVERY_S:
            self._ask(refs, now)
        return answers

    def _ask(self, refs: Iterable[PartitionRef], now: float) -> None:
        wanted = {TopicPartition(ref.topic, ref.partition): OffsetSpec.latest() for ref in refs}
        # Without partitions `_asked_at` stays, so that the first ones assigned are asked about at once.
        if not wanted:
            return
        self._asked_at = now
        futures = self._admin.list_offsets(wanted, isolation_level=self._isolation, request_timeout=ANSWER_WITHIN_S)
        self._pending = {PartitionRef(tp.topic, tp.partition): future for tp, future in futures.items()}

    def _answer(self, ref: PartitionRef, future: "Future[Any]") -> EndOffset:
        try:
            offset = future.result().offset
        except KafkaException as failure:
            return EndOffset(ref, self._asked_at, None, failure.args[0].code() == KafkaError.LEADER_NOT_AVAILABLE)
        return EndOffset(ref, self._asked_at, offset if offset >= 0 else None, leaderless=False)
