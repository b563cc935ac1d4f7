"""The test's own side of Kafka: producers, and what is asked of a broker or done to it by an admin client.

Nothing here sleeps: a call returns when what it says has happened on the broker, or fails after `HANG_GUARD_S`.
"""

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from confluent_kafka import ConsumerGroupState, IsolationLevel, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    OffsetSpec,
    ResourceType,
)

from tests.harness.waiting import HANG_GUARD_S, until
from txninsightd.tools.stack.broker import Broker, admin, create_topics
from txninsightd.vocabulary import PartitionRef

BATCH_HEADER_BYTES = 61
_serial = itertools.count()

QUIET = logging.getLogger("txninsightd.tests.kafka-clients")
"""For clients whose broker is taken away on purpose."""
QUIET.propagate = False
QUIET.addHandler(logging.NullHandler())


# --- Producers --------------------------------------------------------------------------------------------------------


def retried(action: Callable[[], object]) -> None:
    """Do it again as long as Kafka says that it can be retried. Raises KafkaException when it cannot."""
    while True:
        try:
            action()
            return
        except KafkaException as failure:
            if not failure.args[0].retriable():
                raise


def new_transactional_producer(bootstrap: str, transactional_id: str, **settings: Any) -> Producer:
    """A transactional producer that is ready to begin."""
    usual = {"bootstrap.servers": bootstrap, "transactional.id": transactional_id, "linger.ms": 0}
    producer = Producer({**usual, **settings}, logger=QUIET)
    retried(lambda: producer.init_transactions(HANG_GUARD_S))
    return producer


def publish(bootstrap: str, topic: str, records: Iterable[tuple[str, str]], partition: int = -1) -> None:
    """Write records (key, value) outside any Kafka transaction, and return when the broker has them all."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "enable.idempotence": True}, logger=QUIET)
    for key, value in records:
        while True:
            try:
                producer.produce(topic, value, key, partition)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(HANG_GUARD_S) == 0


class Writer:
    """A producer without transactions. `write` returns when the records are in the log."""

    def __init__(self, broker: Broker, **settings: Any) -> None:
        self.producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 0, **settings}, logger=QUIET)

    def write(self, topic: str, *values: str | bytes | None, partition: int = 0, **more: Any) -> None:
        """Inside a Kafka transaction the records are open until it ends. `more` is for `Producer.produce`."""
        for value in values:
            self.producer.produce(topic, value, partition=partition, **more)
        assert self.producer.flush(HANG_GUARD_S) == 0


class TransactionalWriter(Writer):
    """A producer with a transactional.id of its own."""

    def __init__(self, broker: Broker, **settings: Any) -> None:
        name = f"contract-{os.getpid()}-{next(_serial)}"
        super().__init__(broker, **{"transactional.id": name, "transaction.timeout.ms": 600_000, **settings})
        self.broker = broker
        self.refs: set[PartitionRef] = set()
        self.producer.init_transactions(HANG_GUARD_S)

    def write(self, topic: str, *values: str | bytes | None, partition: int = 0, **more: Any) -> None:
        self.refs.add(PartitionRef(topic, partition))
        super().write(topic, *values, partition=partition, **more)

    def begin(self) -> None:
        self.producer.begin_transaction()

    def commit(self, awaits_markers: bool = True) -> None:
        self._end(self.producer.commit_transaction, awaits_markers)

    def abort(self, awaits_markers: bool = True) -> None:
        self._end(self.producer.abort_transaction, awaits_markers)

    def committed(self, topic: str, *values: str | bytes | None, partition: int = 0) -> None:
        """One Kafka transaction of these records, committed."""
        self.begin()
        self.write(topic, *values, partition=partition)
        self.commit()

    def aborted(self, topic: str, *values: str | bytes | None, partition: int = 0) -> None:
        """One Kafka transaction of these records, aborted."""
        self.begin()
        self.write(topic, *values, partition=partition)
        self.abort()

    def _end(self, end_transaction: Callable[[float], None], awaits_markers: bool) -> None:
        """The client returns when the end is decided; the markers come into the partitions a little later."""
        ends = {ref: high_watermark(self.broker, ref) for ref in self.refs} if awaits_markers else {}
        end_transaction(HANG_GUARD_S)
        self.refs.clear()
        ask_until(lambda: all(high_watermark(self.broker, ref) > ends[ref] for ref in ends), f"markers behind {ends}")


# --- The broker's side ------------------------------------------------------------------------------------------------


def ask_until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition that asks the broker each time, and so needs no pause."""
    for _ in until(condition, what):
        pass


@cache
def admin_of(broker: Broker) -> AdminClient:
    """Held, since an admin client that is let go of never answers."""
    return admin(broker.bootstrap)


def last_stable_offset(broker: Broker, ref: PartitionRef) -> int:
    """Where the committed view's log ends."""
    return _log_end(broker, ref, IsolationLevel.READ_COMMITTED)


def high_watermark(broker: Broker, ref: PartitionRef) -> int:
    """Where the log ends."""
    return _log_end(broker, ref, IsolationLevel.READ_UNCOMMITTED)


def groups_with_members(broker: Broker) -> set[str]:
    """The consumer groups that have members."""
    found = admin_of(broker).list_consumer_groups().result(HANG_GUARD_S).valid
    return {group.group_id for group in found if group.state is not ConsumerGroupState.EMPTY}


def _log_end(broker: Broker, ref: PartitionRef, isolation: IsolationLevel) -> int:
    wanted = {TopicPartition(ref.topic, ref.partition): OffsetSpec.latest()}
    admin_of(broker).list_topics(timeout=HANG_GUARD_S)  # the leader may be another one since
    answers = admin_of(broker).list_offsets(wanted, isolation_level=isolation)
    return int(next(iter(answers.values())).result(HANG_GUARD_S).offset)


def delete_before(broker: Broker, topic: str, offset: int, partition: int = 0) -> None:
    """What retention does: records below the offset are gone, whatever was read of them."""
    for future in admin_of(broker).delete_records([TopicPartition(topic, partition, offset)]).values():
        future.result(HANG_GUARD_S)


def delete_topic(broker: Broker, topic: str) -> None:
    for future in admin_of(broker).delete_topics([topic]).values():
        future.result(HANG_GUARD_S)


def make_anew(broker: Broker, topic: str, partitions: int = 1) -> None:
    """Delete a topic and create it again: the same name, another topic id, and offsets from 0 on."""
    delete_topic(broker, topic)
    create_topics(broker.bootstrap, {topic: partitions})
    admin_of(broker).list_topics(timeout=HANG_GUARD_S)  # or it would ask with the old leader epoch


def add_partitions(broker: Broker, topic: str, total: int) -> None:
    """Give a topic more partitions, and return once they can be written."""
    for future in admin_of(broker).create_partitions([NewPartitions(topic, total)]).values():
        future.result(HANG_GUARD_S)
    ask_until(
        lambda: len(admin_of(broker).list_topics(topic, HANG_GUARD_S).topics[topic].partitions) == total,
        f"the {total} partitions of {topic}",
    )


def set_topic_config(broker: Broker, topic: str, name: str, value: str) -> None:
    _alter(broker, ResourceType.TOPIC, topic, ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET))


@contextmanager
def eager_cleaner(broker: Broker) -> Iterator[None]:
    """Have the broker look for logs to compact ten times a second, rather than every 15 s."""
    setting, node = "log.cleaner.backoff.ms", "1"
    _alter(broker, ResourceType.BROKER, node, ConfigEntry(setting, "100", incremental_operation=AlterConfigOpType.SET))
    try:
        yield
    finally:
        entry = ConfigEntry(setting, None, incremental_operation=AlterConfigOpType.DELETE)
        _alter(broker, ResourceType.BROKER, node, entry)


def _alter(broker: Broker, kind: ResourceType, name: str, entry: ConfigEntry) -> None:
    resource = ConfigResource(kind, name, incremental_configs=[entry])
    for future in admin_of(broker).incremental_alter_configs([resource]).values():
        future.result(HANG_GUARD_S)


def damage(broker: Broker, topic: str, first_byte: int) -> None:
    """Turn over all bits of the last batch of a topic's partition 0 on disk, from behind its header on."""
    segment = broker.log_dir / f"{topic}-0" / "00000000000000000000.log"
    with segment.open("r+b") as file:
        file.seek(first_byte + BATCH_HEADER_BYTES)
        body = file.read()
        file.seek(first_byte + BATCH_HEADER_BYTES)
        file.write(bytes(255 - byte for byte in body))


def segment_bytes(broker: Broker, topic: str) -> int:
    """How long the log of a topic's partition 0 is."""
    return (broker.log_dir / f"{topic}-0" / "00000000000000000000.log").stat().st_size
