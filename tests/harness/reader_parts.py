"""Stand-ins for what surrounds a reader, for tests of the reader alone: one class for each part, without Kafka.

`reader_of` puts a real reader together from a consumer, a builder and a line; the other parts do nothing.
"""

import json
import socket
from collections.abc import Sequence
from typing import Any

import msgspec
from confluent_kafka import KafkaError, TopicPartition

from txninsightd.cluster.client_watchdog import ClientWatchdog
from txninsightd.ingest.advances import Advances
from txninsightd.ingest.reader import Reader
from txninsightd.ingest.topic_id_gate import NO_ANSWERS, Answers
from txninsightd.ingest.views import ValidatorBuilder, ViewBuilder
from txninsightd.vocabulary import Coverage, PartitionRef, Sightings, View

NOW = 1_750_000_000.0


class FixedClock:
    """The clock of records: it is always NOW."""

    def now(self) -> float:
        return NOW

    latest = now


class Record:
    """A Kafka message with an event that is stamped `ahead_s` after NOW, and is longer by `padding` bytes."""

    def __init__(self, ref: PartitionRef, offset: int, ahead_s: float = 0.0, padding: int = 0) -> None:
        event = {"event": "step_open", "txn_id": "t", "ts": NOW + ahead_s, "pad": "x" * padding}
        self.ref, self._offset, self._value = ref, offset, json.dumps(event).encode()

    def error(self) -> KafkaError | None:
        return None

    def topic(self) -> str:
        return self.ref.topic

    def partition(self) -> int:
        return self.ref.partition

    def offset(self) -> int:
        return self._offset

    def value(self) -> bytes:
        return self._value

    def key(self) -> None:
        return None

    def headers(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 1, int(NOW * 1000)


class Failed(Record):
    """What a consumer hands out where it cannot read on."""

    def __init__(self, ref: PartitionRef, code: int) -> None:
        super().__init__(ref, -1)
        self._code = code

    def error(self) -> KafkaError:
        return KafkaError(self._code)


class Consumer:
    """Hands out these batches, one a step. `ends`: the log's ends, or the error, of each question for them.

    `waited_s`: for how long each step would have waited for a record.
    """

    def __init__(self, *batches: Sequence[Record], ends: tuple[Any, ...] = ()) -> None:
        self.waited_s: list[float] = []
        self.assigned: list[int] = []
        self.asked_for: list[int] = []
        self.batches = list(batches)
        self._rest: Sequence[Record] = []
        self._ends = iter(ends)
        self._position = 0

    def poll(self, timeout_s: float) -> Record | None:
        self.waited_s.append(timeout_s)
        batch = self.batches.pop(0) if self.batches else []
        self._rest = batch[1:]
        return batch[0] if batch else None

    def consume(self, count: int, timeout_s: float) -> Sequence[Record]:
        self.asked_for.append(count)
        rest, self._rest = self._rest, []
        return rest

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        return [TopicPartition(p.topic, p.partition, -1001) for p in partitions]

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int]:
        ends = next(self._ends)
        if isinstance(ends, Exception):
            raise ends
        low, high = ends
        return low, high

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        self.assigned += [partition.offset for partition in partitions]

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        pass


class ReaderLine:
    """The reader's end of its line to the aggregator, with these commands in it. `depth`: how many messages wait."""

    closed = False

    def __init__(self, *commands: msgspec.Struct) -> None:
        self.depth = 0
        self.sent: list[msgspec.Struct] = []
        self._end, self._other_end = socket.socketpair()
        self._commands = [msgspec.msgpack.encode(command) for command in commands]

    def receive(self) -> list[bytes]:
        commands, self._commands = self._commands, []
        return commands

    def send(self, message: msgspec.Struct) -> None:
        self.sent.append(message)

    def flush(self) -> None:
        pass

    def fileno(self) -> int:
        return self._end.fileno()


class OpenGate:
    """Every topic is the one that was to be read, so nothing is held back."""

    is_asking = False

    def __init__(self) -> None:
        self._messages: list[Sightings | Coverage] = []

    @property
    def depth(self) -> int:
        return len(self._messages)

    def expect(self, topic: str, topic_id: str) -> bool:
        return False

    def buffer(self, message: Sightings | Coverage) -> None:
        self._messages.append(message)

    def poll(self, advances: Advances | None, suspended: Any, at_once: bool) -> Answers:
        messages, self._messages = self._messages, []
        seen = [advances.take(topic) for topic in list(advances.topics)] if advances is not None else []
        return Answers(messages, seen, [], []) if messages or seen else NO_ANSWERS


class NoEndOffsets:
    """No answer about the ends of logs ever comes."""

    is_asking = False

    def expect_news(self, refs: Any) -> None:
        pass

    def poll(self, refs: Any) -> list[Any]:
        return []


class NotedHealth:
    """`paused`: at each beat, whether the reader had paused its consumer."""

    def __init__(self) -> None:
        self.paused: list[bool] = []

    def beat(self, queue_depth: int, paused: bool) -> None:
        self.paused.append(paused)

    def working(self) -> None:
        pass


def reader_of(consumer: Consumer, builder: ViewBuilder, line: ReaderLine, health: NotedHealth, **parts: Any) -> Reader:
    """A reader; where `parts` names no such part, they are those of above, NOW, and a watchdog that finds nothing."""
    return Reader(
        view=View.VALIDATOR if isinstance(builder, ValidatorBuilder) else View.MONITOR,
        builder=builder,
        line=line,
        health=health,
        batch_records=100,
        queue_batches=64,
        **{
            "make_consumer": lambda: consumer,
            "end_offsets": NoEndOffsets(),
            "topic_id_gate": OpenGate(),
            "now": lambda: NOW,
            "client_watchdog": ClientWatchdog(new_client=lambda: False, clock_ahead_s=lambda: 0.0),
            **parts,
        },
    )
