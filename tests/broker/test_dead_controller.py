"""The broker dies that admin clients take for the controller; the others live.

What goes to the controller (topics' ids, the brokers of the cluster) is then asked in vain until the client's metadata
is fetched anew. Neither may a reader be blind for long, nor its client be taken for lost.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from tests.harness.cluster import Cluster
from tests.harness.kafka import QUIET, ask_until
from tests.harness.waiting import HANG_GUARD_S
from txninsightd import clock
from txninsightd.cluster import client_watchdog
from txninsightd.cluster.client_settings import admin_settings
from txninsightd.cluster.client_watchdog import (
    MOST_FAILURES,
    ClientWatchdog,
    admin_finds_broker,
    new_client_finds_broker,
)
from txninsightd.cluster.metadata_refresh import MetadataRefresh
from txninsightd.cluster.topic_ids import TopicIds
from txninsightd.ingest.topic_id_gate import TopicIdGate
from txninsightd.tools.stack.broker import create_topics

CLIENTS = 12
NAME = "orders"


def controller_of(admin: AdminClient) -> int:
    """The node that this client takes for the controller."""
    return int(admin.describe_cluster(request_timeout=HANG_GUARD_S).result().controller.id)


def new_admin(cluster: Cluster) -> AdminClient:
    """As the readers have one."""
    return AdminClient(admin_settings({"bootstrap.servers": cluster.bootstrap}), logger=QUIET)


@pytest.fixture
def cluster(kafka_libs: Path, tmp_path: Path) -> Iterator[Cluster]:
    """Three brokers, any of which may die."""
    running = Cluster(tmp_path, kafka_libs)
    try:
        running.start()
        yield running
    finally:
        running.kill()


def test_ids_are_answered_again_and_no_client_is_lost(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_watchdog, "ANSWER_WITHIN_S", 1.0)
    create_topics(cluster.bootstrap, {NAME: 1})
    by_controller: dict[int, list[AdminClient]] = defaultdict(list)
    for admin in [new_admin(cluster) for _ in range(CLIENTS)]:
        by_controller[controller_of(admin)].append(admin)
    dead, group = max(by_controller.items(), key=lambda each: len(each[1]))
    watched, asking = group[: len(group) // 2], group[len(group) // 2 :]
    gates = [TopicIdGate(TopicIds(admin), MetadataRefresh(admin, clock.now), clock.now) for admin in asking]

    def is_told(topic_id_gate: TopicIdGate) -> bool:
        return NAME in topic_id_gate.poll(None, [NAME], at_once=True).confirmed

    for topic_id_gate in gates:
        ask_until(partial(is_told, topic_id_gate), "the id")
    watching = ClientWatchdog(lambda: new_client_finds_broker(lambda: new_admin(cluster)), lambda: 0.0)
    for i, admin in enumerate(watched):
        watching.watch(f"admin-{i}", partial(admin_finds_broker, admin))
    cluster.nodes[dead].kill()
    for _ in range(MOST_FAILURES + 1):
        watching.check()
        assert watching.lost == []
    for topic_id_gate in gates:
        ask_until(partial(is_told, topic_id_gate), "the id, from another node")
