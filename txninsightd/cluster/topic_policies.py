"""Which topics must not be read: compacted ones.

A record that compaction has removed looks like one that was never delivered, so a compacted topic cannot be judged. A
topic with an unknown policy is not read either.
"""

from collections.abc import Callable, Iterable

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

ANSWER_WITHIN_S = 5.0
ASK_AGAIN_S = 60.0


class TopicPolicies:
    """Knows the cleanup policy of each topic; asks for it again after a minute."""

    def __init__(self, admin: AdminClient, now: Callable[[], float]) -> None:
        self._admin = admin
        self._now = now
        self._compacted: dict[str, bool] = {}
        self._ask_at: dict[str, float] = {}

    def refusals(self, topics: Iterable[str]) -> dict[str, str]:
        """Of these existing topics, those that must not be read, each with the reason as a text."""
        names = sorted(topics)
        refusals = self._ask([name for name in names if self._now() >= self._ask_at.get(name, 0.0)])
        for name in names:
            if self._compacted.get(name):
                refusals[name] = f"topic {name} is compacted and cannot be judged: exclude it, or drop `compact`"
        return refusals

    def knows(self, topic: str) -> bool:
        """Whether the topic's policy was ever learnt."""
        return topic in self._compacted

    def _ask(self, names: list[str]) -> dict[str, str]:
        unknown = {}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        answers = self._admin.describe_configs(resources, request_timeout=ANSWER_WITHIN_S) if resources else {}
        for resource, future in answers.items():
            try:
                self._compacted[resource.name] = "compact" in future.result()["cleanup.policy"].value
                self._ask_at[resource.name] = self._now() + ASK_AGAIN_S
            except (KafkaException, KeyError) as failure:
                # A known policy stays in force. `_ask_at` is unchanged, so the next look asks again.
                if resource.name not in self._compacted:
                    unknown[resource.name] = (
                        f"topic {resource.name} is not read, since its cleanup.policy cannot be learnt ({failure}): "
                        "the principal needs DescribeConfigs"
                    )
        return unknown
