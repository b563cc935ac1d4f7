"""What the contract tests stand on: producers, consumers whose every event is noted, and what is done to a broker.

The consumers have the settings that ship (`ingest.settings`), so it is those that the tests pin. Nothing sleeps: a test
waits for an event, and where it must show that *nothing* comes, it waits until the consumer has asked the broker a few
times more and was answered (`Watched.after_fetches`). Whatever waits gives up after `HANG_GUARD_S`.
"""

import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, Self

from confluent_kafka import Consumer, ConsumerGroupState, IsolationLevel, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    OffsetSpec,
    ResourceType,
)

from txninsightd.ingest.settings import consumer_settings
from txninsightd.tools.stack.broker import Broker, admin, create_topics
from txninsightd.vocabulary import PartitionRef, View

HANG_GUARD_S = 60.0
POLL_S = 0.02
NEVER_READ = -1001
BATCH_HEADER_BYTES = 61

_serial = itertools.count()
QUIET = logging.getLogger("txninsightd.tests.kafka-clients")
QUIET.propagate = False
QUIET.addHandler(logging.NullHandler())


# --- Producers --------------------------------------------------------------------------------------------------------


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


# --- Consumers --------------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """One thing that a consumer handed out: a record, the end of the partition, or the name of an error."""

    what: str
    offset: int | None
    partition: int = 0


def records(*offsets: int, partition: int = 0) -> list[Seen]:
    """Records of these offsets."""
    return [Seen("record", offset, partition) for offset in offsets]


def end(offset: int, partition: int = 0) -> list[Seen]:
    """The end-of-partition event that carries this offset."""
    return [Seen("_PARTITION_EOF", offset, partition)]


class Watched:
    """A consumer in one view, of a topic's partition 0 at first; `seen` is all that it ever handed out, in order."""

    def __init__(self, broker: Broker, view: View, topic: str, start: int = 0, reset: str = "error") -> None:
        self.partition = TopicPartition(topic, 0)
        self.seen: list[Seen] = []
        self.statistics: dict[str, Any] = {}
        self.eof_offsets: dict[int, int] = {}
        shipped = consumer_settings({"bootstrap.servers": broker.bootstrap}, view)
        watching = {"statistics.interval.ms": 50, "stats_cb": self._note_statistics, "auto.offset.reset": reset}
        self.consumer = Consumer({**shipped, **watching}, logger=QUIET)
        self.consumer.assign([TopicPartition(topic, 0, start)])

    @property
    def position(self) -> int:
        return self.consumer.position([self.partition])[0].offset

    @property
    def frontier(self) -> int:
        """Below this the view has passed everything: what the verdicts rest on."""
        return max(self.position, self.eof_offsets.get(0, -1))

    @property
    def delivered(self) -> list[int]:
        """The offsets of the records so far."""
        return [s.offset for s in self.seen if s.what == "record" and s.offset is not None]

    def take(self, most: int = 1000) -> list[Seen]:
        """Once `poll`, then what has been fetched already, as the reader does it; at most `most` events."""
        first = self.consumer.poll(POLL_S)
        if first is None:
            return []
        rest = self.consumer.consume(most - 1, 0) if most > 1 else []
        taken = [self._note(message) for message in (first, *rest)]
        self.seen += taken
        return taken

    def until(self, condition: Callable[[], object], what: str = "what is waited for", most: int = 1000) -> list[Seen]:
        """Consume, at most `most` events at a time, until the condition holds; gives what came meanwhile."""
        before = len(self.seen)
        deadline = time.monotonic() + HANG_GUARD_S
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come: {self.seen[-20:]}"
            self.take(most)
        return self.seen[before:]

    def until_more(self, most: int) -> None:
        """Consume until anything comes: one batch of at most `most` events."""
        before = len(self.seen)
        self.until(lambda: len(self.seen) > before, most=most)

    def until_end(self, offset: int, partition: int = 0) -> list[Seen]:
        """Consume until the end-of-partition event with this offset has come."""
        return self.until(lambda: self.eof_offsets.get(partition, -1) >= offset, f"the end at {offset}")

    def after_fetches(self, count: int = 4) -> list[Seen]:
        """Consume until the broker has answered some fetches that were sent from now on; gives what came meanwhile."""
        before, asked_at_us = len(self.seen), time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6
        self.until(lambda: self.statistics.get("ts", 0) > asked_at_us, "a statistics event")
        first = self._fetches()
        self.until(lambda: self._fetches() >= first + count, "a fetch")
        self.take()
        return self.seen[before:]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.consumer.close()

    def _fetches(self) -> int:
        return sum(each["req"].get("Fetch", 0) for each in self.statistics["brokers"].values())

    def _note_statistics(self, text: str) -> None:
        self.statistics = json.loads(text)

    def _note(self, message: Any) -> Seen:
        if message.error() is None:
            return Seen("record", message.offset(), message.partition())
        seen = Seen(message.error().name(), message.offset(), message.partition())
        if seen.what == "_PARTITION_EOF":
            self.eof_offsets[message.partition()] = message.offset()
        return seen


@contextmanager
def both_views(broker: Broker, topic: str) -> Iterator[tuple[Watched, Watched]]:
    """The monitor's and the validator's consumer of a topic's partition 0."""
    with Watched(broker, View.MONITOR, topic) as monitor, Watched(broker, View.VALIDATOR, topic) as validator:
        yield monitor, validator


# --- The broker's side ------------------------------------------------------------------------------------------------


def ask_until(condition: Callable[[], object], what: str) -> None:
    """Ask the broker again until the condition, which asks it, holds."""
    deadline = time.monotonic() + HANG_GUARD_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"


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
    """The consumer groups that somebody has joined."""
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
