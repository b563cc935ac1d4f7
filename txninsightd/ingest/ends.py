"""Asks the broker, about once a second, where the partitions end, without ever waiting for the answer.

The monitor asks for the high watermark, the validator for the last stable offset. The moment noted is that before the
question: whatever the answer, nothing that was in the log then lies beyond it. A question that fails says that the
broker did not answer; a partition that has no leader just now is answered by that fact, when it was read to its end.

A way of librdkafka to be known: a broker that hangs until the time-out gives no error but an offset below 0.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from txninsightd.ingest.refresh import Refresh
from txninsightd.vocabulary import PartitionRef, View

ASK_EVERY_S = 1.0
ANSWER_WITHIN_S = 3.0


class Answer:
    """Where one partition ends. `end_offset` None: no answer. `leaderless`: the cluster says that it has no leader."""

    __slots__ = ("asked_at", "end_offset", "leaderless", "ref")

    def __init__(self, ref: PartitionRef, asked_at: float, end_offset: int | None, leaderless: bool) -> None:
        self.ref = ref
        self.asked_at = asked_at
        self.end_offset = end_offset
        self.leaderless = leaderless


class EndQuestions:
    """One question under way at a time, about all assigned partitions."""

    def __init__(self, admin: AdminClient, refresh: Refresh, view: View, now: Callable[[], float]) -> None:
        self._admin = admin
        self._refresh = refresh
        self._isolation = IsolationLevel.READ_UNCOMMITTED if view is View.MONITOR else IsolationLevel.READ_COMMITTED
        self._now = now
        self._asked_at = 0.0
        self._under_way: dict[PartitionRef, Future[Any]] = {}

    def poll(self, refs: Iterable[PartitionRef]) -> list[Answer]:
        """The answers that have come; asks anew when it is time."""
        answers = []
        if self._under_way and all(future.done() for future in self._under_way.values()):
            answers = [self._answer(ref, future) for ref, future in self._under_way.items()]
            self._under_way = {}
            if any(answer.end_offset is None for answer in answers):
                self._refresh.begin()
        now = self._now()
        # Negative: the wall clock was set back. The next question must not wait for that to pass.
        if not self._under_way and not 0 <= now - self._asked_at < ASK_EVERY_S:
            self._ask(refs, now)
        return answers

    def _ask(self, refs: Iterable[PartitionRef], now: float) -> None:
        wanted = {TopicPartition(ref.topic, ref.partition): OffsetSpec.latest() for ref in refs}
        # Does not count as asked: about the first partitions that are assigned, the question goes out at once.
        if not wanted:
            return
        self._asked_at = now
        futures = self._admin.list_offsets(wanted, isolation_level=self._isolation, request_timeout=ANSWER_WITHIN_S)
        self._under_way = {PartitionRef(tp.topic, tp.partition): future for tp, future in futures.items()}

    def _answer(self, ref: PartitionRef, future: "Future[Any]") -> Answer:
        try:
            offset = future.result().offset
        except KafkaException as failure:
            return Answer(ref, self._asked_at, None, failure.args[0].code() == KafkaError.LEADER_NOT_AVAILABLE)
        return Answer(ref, self._asked_at, offset if offset >= 0 else None, leaderless=False)
