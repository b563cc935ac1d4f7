"""How far a reader says it has seen: never further than its messages reach, and as far as that in the end.

A real reader with a real gate reads logs that only the test has. In any order records are written and read, the broker
is asked for the ends and answers or not, the topic's id is confirmed or not, and the line is full or not.
"""

from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness.reader_parts import NOW, Consumer, FixedClock, NotedHealth, ReaderLine, Record, reader_of
from txninsightd.ingest.end_offset_client import EndOffset
from txninsightd.ingest.topic_id_gate import TopicIdGate
from txninsightd.ingest.views import MonitorBuilder, ValidatorBuilder, ViewBuilder
from txninsightd.vocabulary import Assign, Coverage, Mapping, PartitionRef, PartitionStart, Seen, Sightings, View

ID = "the expected id"
TOPICS = ("orders", "payments")
REFS = [PartitionRef(topic, partition) for topic in TOPICS for partition in range(2)]
LONGEST_WAIT_S = 5.1
"""Longer than any time that the reader or its gate lets pass between two questions."""


class Logs(Consumer):
    """The partitions' logs, and the consumer of them: `written` is where each ends, `position` where it is read to."""

    def __init__(self) -> None:
        super().__init__()
        self.written = dict.fromkeys(REFS, 0)
        self.positions = dict.fromkeys(REFS, 0)

    def read(self, refs: Iterable[PartitionRef]) -> None:
        """Hand out at the next step what is unread of these partitions."""
        batch = [Record(ref, offset) for ref in refs for offset in range(self.positions[ref], self.written[ref])]
        self.positions.update({record.ref: record.offset() + 1 for record in batch})
        self.batches.append(batch)

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        return [TopicPartition(p.topic, p.partition, self.positions[PartitionRef(*_name(p))]) for p in partitions]


def _name(partition: TopicPartition) -> tuple[str, int]:
    return partition.topic, partition.partition


class Ends:
    """The answers about the ends of logs that are on their way."""

    is_asking = False

    def __init__(self) -> None:
        self.answers: list[EndOffset] = []

    def expect_news(self, refs: Any) -> None:
        pass

    def poll(self, refs: Any) -> list[EndOffset]:
        answers, self.answers = self.answers, []
        return answers


class Ids:
    """The broker's side of the questions for topic ids, which `answer` answers.

    `confirmed`: by topic, where its logs were read to when the last question was asked that confirmed its id.
    """

    def __init__(self, logs: Logs) -> None:
        self.confirmed: dict[str, dict[PartitionRef, int]] = {}
        self._logs = logs
        self._asked: list[tuple[str, Future[Any], dict[PartitionRef, int]]] = []

    def ask(self, topics: Iterable[str], within_s: float) -> dict[str, Future[Any]]:
        futures: dict[str, Future[Any]] = {topic: Future() for topic in topics}
        self._asked += [(topic, future, dict(self._logs.positions)) for topic, future in futures.items()]
        return futures

    def answer(self, topic_id: str | None) -> None:
        """With this id; None: not at all."""
        for topic, future, positions in self._asked:
            if topic_id is None:
                future.set_exception(KafkaException(KafkaError(KafkaError._TIMED_OUT)))
                continue
            future.set_result(topic_id)
            if topic_id == ID:
                self.confirmed[topic] = positions
        self._asked = []

    def id_in(self, answer: str) -> str:
        return answer

    def work_s(self, answer: str) -> float:
        return 1e-3

    def request(self) -> None:
        """The metadata; nothing to do."""


class Bench:
    """One reader at work. `checked`: how many of its messages `check` has looked at."""

    def __init__(self, builder: ViewBuilder) -> None:
        self.now = NOW
        self.logs, self.ends = Logs(), Ends()
        self.ids = Ids(self.logs)
        starts = [PartitionStart(ref.topic, ref.partition, 0, 0.0, 0, ID) for ref in REFS]
        self.line = ReaderLine(Assign(starts))
        ids: Any = self.ids
        self.reader = reader_of(
            self.logs,
            builder,
            self.line,
            NotedHealth(),
            end_offsets=self.ends,
            topic_id_gate=TopicIdGate(ids, ids, lambda: self.now),
            now=lambda: self.now,
        )
        self.ended_at: dict[tuple[PartitionRef, float], int] = {}
        self.outages: dict[PartitionRef, list[tuple[float, float]]] = {ref: [] for ref in REFS}
        self.sent_to = dict.fromkeys(REFS, 0)
        self.seen_to = dict.fromkeys(REFS, 0.0)
        self.seen_outages: dict[PartitionRef, list[tuple[float, float]]] = {ref: [] for ref in REFS}
        self._answered_at = 0.0
        self._failing = False
        self._checked = 0
        self.step(0.0)

    def ask(self, answers: bool) -> None:
        """The broker is asked where all logs end, and answers or not; the reader hears of it at its next step."""
        for ref in REFS:
            self.ended_at[ref, self.now] = self.logs.written[ref]
            self.ends.answers.append(EndOffset(ref, self.now, self.logs.written[ref] if answers else None))
            if answers and self._failing and self._answered_at:
                self.outages[ref].append((self._answered_at, self.now))
        self._failing = not answers
        self._answered_at = self.now if answers else self._answered_at

    def step(self, seconds: float) -> None:
        """Time passes, and the reader works one turn."""
        self.now += seconds
        self.reader.step()
        for message in self.line.sent[self._checked :]:
            self.check(message)
        self._checked = len(self.line.sent)

    def check(self, message: Any) -> None:
        """All that a message says was seen has been sent before it."""
        if isinstance(message, Sightings | Coverage):
            assert (message.as_of, message.to_offset > 0) == (0.0, True)
            ref = PartitionRef(message.topic, message.partition)
            assert message.to_offset <= self.ids.confirmed[ref.topic][ref]
            self.sent_to[ref] = message.to_offset
            return
        assert isinstance(message, Seen)
        for topic in message.topics:
            assert len(topic.stable_offsets) == (0 if message.view is View.MONITOR else len(topic.partitions))
            for partition, as_of in zip(topic.partitions, topic.as_ofs, strict=True):
                ref = PartitionRef(topic.topic, partition)
                assert self.sent_to[ref] >= self.ended_at[ref, as_of]
                assert as_of > self.seen_to[ref]
                self.seen_to[ref] = as_of
            for partition, began in topic.outages:
                ref = PartitionRef(topic.topic, partition)
                self.seen_outages[ref].append((began, self.seen_to[ref]))

    def come_to_rest(self) -> float:
        """Read all, and let the broker answer every question; returns the moment of the last question for the ends."""
        self.line.depth = 0
        self.logs.read(REFS)
        self.step(LONGEST_WAIT_S)
        self.ask(answers=True)
        asked_at = self.now
        # One turn for each outage that is still to be told, and some for what was buffered.
        for _ in range(6 + 3 * len(self.outages[REFS[0]])):
            self.step(LONGEST_WAIT_S)
            self.ids.answer(ID)
        return asked_at


def builders() -> dict[View, ViewBuilder]:
    """Both roles."""
    monitor = MonitorBuilder(lambda topic: Mapping(), 1_000, 60.0, lambda *_: None, FixedClock())
    return {View.MONITOR: monitor, View.VALIDATOR: ValidatorBuilder()}


refs = st.sets(st.sampled_from(REFS), min_size=1)
ACTIONS = st.one_of(
    st.tuples(st.just("write"), refs),
    st.tuples(st.just("read"), refs),
    st.tuples(st.just("ask"), st.booleans()),
    st.tuples(st.just("answer ids"), st.sampled_from([ID, None])),
    st.tuples(st.just("fill line"), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([0.05, 0.5, LONGEST_WAIT_S])),
)


def act(bench: Bench, action: tuple[str, Any]) -> None:
    what, value = action
    if what == "write":
        for ref in value:
            bench.logs.written[ref] += 1
    elif what == "read":
        bench.logs.read(sorted(value))
    elif what == "ask":
        bench.ask(value)
    elif what == "answer ids":
        bench.ids.answer(value)
    elif what == "fill line":
        bench.line.depth = 1000 if value else 0
    bench.step(value if what == "wait" else 0.01)


@pytest.mark.parametrize("view", list(View))
@settings(max_examples=150)
@given(actions=st.lists(ACTIONS, max_size=30))
def test_nothing_counts_as_seen_before_it_was_sent_and_all_does_in_the_end(
    view: View, actions: list[tuple[str, Any]]
) -> None:
    bench = Bench(builders()[view])
    for action in actions:
        act(bench, action)
    asked_at = bench.come_to_rest()
    assert bench.sent_to == bench.logs.written
    assert bench.seen_to == dict.fromkeys(REFS, asked_at)
    assert bench.seen_outages == (bench.outages if view is View.MONITOR else {ref: [] for ref in REFS})


def test_idle_partitions_cost_one_message_for_all_of_them() -> None:
    bench = Bench(ValidatorBuilder())
    for _ in range(10):
        bench.ask(answers=True)
        bench.step(0.5)
        bench.ids.answer(ID)
        bench.step(0.5)
    assert [type(message) for message in bench.line.sent] == [Seen] * 10
    assert all({topic.topic for topic in message.topics} == set(TOPICS) for message in bench.line.sent)


def test_a_topic_that_is_not_the_expected_one_is_said_to_be_seen_only_as_far_as_it_was_confirmed() -> None:
    bench = Bench(ValidatorBuilder())
    bench.ask(answers=True)
    bench.step(0.5)
    bench.ids.answer(ID)
    bench.step(0.5)
    confirmed_at, seen_to = bench.now - 1.0, dict(bench.seen_to)
    bench.ask(answers=True)
    bench.step(0.5)
    bench.ids.answer("another id")
    bench.step(0.5)
    assert bench.seen_to == seen_to == dict.fromkeys(REFS, confirmed_at)


def test_nothing_is_added_to_a_full_line() -> None:
    bench = Bench(ValidatorBuilder())
    bench.line.depth = 1000
    for _ in range(3):
        bench.ask(answers=True)
        bench.step(LONGEST_WAIT_S)
        bench.ids.answer(ID)
    assert bench.line.sent == []
