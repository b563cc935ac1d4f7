"""Buffers what was read of a topic until the broker has confirmed the topic's id.

A consumer follows a name. When a topic is deleted and created again, librdkafka learns the new id by itself and goes on
at its old offset, silently, within half a second. Where the new topic is long enough, its record at that offset looks
like the old topic's. So a message is not sent when it was read. It is buffered, and the topic's id is asked for. If the
id is still the expected one, the messages that were buffered before the question go out: ids never come back, so it was
the right topic until then, and the answers about the log's end were about it, too.

Two questions may be pending at a time. One is about the topics with buffered records: it costs a few milliseconds of
delay, and the reader a third of a millisecond of work; with many topics it is asked less often. The other is about
topics in which nothing was read, but which were seen further. An answer lists all partitions of its topics, so a topic
of thousands costs tens of milliseconds. Nothing waits for an idle one, so it is asked about so seldom that this is a
fifth of a percent of the reader's time, but at least every 5 s.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

from confluent_kafka import KafkaError, KafkaException

from txninsightd.ingest.end_offset_client import Metadata
from txninsightd.vocabulary import Coverage, SeenTopic, Sightings

ANSWER_WITHIN_S = 3.0
ASK_EVERY_S = 0.02
ASK_EVERY_S_AT_MOST = 0.5
ASK_SUSPENDED_EVERY_S = 1.0
SHARE_OF_TIME = 10
"""Between two questions about records passes at least so many times as long as the last answer took."""

ASK_IDLE_EVERY_S = 0.1
ASK_IDLE_EVERY_S_AT_MOST = 5.0
IDLE_SHARE_OF_WORK = 500
"""Between two questions about idle topics passes at least so many times the work of the last answer (`work_s`)."""

SEEN_EVERY_S = 0.1
"""How far a loaded topic was seen is taken along with its records no more often than this."""

DELETED = frozenset((KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID))

Buffered = Sightings | Coverage | SeenTopic


class TopicIds(Protocol):
    """Asks the cluster for topic ids."""

    def ask(self, topics: Iterable[str], within_s: float) -> "dict[str, Future[Any]]":
        """Ask for these topics; each future holds an answer for `id_in` and `work_s`, or a KafkaException."""

    def id_in(self, answer: Any) -> str:
        """The topic id in an answer that has just arrived."""

    def work_s(self, answer: Any) -> float:
        """How long this process has worked for such an answer."""


class SeenTopics(Protocol):
    """Topics that were seen further than any message says."""

    @property
    def topics(self) -> Collection[str]:
        """Their names."""

    def take(self, topic: str) -> SeenTopic:
        """How far one of them was seen. All messages that this rests on are buffered already."""


class Answers(NamedTuple):
    """Messages to send, then how far topics were seen; topics with the expected id, and with another id or none."""

    messages: list[Sightings | Coverage]
    seen: list[SeenTopic]
    confirmed: list[str]
    refuted: list[str]


NO_ANSWERS = Answers([], [], [], [])


class Question(NamedTuple):
    """About one topic; the entries of its buffer up to number `upto` were in it when it was asked."""

    answer: "Future[Any]"
    upto: int


class Inquiry:
    """One question at a time about some topics."""

    def __init__(self) -> None:
        self.questions: dict[str, Question] = {}
        self.asked_at = 0.0
        self._next_at = 0.0

    def is_due(self, now: float, at_once: bool = False) -> bool:
        """Whether to ask now. `at_once`: do not wait for the time."""
        # If `now` went back, the next question must not wait until it has caught up.
        return not self.questions and (at_once or now < self.asked_at or now >= self._next_at)

    def take(self) -> dict[str, Question]:
        """The questions, once all of them are answered."""
        if not all(question.answer.done() for question in self.questions.values()):
            return {}
        questions, self.questions = self.questions, {}
        return questions

    def wait(self, seconds: float, most_s: float) -> None:
        """Let this time pass between the last question and the next."""
        self._next_at = self.asked_at + min(seconds, most_s)


class TopicIdGate:
    """Knows which id each topic must have; "": the id of the first answer."""

    def __init__(self, topic_ids: TopicIds, metadata: Metadata, now: Callable[[], float]) -> None:
        self._topic_ids = topic_ids
        self._metadata = metadata
        self._now = now
        self._ids: dict[str, str] = {}
        self._buffers: dict[str, deque[tuple[int, Buffered]]] = {}
        self._entries = 0
        # By topic, how many messages with records are in its buffer; and the topics with a SeenTopic there.
        self._records: dict[str, int] = {}
        self._holds_seen: set[str] = set()
        self._about_records = Inquiry()
        self._about_idle = Inquiry()
        self._asked_suspended_at = 0.0
        self._seen_taken_at = 0.0
        self.depth = 0
        """How many messages with records are buffered."""

    @property
    def is_asking(self) -> bool:
        """Whether a question is pending."""
        return bool(self._about_records.questions or self._about_idle.questions)

    def id_of(self, topic: str) -> str:
        """The id that the topic must have; "" while it may be any."""
        return self._ids.get(topic, "")

    def expect(self, topic: str, topic_id: str) -> bool:
        """Require this id from now on. Says whether another id was required before: then the buffer is dropped."""
        known = self.id_of(topic)
        if topic_id:
            self._ids[topic] = topic_id
        if not known or not topic_id or known == topic_id:
            return False
        self._drop(topic)
        return True

    def buffer(self, message: Sightings | Coverage) -> None:
        """Keep a message until its topic is confirmed."""
        self._append(message)
        self._records[message.topic] = self._records.get(message.topic, 0) + 1
        self.depth += 1

    def poll(self, advances: SeenTopics | None, suspended: Iterable[str], at_once: bool) -> Answers:
        """The answers that have arrived; asks again when it is time.

        `advances`: what to take along; None: nothing now. `suspended`: topics without messages to ask about. `at_once`:
        it is time now to ask about records.
        """
        answers = self._take_answers()
        now = self._now()
        if self._about_records.is_due(now, at_once):
            self._ask_about_records(advances, suspended, now)
        if advances is not None and self._about_idle.is_due(now):
            self._ask_about_idle(advances, now)
        return answers

    def _ask_about_records(self, advances: SeenTopics | None, suspended: Iterable[str], now: float) -> None:
        topics = set(self._records)
        if advances is not None and not 0 <= now - self._seen_taken_at < SEEN_EVERY_S:
            self._seen_taken_at = now
            self._take_seen(advances, topics.intersection(advances.topics))
        # A suspended topic is not read, so a question now and then is enough.
        if not 0 <= now - self._asked_suspended_at < ASK_SUSPENDED_EVERY_S:
            topics.update(suspended)
            self._asked_suspended_at = now
        self._ask(self._about_records, topics, now)

    def _ask_about_idle(self, advances: SeenTopics, now: float) -> None:
        # What is loaded is asked about with its records.
        idle = {*advances.topics, *self._holds_seen} - self._records.keys() - self._about_records.questions.keys()
        self._take_seen(advances, idle.intersection(advances.topics))
        self._ask(self._about_idle, idle & self._holds_seen, now)

    def _take_seen(self, advances: SeenTopics, topics: set[str]) -> None:
        """Buffer how far these were seen. Each has one such entry at most, so that nothing grows without an answer."""
        for topic in topics - self._holds_seen:
            self._append(advances.take(topic))
            self._holds_seen.add(topic)

    def _append(self, entry: Buffered) -> None:
        self._entries += 1
        self._buffers.setdefault(entry.topic, deque()).append((self._entries, entry))

    def _ask(self, inquiry: Inquiry, topics: set[str], now: float) -> None:
        if not topics:
            return
        inquiry.asked_at = now
        futures = self._topic_ids.ask(topics, ANSWER_WITHIN_S)
        inquiry.questions = {name: Question(future, self._entries) for name, future in futures.items()}

    def _take_answers(self) -> Answers:
        about_records, about_idle = self._about_records.take(), self._about_idle.take()
        if not about_records and not about_idle:
            return NO_ANSWERS
        answers = Answers([], [], [], [])
        if about_records:
            self._settle(about_records, answers)
            took_s = self._now() - self._about_records.asked_at
            self._about_records.wait(max(ASK_EVERY_S, SHARE_OF_TIME * took_s), ASK_EVERY_S_AT_MOST)
        if about_idle:
            work_s = self._settle(about_idle, answers)
            self._about_idle.wait(max(ASK_IDLE_EVERY_S, IDLE_SHARE_OF_WORK * work_s), ASK_IDLE_EVERY_S_AT_MOST)
        return answers

    def _settle(self, questions: dict[str, Question], answers: Answers) -> float:
        """Sort what is answered; returns for how long this process has worked for it."""
        work_s = 0.0
        for topic, question in questions.items():
            try:
                answer = question.answer.result()
            except KafkaException as failure:
                is_expected = self._is_deleted(failure)
            else:
                work_s += self._topic_ids.work_s(answer)
                topic_id = self._topic_ids.id_in(answer)
                is_expected = self._ids.setdefault(topic, topic_id) == topic_id
            if is_expected:
                answers.confirmed.append(topic)
                self._release(topic, question.upto, answers)
            # Without an answer the messages stay buffered, and the next question includes the topic.
            elif is_expected is not None:
                answers.refuted.append(topic)
                self._drop(topic)
        return work_s

    def _is_deleted(self, failure: KafkaException) -> bool | None:
        """False: the topic is not the expected one, since it is gone. None: no answer."""
        if failure.args[0].code() in DELETED:
            return False
        self._metadata.request()
        return None

    def _release(self, topic: str, upto: int, answers: Answers) -> None:
        """Hand out what was buffered when the question was asked."""
        buffer = self._buffers.get(topic, ())
        while buffer and buffer[0][0] <= upto:
            _, entry = buffer.popleft()
            if isinstance(entry, SeenTopic):
                self._holds_seen.discard(topic)
                answers.seen.append(entry)
            else:
                self._uncount(topic, 1)
                answers.messages.append(entry)

    def _uncount(self, topic: str, count: int) -> None:
        self.depth -= count
        left = self._records.pop(topic, 0) - count
        if left > 0:
            self._records[topic] = left

    def _drop(self, topic: str) -> None:
        self._uncount(topic, self._records.get(topic, 0))
        self._holds_seen.discard(topic)
        self._buffers.pop(topic, None)
        for inquiry in (self._about_records, self._about_idle):
            inquiry.questions.pop(topic, None)
