"""Buffers what was read of a topic until the broker has confirmed the topic's id.

A consumer follows a name. When a topic is deleted and created again, librdkafka learns the new id by itself and goes on
at its old offset, silently, within half a second. Where the new topic is long enough, its record at that offset looks
like the old topic's. So a message is not sent when it was read. It is buffered, and the topic's id is asked for. If the
id is still the expected one, the messages that were buffered before the question go out: ids never come back, so it was
the right topic until then, and the answers about the log's end were about it, too.

One question is pending at a time, about the topics with buffered messages. It costs a few milliseconds of delay, and
the reader a third of a millisecond of work; with many topics it is asked less often.
"""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

from confluent_kafka import KafkaError, KafkaException

from txninsightd.ingest.end_offsets import Metadata
from txninsightd.vocabulary import Coverage, Sightings

ANSWER_WITHIN_S = 3.0
ASK_EVERY_S = 0.02
ASK_EVERY_S_AT_MOST = 0.5
ASK_SUSPENDED_EVERY_S = 1.0
SHARE_OF_TIME = 10
"""Between two questions passes at least so many times as long as the last answer took."""

DELETED = frozenset((KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID))


class TopicIds(Protocol):
    """Asks the cluster for topic ids."""

    def ask(self, topics: Iterable[str], within_s: float) -> "dict[str, Future[Any]]":
        """Ask for these topics; each future holds an answer for `id_in`, or a KafkaException."""

    def id_in(self, answer: Any) -> str:
        """The topic id in an answer that has just arrived."""


class Answers(NamedTuple):
    """Messages to send, topics with the expected id, and topics with another id or none."""

    messages: list[Sightings | Coverage]
    confirmed: list[str]
    refuted: list[str]


NO_ANSWERS = Answers([], [], [])


class Question(NamedTuple):
    """About one topic; `buffered` messages were in its buffer when it was asked."""

    answer: "Future[Any]"
    buffered: int


class TopicIdGate:
    """Knows which id each topic must have; "": the id of the first answer."""

    def __init__(self, topic_ids: TopicIds, metadata: Metadata, now: Callable[[], float]) -> None:
        self._topic_ids = topic_ids
        self._metadata = metadata
        self._now = now
        self._ids: dict[str, str] = {}
        self._buffers: dict[str, deque[Sightings | Coverage]] = {}
        self._questions: dict[str, Question] = {}
        self._asked_at = 0.0
        self._next_at = 0.0
        self._ask_suspended_at = 0.0

    @property
    def depth(self) -> int:
        """How many messages are buffered."""
        return sum(map(len, self._buffers.values()))

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
        self._buffers.setdefault(message.topic, deque()).append(message)

    def poll(self, suspended: Iterable[str], at_once: bool) -> Answers:
        """The answers that have arrived; asks again when it is time. `suspended`: topics without messages to ask about.

        `at_once`: it is time now.
        """
        answers = NO_ANSWERS
        if self._questions and all(question.answer.done() for question in self._questions.values()):
            answers = self._take_answers()
        now = self._now()
        # The wall clock was set back: the next question must not wait until it has caught up.
        set_back = now < self._asked_at
        if not self._questions and (at_once or set_back or now >= self._next_at):
            topics = {topic for topic, buffer in self._buffers.items() if buffer}
            # A suspended topic is not read, so a question now and then is enough.
            if set_back or now >= self._ask_suspended_at:
                topics.update(suspended)
                self._ask_suspended_at = now + ASK_SUSPENDED_EVERY_S
            self._ask(topics, now)
        return answers

    def _ask(self, topics: set[str], now: float) -> None:
        if not topics:
            return
        self._asked_at = now
        futures = self._topic_ids.ask(topics, ANSWER_WITHIN_S)
        self._questions = {name: Question(future, len(self._buffers.get(name, ()))) for name, future in futures.items()}

    def _take_answers(self) -> Answers:
        took_s = self._now() - self._asked_at
        self._next_at = self._asked_at + min(max(ASK_EVERY_S, SHARE_OF_TIME * took_s), ASK_EVERY_S_AT_MOST)
        answers = Answers([], [], [])
        questions, self._questions = self._questions, {}
        for topic, question in questions.items():
            is_expected = self._is_expected(topic, question.answer)
            if is_expected:
                answers.confirmed.append(topic)
                # These are the messages that were buffered at the question: `_drop`, which alone removes others,
                # removes the question too.
                buffer = self._buffers.get(topic)
                answers.messages.extend(buffer.popleft() for _ in range(question.buffered) if buffer)
            # Without an answer the messages stay buffered, and the next question includes the topic.
            elif is_expected is not None:
                answers.refuted.append(topic)
                self._drop(topic)
        return answers

    def _is_expected(self, topic: str, answer: "Future[Any]") -> bool | None:
        """None: no answer."""
        try:
            topic_id = self._topic_ids.id_in(answer.result())
        except KafkaException as failure:
            if failure.args[0].code() in DELETED:
                return False
            self._metadata.request()
            return None
        return self._ids.setdefault(topic, topic_id) == topic_id

    def _drop(self, topic: str) -> None:
        self._buffers.pop(topic, None)
        self._questions.pop(topic, None)
