"""What the stack asks of a broker, with a broker's answers made by hand."""

from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from confluent_kafka.admin import BrokerMetadata, ClusterMetadata, PartitionMetadata, TopicMetadata
from confluent_kafka.cimpl import NewTopic

from txninsightd.tools.stack import broker


class Admin:
    """Creates topics at once, and describes the cluster by these answers, one after the other."""

    def __init__(self, answers: list[ClusterMetadata]) -> None:
        self.answers: Iterator[ClusterMetadata] = iter(answers)

    def create_topics(self, topics: list[NewTopic]) -> dict[str, Future[None]]:
        return {}

    def list_topics(self, timeout: float) -> ClusterMetadata:
        return next(self.answers)


def cluster(*leaders: int) -> ClusterMetadata:
    """One broker, number 1, and the topic `orders` whose partitions have these leaders; -1 is none, as in Kafka."""
    metadata, topic = ClusterMetadata(), TopicMetadata()
    for partition, leader in enumerate(leaders):
        topic.partitions[partition] = PartitionMetadata()
        topic.partitions[partition].leader = leader
    metadata.brokers = {1: BrokerMetadata()}
    metadata.topics = {"orders": topic} if leaders else {}
    return metadata


def test_a_topic_is_created_once_each_partition_has_a_leader_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    unled = [cluster(), cluster(1), cluster(1, -1), cluster(1, 2)]
    admin = Admin([*unled, cluster(1, 1), cluster(1, 1)])
    monkeypatch.setattr(broker, "admin", lambda bootstrap: admin)
    broker.create_topics("127.0.0.1:9092", {"orders": 2})
    assert len(list(admin.answers)) == 1, "it asks until all are led, and no more"
