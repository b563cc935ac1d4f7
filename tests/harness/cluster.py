"""Brokers for tests that break more than one process: several as one cluster, or one with several listeners.

The nodes of a cluster are each broker and controller, so that any one of them may die. Topics, offsets and transaction
state have a copy on every node, and what two of three have is acknowledged. A proxied listener is one more listener of
a broker, which advertises another port: a proxy listens there, so all traffic of its clients goes through the proxy.
"""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import ElectionType

from tests.harness.kafka import ask_until
from tests.harness.waiting import HANG_GUARD_S
from txninsightd.tools.stack import machine
from txninsightd.tools.stack.broker import Broker, admin, new_cluster_id

NODES = 3
REPLICATED = {
    "default.replication.factor": str(NODES),
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": str(NODES),
    "transaction.state.log.replication.factor": str(NODES),
    "transaction.state.log.min.isr": "2",
    "auto.leader.rebalance.enable": "false",
}


class ProxiedListener(NamedTuple):
    """The broker listens on `port`, and says that it listens on `advertised_port`."""

    port: int
    advertised_port: int


def broker_with_listeners(data_dir: Path, libs: Path, listeners: Mapping[str, ProxiedListener]) -> Broker:
    """A broker that has these listeners beside its own. Not started yet."""
    port, controller_port = machine.free_ports(2)
    own, controller = f"PLAINTEXT://{machine.HOST}:{port}", f"CONTROLLER://{machine.HOST}:{controller_port}"
    listening = [f"{name}://{machine.HOST}:{each.port}" for name, each in listeners.items()]
    advertised = [f"{name}://{machine.HOST}:{each.advertised_port}" for name, each in listeners.items()]
    properties = {
        "listeners": ",".join([own, controller, *listening]),
        "advertised.listeners": ",".join([own, *advertised]),
        "listener.security.protocol.map": ",".join(f"{n}:PLAINTEXT" for n in ("PLAINTEXT", "CONTROLLER", *listeners)),
    }
    return Broker(data_dir, libs, port, controller_port, properties=properties)


class Cluster:
    """`NODES` brokers, by node id. `start` it from a thread that outlives it."""

    def __init__(self, directory: Path, libs: Path) -> None:
        ports = machine.free_ports(2 * NODES)
        voters = ",".join(f"{i + 1}@{machine.HOST}:{ports[NODES + i]}" for i in range(NODES))
        cluster_id = new_cluster_id()
        self.nodes = {
            i + 1: Broker(
                directory / f"node-{i + 1}",
                libs,
                ports[i],
                ports[NODES + i],
                properties={**REPLICATED, "node.id": str(i + 1), "controller.quorum.voters": voters},
                cluster_id=cluster_id,
            )
            for i in range(NODES)
        }
        self.bootstrap = ",".join(node.bootstrap for node in self.nodes.values())
        self._directory = directory
        self._admin = admin(self.bootstrap)

    def start(self) -> None:
        """Start all nodes, and return once each knows all others."""
        with ThreadPoolExecutor(NODES) as beside:
            list(beside.map(Broker.prepare, self.nodes.values()))
        for node in self.nodes.values():
            node.launch()
        for node in self.nodes.values():
            node.await_ready()
        ask_until(lambda: len(self._admin.list_topics(timeout=HANG_GUARD_S).brokers) == NODES, "the whole cluster")

    def kill(self) -> None:
        """End all nodes at once."""
        for node in self.nodes.values():
            node.kill()

    def leaders(self, topic: str) -> dict[int, int]:
        """By partition, the id of the node that leads it; -1 for none."""
        partitions = self._admin.list_topics(topic, HANG_GUARD_S).topics[topic].partitions
        return {number: partition.leader for number, partition in sorted(partitions.items())}

    def move_leaders(self, topics: Iterable[str]) -> None:
        """Another node becomes the preferred leader of each partition, and is elected."""
        wanted = {topic: self._rotated(topic) for topic in topics}
        self._reassign(wanted)
        self._admin.elect_leaders(ElectionType.PREFERRED).result(HANG_GUARD_S)
        firsts = {topic: {number: nodes[0] for number, nodes in replicas.items()} for topic, replicas in wanted.items()}
        ask_until(lambda: {topic: self.leaders(topic) for topic in firsts} == firsts, f"new leaders: {firsts}")

    def await_in_sync(self, topic: str) -> None:
        """Return once each node has all of the topic."""

        def in_sync() -> bool:
            partitions = self._admin.list_topics(topic, HANG_GUARD_S).topics[topic].partitions.values()
            return all(len(partition.isrs) == NODES for partition in partitions)

        ask_until(in_sync, f"{topic} in sync")

    def _rotated(self, topic: str) -> dict[int, list[int]]:
        """By partition its nodes, the second one first."""
        partitions = self._admin.list_topics(topic, HANG_GUARD_S).topics[topic].partitions
        return {number: [*partition.replicas[1:], partition.replicas[0]] for number, partition in partitions.items()}

    def _reassign(self, wanted: Mapping[str, Mapping[int, list[int]]]) -> None:
        """By Kafka's own tool: the client library cannot."""
        file = self._directory / "reassign.json"
        moves = [
            {"topic": topic, "partition": partition, "replicas": nodes}
            for topic, replicas in wanted.items()
            for partition, nodes in replicas.items()
        ]
        file.write_text(json.dumps({"version": 1, "partitions": moves}))
        living = next(node for node in self.nodes.values() if node.is_running())
        living.run_tool(
            "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
            *("--bootstrap-server", living.bootstrap, "--reassignment-json-file", str(file), "--execute"),
        )
