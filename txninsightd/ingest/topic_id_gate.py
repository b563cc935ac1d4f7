"""Holds back what was read of a topic until the broker has said that it was that topic.

A consumer follows a name. When a topic is deleted and made anew, librdkafka learns the new id by itself and goes on at
the offset at which it was, without a word, within half a second: where the new topic is long enough, its record at that
offset looks like the old one's. So nothing is told when it was read. It is held back, the topic's id is asked for, and
only if that is still the expected one, what was held back before the question goes out: ids never come back, so it was
the right topic until then, and the answers of where its log ended were about it, too.

One question is under way at a time, about the topics of which something is held back. It costs a few milliseconds of
delay, and the reader a third of a millisecond of work; with many topics it is asked less often.
"""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from txninsightd.ingest.refresh import Refresh
from txninsightd.ingest.topics import ask_ids, take_id
from txninsightd.vocabulary import Coverage, Sightings

ANSWER_WITHIN_S = 3.0
ASK_EVERY_S = 0.02
ASK_EVERY_S_AT_MOST = 0.5
ASK_IN_VAIN_EVERY_S = 1.0
SHARE_OF_TIME = 10
"""Between two questions passes at least so many times as long as the last answer took."""

DELETED = frozenset((KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID))


class Told(NamedTuple):
    """What the answers say: messages to be told, topics that are (still) the expected ones, and those that are not."""

    messages: list[Sightings | Coverage]
    right: list[str]
    wrong: list[str]


NOTHING = Told([], [], [])


class Question(NamedTuple):
    """About one topic; `held` messages were held back when it was asked."""

    answer: "Future[Any]"
    held: int


class TopicIdGate:
    """Knows which id each topic must have; "": whichever it has at the first answer."""

    def __init__(self, admin: AdminClient, refresh: Refresh, now: Callable[[], float]) -> None:
        self._admin = admin
        self._refresh = refresh
        self._now = now
        self._ids: dict[str, str] = {}
        self._held: dict[str, deque[Sightings | Coverage]] = {}
        self._asked: dict[str, Question] = {}
        self._asked_at = 0.0
        self._next_at = 0.0
        self._in_vain_at = 0.0

    @property
    def depth(self) -> int:
        """How many messages are held back."""
        return sum(map(len, self._held.values()))

    def id_of(self, topic: str) -> str:
        """The id that the topic must have; "" while it may be any."""
        return self._ids.get(topic, "")

    def expect(self, topic: str, topic_id: str) -> bool:
        """From now on it must have this id. Says whether it had to have another: then what was held back is dropped."""
        known = self.id_of(topic)
        if topic_id:
            self._ids[topic] = topic_id
        if not known or not topic_id or known == topic_id:
            return False
        self._drop(topic)
        return True

    def hold(self, message: Sightings | Coverage) -> None:
        """Something was read."""
        self._held.setdefault(message.topic, deque()).append(message)

    def poll(self, also: Iterable[str], at_once: bool) -> Told:
        """What the answers that have come say; asks anew when it is time. `also`: topics of which nothing is held.

        `at_once`: it is time now.
        """
        told = NOTHING
        if self._asked and all(question.answer.done() for question in self._asked.values()):
            told = self._take_answers()
        now = self._now()
        # The wall clock was set back: the next question must not wait for that to pass.
        set_back = now < self._asked_at
        if not self._asked and (at_once or set_back or now >= self._next_at):
            topics = {topic for topic, held in self._held.items() if held}
            # Of what is set aside nothing is read, so to ask about it now and then is enough.
            if set_back or now >= self._in_vain_at:
                topics.update(also)
                self._in_vain_at = now + ASK_IN_VAIN_EVERY_S
            self._ask(topics, now)
        return told

    def _ask(self, topics: set[str], now: float) -> None:
        if not topics:
            return
        self._asked_at = now
        answers = ask_ids(self._admin, topics, ANSWER_WITHIN_S)
        self._asked = {topic: Question(future, len(self._held.get(topic, ()))) for topic, future in answers.items()}

    def _take_answers(self) -> Told:
        took_s = self._now() - self._asked_at
        self._next_at = self._asked_at + min(max(ASK_EVERY_S, SHARE_OF_TIME * took_s), ASK_EVERY_S_AT_MOST)
        told = Told([], [], [])
        # Emptied first, since `_drop` takes from it.
        asked, self._asked = self._asked, {}
        for topic, question in asked.items():
            is_right = self._is_right(topic, question.answer)
            if is_right:
                told.right.append(topic)
                # The first so many are those of then: whatever else takes from it (`_drop`) takes the question along.
                held = self._held.get(topic)
                told.messages.extend(held.popleft() for _ in range(question.held) if held)
            # No answer says nothing: what is held goes on waiting, and the topic is asked about again.
            elif is_right is not None:
                told.wrong.append(topic)
                self._drop(topic)
        return told

    def _is_right(self, topic: str, answer: "Future[Any]") -> bool | None:
        """None: that cannot be said."""
        try:
            topic_id = take_id(answer.result())
        except KafkaException as failure:
            if failure.args[0].code() in DELETED:
                return False
            self._refresh.begin()
            return None
        return self._ids.setdefault(topic, topic_id) == topic_id

    def _drop(self, topic: str) -> None:
        self._held.pop(topic, None)
        self._asked.pop(topic, None)
