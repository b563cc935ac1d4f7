"""What may not be read as it stands: compacted topics. And which topic stands behind a name.

A record that compaction removed looks like one that was never delivered, so a compacted topic cannot be judged; one
whose policy cannot be learnt is not trusted. A topic that was deleted and made anew has another topic id (KIP-516): its
offsets begin again, and nothing known of the old ones holds for them.

The ids are asked for many times a second, and confluent-kafka (2.13 to 2.16 at least) never frees the Uuid in an answer
of `describe_topics`: its C code keeps one reference that nobody owns. `take_id` gives that one back. Whether there is
one is not taken from a version: a description made here, which has none too many, is the measure.
"""

import ctypes
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException, TopicCollection, Uuid
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType, TopicDescription

ANSWER_WITHIN_S = 5.0
ASK_AGAIN_S = 60.0


class TopicChecks:
    """Knows the policy of each topic; policies are asked for again after a minute."""

    def __init__(self, admin: AdminClient, now: Callable[[], float]) -> None:
        self._admin = admin
        self._now = now
        self._compacted: dict[str, bool] = {}
        self._ask_at: dict[str, float] = {}

    def refusals(self, topics: Iterable[str]) -> dict[str, str]:
        """Of these existing topics, those that must not be read, each with the reason in words."""
        names = sorted(topics)
        refusals = self._ask_policies([name for name in names if self._now() >= self._ask_at.get(name, 0.0)])
        for name in names:
            if self._compacted.get(name):
                refusals[name] = f"topic {name} is compacted and cannot be judged: exclude it, or drop `compact`"
        return refusals

    def knows(self, topic: str) -> bool:
        """Whether the topic's policy was ever learnt."""
        return topic in self._compacted

    def _ask_policies(self, names: list[str]) -> dict[str, str]:
        unknown = {}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        answers = self._admin.describe_configs(resources, request_timeout=ANSWER_WITHIN_S) if resources else {}
        for resource, future in answers.items():
            try:
                self._compacted[resource.name] = "compact" in future.result()["cleanup.policy"].value
                self._ask_at[resource.name] = self._now() + ASK_AGAIN_S
            except (KafkaException, KeyError) as failure:
                # A policy that was learnt once goes on holding. `_ask_at` stays as it was, so the next look asks again.
                if resource.name not in self._compacted:
                    unknown[resource.name] = (
                        f"topic {resource.name} is not read, since its cleanup.policy cannot be learnt ({failure}): "
                        "the principal needs DescribeConfigs"
                    )
        return unknown


def ask_ids(admin: AdminClient, topics: Iterable[str], within_s: float) -> "dict[str, Future[Any]]":
    """Ask for the ids of these topics; each future holds one description, or a KafkaException."""
    names = sorted(topics)
    answers: dict[str, Future[Any]] = {}
    if names:
        answers = admin.describe_topics(TopicCollection(names), request_timeout=within_s)
    return answers


def take_id(description: TopicDescription) -> str:
    """The topic's id, out of an answer that came a moment ago; takes away the reference that the client lost in it."""
    # Exactly one too many. A client that loses none, or is wrong in another way, is left alone: a reference too few
    # would free what is still in use.
    if _references(description) == _REFERENCES + 1:
        ctypes.pythonapi.Py_DecRef(ctypes.py_object(description.topic_id))
    return str(description.topic_id)


def _references(description: TopicDescription) -> int:
    return sys.getrefcount(description.topic_id)


_REFERENCES = _references(TopicDescription("", Uuid(0, 0), False, []))


def topic_ids(admin: AdminClient, topics: Iterable[str]) -> dict[str, str]:
    """The ids of those of these topics that are there and may be described."""
    ids = {}
    for name, future in ask_ids(admin, topics, ANSWER_WITHIN_S).items():
        try:
            ids[name] = take_id(future.result())
        except KafkaException:
            continue  # deleted a moment ago, or not ours to describe: the next look tells
    return ids
