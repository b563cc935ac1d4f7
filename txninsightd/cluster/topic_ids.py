"""Topic ids (KIP-516): which topic a name stands for.

A topic that is deleted and created again has another topic id. Its offsets begin again, and nothing known of the old
ones holds for them.

The ids are asked for many times a second, and confluent-kafka (2.13 to 2.16 at least) never frees the Uuid in an answer
of `describe_topics`: its C code leaks one reference. `id_in` releases that one. Whether there is a leak is not decided
by the version but measured, against a description that is made here and has no surplus reference.
"""

import ctypes
import sys
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException, TopicCollection, Uuid
from confluent_kafka.admin import AdminClient, TopicDescription

ANSWER_WITHIN_S = 5.0

WORK_FOR_TOPIC_S = 25e-6
WORK_FOR_PARTITION_S = 11e-6
"""What the client takes to make Python objects of an answer (confluent-kafka 2.16), on a machine of 2026."""


class TopicIds:
    """Asks the cluster for topic ids."""

    def __init__(self, admin: AdminClient) -> None:
        self._admin = admin

    def ask(self, topics: Iterable[str], within_s: float) -> "dict[str, Future[Any]]":
        """Ask for these topics; each future holds an answer for `id_in`, or a KafkaException."""
        names = sorted(topics)
        answers: dict[str, Future[Any]] = {}
        if names:
            answers = self._admin.describe_topics(TopicCollection(names), request_timeout=within_s)
        return answers

    def id_in(self, answer: TopicDescription) -> str:
        """The topic id in an answer that has just arrived; releases the reference that the client leaked in it."""
        # Exactly one too many. With any other number nothing is released: one reference too few would free an object
        # that is still in use.
        if _references(answer) == _REFERENCES + 1:
            ctypes.pythonapi.Py_DecRef(ctypes.py_object(answer.topic_id))
        return str(answer.topic_id)

    def work_s(self, answer: TopicDescription) -> float:
        """How long this process has worked for an answer: it lists all partitions, whoever needs them."""
        return WORK_FOR_TOPIC_S + WORK_FOR_PARTITION_S * len(answer.partitions)

    def of(self, topics: Iterable[str]) -> dict[str, str]:
        """Wait for the ids of these topics; those that do not exist or must not be described are left out."""
        ids = {}
        for name, future in self.ask(topics, ANSWER_WITHIN_S).items():
            try:
                ids[name] = self.id_in(future.result())
            except KafkaException:
                continue  # deleted a moment ago, or not authorized: the scout's next look shows which
        return ids


def _references(description: TopicDescription) -> int:
    return sys.getrefcount(description.topic_id)


_REFERENCES = _references(TopicDescription("", Uuid(0, 0), False, []))
