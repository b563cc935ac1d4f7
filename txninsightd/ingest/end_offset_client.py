"""Asks the broker where partitions end, and waits for the answer.

The monitor asks for the high watermark, the validator for the last stable offset. The moment noted is the one before
the question: nothing that was in the log then lies beyond the answer. A question that fails shows that the broker did
not answer. A partition without a leader answers by that fact.

There are two ways to ask. A consumer's `offsets_for_times` takes the offset of each partition for a timestamp, which is
-1 for the end (KIP-79), and costs three microseconds a partition; but it answers for all or for none, and does not say
why. The admin client's `list_offsets` answers for each partition on its own, and costs from 18 microseconds a partition
to twice that for thousands. So the consumer is asked, and after it has failed, for some time the admin client.

Properties of librdkafka: the time of an answer grows with the square of the partitions in one question; a broker that
hangs until the time-out gives `list_offsets` no error but an offset below 0; and a consumer whose leader epochs are old
is refused until it has new ones, so one that has failed is replaced.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from confluent_kafka import OFFSET_END, Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from txninsightd.vocabulary import PartitionRef, View

ANSWER_WITHIN_S = 3.0
CONSUMER_ANSWERS_WITHIN_S = 1.5
ASKED_AT_ONCE = 250
"""Partitions in one question to the consumer."""

CONSUMER_RESTS_S = 10.0
"""For so long after it has failed the consumer is not asked."""


class Metadata(Protocol):
    """The admin client's metadata."""

    def request(self) -> None:
        """A question has failed: have the metadata fetched again."""


class EndOffset:
    """Where one partition ends. `offset` None: no answer. `leaderless`: the cluster says that it has no leader."""

    __slots__ = ("asked_at", "leaderless", "offset", "ref")

    def __init__(self, ref: PartitionRef, asked_at: float, offset: int | None, leaderless: bool = False) -> None:
        self.ref = ref
        self.asked_at = asked_at
        self.offset = offset
        self.leaderless = leaderless


class EndOffsetClient:
    """For one thread. `make_consumer`: makes a consumer that never reads, with the view's isolation level."""

    def __init__(
        self,
        make_consumer: Callable[[], Consumer],
        admin: AdminClient,
        metadata: Metadata,
        view: View,
        now: Callable[[], float],
    ) -> None:
        self._make_consumer = make_consumer
        self._admin = admin
        self._metadata = metadata
        self._isolation = IsolationLevel.READ_UNCOMMITTED if view is View.MONITOR else IsolationLevel.READ_COMMITTED
        self._now = now
        self._consumer: Consumer | None = None
        # When the consumer has failed; None: it may be asked.
        self._failed_at: float | None = None

    def ask(self, refs: Sequence[PartitionRef]) -> list[EndOffset]:
        """Where each of these partitions ends, or that it was not said."""
        if self._failed_at is None:
            try:
                return self._ask_consumer(refs)
            except KafkaException:
                self._failed_at = self._now()
                self._drop_consumer()
        answers = self._ask_admin(refs)
        if any(answer.offset is None for answer in answers):
            self._metadata.request()
        elif not 0 <= self._now() - self._failed_at < CONSUMER_RESTS_S:
            self._failed_at = None
        return answers

    def _ask_consumer(self, refs: Sequence[PartitionRef]) -> list[EndOffset]:
        """Raises KafkaException when it does not answer for one of them."""
        if self._consumer is None:
            self._consumer = self._make_consumer()
        answers = []
        for i in range(0, len(refs), ASKED_AT_ONCE):
            asked = refs[i : i + ASKED_AT_ONCE]
            asked_at = self._now()
            wanted = [TopicPartition(ref.topic, ref.partition, OFFSET_END) for ref in asked]
            found = self._consumer.offsets_for_times(wanted, CONSUMER_ANSWERS_WITHIN_S)
            if any(partition.offset < 0 for partition in found):
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            answers += [EndOffset(ref, asked_at, p.offset) for ref, p in zip(asked, found, strict=True)]
        return answers

    def _drop_consumer(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _ask_admin(self, refs: Sequence[PartitionRef]) -> list[EndOffset]:
        asked_at = self._now()
        wanted = {TopicPartition(ref.topic, ref.partition): OffsetSpec.latest() for ref in refs}
        futures = self._admin.list_offsets(wanted, isolation_level=self._isolation, request_timeout=ANSWER_WITHIN_S)
        answers = []
        for partition, future in futures.items():
            ref = PartitionRef(partition.topic, partition.partition)
            try:
                offset = future.result().offset
            except KafkaException as failure:
                leaderless = failure.args[0].code() == KafkaError.LEADER_NOT_AVAILABLE
                answers.append(EndOffset(ref, asked_at, None, leaderless))
            else:
                answers.append(EndOffset(ref, asked_at, offset if offset >= 0 else None))
        return answers
