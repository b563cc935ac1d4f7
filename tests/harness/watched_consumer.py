"""Consumers whose every event is noted, for tests of what a broker and librdkafka promise.

They have the settings that ship (`consumer_settings`), so the tests pin those. Nothing sleeps: a test waits for an
event, and where it must show that *nothing* comes, it waits until the consumer has asked the broker a few times more
and was answered (`WatchedConsumer.after_fetches`).
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

from confluent_kafka import Consumer, TopicPartition

from tests.harness import waiting
from tests.harness.kafka import QUIET
from txninsightd.cluster.client_settings import client_settings
from txninsightd.ingest.consumer_settings import consumer_settings
from txninsightd.tools.stack.broker import Broker
from txninsightd.vocabulary import View

POLL_S = 0.02
NEVER_READ = -1001


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


class WatchedConsumer:
    """A consumer in one view, of a topic's partition 0 at first; `seen` is all that it ever handed out, in order."""

    def __init__(self, broker: Broker, view: View, topic: str, start: int = 0, reset: str = "error") -> None:
        self.partition = TopicPartition(topic, 0)
        self.seen: list[Seen] = []
        self.statistics: dict[str, Any] = {}
        self.eof_offsets: dict[int, int] = {}
        shipped = consumer_settings(client_settings({"bootstrap.servers": broker.bootstrap}), view)
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
        for _ in waiting.until(condition, what, output=lambda: self.seen[-20:]):
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
def both_views(broker: Broker, topic: str) -> Iterator[tuple[WatchedConsumer, WatchedConsumer]]:
    """The monitor's and the validator's consumer of a topic's partition 0."""
    monitor, validator = (WatchedConsumer(broker, view, topic) for view in (View.MONITOR, View.VALIDATOR))
    with monitor, validator:
        yield monitor, validator
