"""When the ends of partitions are asked for, and of whom."""

from collections.abc import Collection, Iterable
from concurrent.futures import Future
from typing import Any, NamedTuple

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from tests.harness.waiting import until
from txninsightd.ingest.end_offset_client import ASKED_AT_ONCE, CONSUMER_RESTS_S, EndOffset, EndOffsetClient
from txninsightd.ingest.end_offsets import EndOffsets
from txninsightd.vocabulary import PartitionRef, View

NO_ANSWER = KafkaException(KafkaError(KafkaError._TIMED_OUT))


def refs(count: int) -> list[PartitionRef]:
    return [PartitionRef("orders", partition) for partition in range(count)]


class Found(NamedTuple):
    offset: int


class Cluster:
    """Consumer, admin client and metadata in one. Each partition ends at its number, but for those in `silent`."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.silent: set[int] = set()
        self.asked: list[tuple[str, int]] = []
        self.consumers = 0

    def now(self) -> float:
        return self.time

    def client(self) -> EndOffsetClient:
        cluster: Any = self
        return EndOffsetClient(self.make_consumer, cluster, cluster, View.MONITOR, self.now)

    def make_consumer(self) -> Any:
        self.consumers += 1
        return self

    def close(self) -> None:
        self.consumers -= 1

    def request(self) -> None:
        self.asked.append(("metadata", 0))

    def offsets_for_times(self, wanted: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        self.asked.append(("consumer", len(wanted)))
        if self.silent.intersection(p.partition for p in wanted):
            raise NO_ANSWER
        return [TopicPartition(p.topic, p.partition, p.partition) for p in wanted]

    def list_offsets(self, wanted: Iterable[TopicPartition], **_: Any) -> dict[TopicPartition, "Future[Any]"]:
        futures: dict[TopicPartition, Future[Any]] = {}
        for partition in wanted:
            future = futures[partition] = Future()
            if partition.partition in self.silent:
                future.set_exception(KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE)))
            else:
                future.set_result(Found(partition.partition))
        self.asked.append(("admin", len(futures)))
        return futures


def offsets(answers: list[EndOffset]) -> list[int | None]:
    return [answer.offset for answer in answers]


def test_the_consumer_is_asked_in_small_questions() -> None:
    cluster = Cluster()
    count = 2 * ASKED_AT_ONCE + 1
    assert offsets(cluster.client().ask(refs(count))) == list(range(count))
    assert cluster.asked == [("consumer", ASKED_AT_ONCE), ("consumer", ASKED_AT_ONCE), ("consumer", 1)]


def test_where_the_consumer_does_not_answer_each_partition_is_asked_about_on_its_own() -> None:
    cluster = Cluster()
    client = cluster.client()
    cluster.silent = {1}
    answers = client.ask(refs(3))
    assert [(a.offset, a.leaderless) for a in answers] == [(0, False), (None, True), (2, False)]
    assert cluster.asked == [("consumer", 3), ("admin", 3), ("metadata", 0)]
    assert cluster.consumers == 0  # it may never answer again


@pytest.mark.parametrize(("passed_s", "asked"), [(CONSUMER_RESTS_S / 2, "admin"), (CONSUMER_RESTS_S, "consumer")])
def test_a_new_consumer_is_asked_once_all_have_answered_and_some_time_has_passed(passed_s: float, asked: str) -> None:
    cluster = Cluster()
    client = cluster.client()
    cluster.silent = {1}
    client.ask(refs(3))
    cluster.time += passed_s
    client.ask(refs(3))  # still without one answer
    cluster.silent = set()
    client.ask(refs(3))
    cluster.asked.clear()
    assert offsets(client.ask(refs(3))) == [0, 1, 2]
    assert cluster.asked == [(asked, 3)]


class Asked:
    """Answers at once, and notes how many partitions each question was about."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def ask(self, refs: Any) -> list[EndOffset]:
        self.counts.append(len(refs))
        return [EndOffset(ref, 0.0, 0) for ref in refs]


def await_answers(end_offsets: EndOffsets, of: Collection[PartitionRef]) -> list[EndOffset]:
    """Poll until the answers come."""
    answers: list[EndOffset] = []
    for _ in until(lambda: answers, "the answers"):
        answers.extend(end_offsets.poll(of))
    return answers


@pytest.mark.parametrize(
    ("partitions", "counts"),
    [
        (3, [3, 3, 3, 3, 3, 3]),
        # All of them every four seconds, and meanwhile the one with news.
        (800, [800, 1, 1, 1, 800, 1]),
        (100_000, [100_000, 1, 1, 1, 1, 100_000]),
    ],
)
def test_partitions_with_news_are_asked_about_each_second_and_very_many_others_more_seldom(
    partitions: int, counts: list[int]
) -> None:
    client, time = Asked(), 1000.0
    end_offsets = EndOffsets(client, lambda: time)
    all_of_them = dict.fromkeys(refs(partitions))
    for _ in counts:
        end_offsets.poll(all_of_them)
        await_answers(end_offsets, all_of_them)
        end_offsets.expect_news([PartitionRef("orders", 1), PartitionRef("left", 0)])
        time += 1.0
    assert client.counts == counts


def test_nothing_is_asked_about_idle_partitions_before_it_is_time() -> None:
    client, time = Asked(), 1000.0
    end_offsets = EndOffsets(client, lambda: time)
    await_answers(end_offsets, refs(2000))
    time += 3.9
    assert not end_offsets.poll(dict.fromkeys(refs(2000)))
    assert client.counts == [2000]


def test_a_failure_that_was_not_foreseen_is_no_answer() -> None:
    class Broken:
        def ask(self, refs: Any) -> list[EndOffset]:
            raise RuntimeError("a bug")

    end_offsets = EndOffsets(Broken(), lambda: 1000.0)
    assert offsets(await_answers(end_offsets, refs(2))) == [None, None]
