"""The daemon's readers and its aggregator in the test's own process, stepped by hand, against a real broker.

Everything is what ships: readers, lines, ledger, the wiring of `daemon`; only the processes and the event loop are left
out, so a test decides what works when (`until`, `drain`) and looks into the ledger instead of asking over HTTP.
"""

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.harness import waiting
from tests.harness.kafka import high_watermark, last_stable_offset
from tests.harness.manual_loop import ManualLoop
from txninsightd import clock
from txninsightd.aggregate.aggregator import Aggregator
from txninsightd.aggregate.assembly import make_figures, make_ledger
from txninsightd.config import Config, Topic
from txninsightd.config.model import DiscoveryConfig, KafkaConfig
from txninsightd.core.events import Event
from txninsightd.core.facts import Fact, PartitionsFound
from txninsightd.core.pipeline import Pipeline
from txninsightd.core.sinks import Sink
from txninsightd.core.topics import Incarnation
from txninsightd.daemon import SCOUT, reader_roles
from txninsightd.reader_process import make_reader
from txninsightd.supervise.channel import Channel, descriptor_pair
from txninsightd.tools.stack.broker import Broker
from txninsightd.vocabulary import PartitionRef, PartitionStart, Pause, Verdict, View


def config_for(broker: Broker, *topics: str | Topic, **sections: Any) -> Config:
    """A config that reads these topics of the broker and looks for new ones often."""
    named = tuple(each if isinstance(each, Topic) else Topic(name=each) for each in topics)
    kafka = KafkaConfig({"bootstrap.servers": broker.bootstrap})
    return Config(kafka=kafka, topics=named, **{"discovery": DiscoveryConfig(every_s=0.2), **sections})


class LastBeat:
    """What a reader's loop last reported of itself."""

    def __init__(self) -> None:
        self.paused = False

    def beat(self, queue_depth: int, paused: bool) -> None:
        self.paused = paused

    def working(self) -> None:
        pass


class Work:
    """One reader at work. `line`: its end of the line to the aggregator; `orders`: the other end."""

    def __init__(self, config: Config, view: View) -> None:
        ours, theirs = descriptor_pair()
        self.line, self.orders = Channel(theirs), Channel(ours)
        self.health = LastBeat()
        self.reader = make_reader(config, view, view is View.MONITOR, self.line, self.health, clock.now)

    @property
    def paused(self) -> bool:
        """Whether the reader takes no records, since its line is full."""
        return self.health.paused

    def narrow_the_line(self) -> None:
        """Let the line to the aggregator take little before it is full."""
        with socket.socket(fileno=os.dup(self.line.fileno())) as end:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    def close(self) -> None:
        """End as a kill would: what was not sent is lost."""
        self.line.close()
        self.reader.run(stopping=lambda: True)


class InProcess:
    """Readers attach with `start`. `starts`: partitions that are known already, as from a checkpoint."""

    def __init__(self, broker: Broker, config: Config, starts: list[PartitionStart]) -> None:
        self.broker = broker
        self.config = config
        self.work: dict[View, Work] = {}
        self.loop = ManualLoop()
        self.ledger = make_ledger(config, clock.now())
        for found in starts:
            self.ledger.topics.incarnations[found.topic] = Incarnation(found.topic_id, 0)
            partition = self.ledger.add_partition(PartitionRef(found.topic, found.partition), found.start_offset)
            partition.topic_id = found.topic_id
        self._starts = Starts()
        pipeline = Pipeline(self.ledger, make_figures(config), [self._starts])
        roles, every_s = reader_roles(config), config.discovery.every_s
        self.aggregator = Aggregator(pipeline, self.loop, roles, SCOUT, clock.now, every_s)

    # --- Work ---------------------------------------------------------------------------------------------------------

    def start(self, *views: View) -> None:
        """Start these readers; the aggregator tells them what to read."""
        for view in views:
            self.work[view] = Work(self.config, view)
            self.aggregator.attach(f"{view}-0", self.work[view].orders)

    def stop(self, view: View) -> None:
        """End a reader as a kill would: what it had not sent is lost; its line is drained."""
        self.work.pop(view).close()
        self.drain()

    def pause(self, view: View, ref: PartitionRef, paused: bool) -> None:
        """Tell a reader, as the aggregator does, to pause a partition or to resume it, and let it obey."""
        self.work[view].orders.send(Pause(ref.topic, ref.partition, paused))
        self.work[view].reader.step()

    def drain(self) -> None:
        """Let the aggregator apply what has arrived."""
        self.loop.run_once()
        self.aggregator.tick()

    def until(
        self, condition: Callable[[], object], what: str = "what the test waits for", drains: bool = True
    ) -> None:
        """Let all readers work until the condition holds, and the aggregator too unless `drains` is False."""
        for _ in waiting.until(condition, what, output=self.aggregator.missing):
            for work in self.work.values():
                work.reader.step()
            if drains:
                self.drain()

    def until_decided(self, *topics: str) -> None:
        """Work until each record below the present last stable offset of the topics has a verdict."""
        self.until(lambda: self.found(*topics), "the partitions")
        ends = {ref: last_stable_offset(self.broker, ref) for ref in self.refs(*topics)}
        partitions = self.ledger.partitions
        self.until(lambda: all(partitions[p].decided_offset >= ends[p] for p in ends), f"a verdict up to {ends}")

    def until_read(self, *topics: str) -> None:
        """Work until the monitor has read all that is in the topics now."""
        self.until(lambda: self.found(*topics), "the partitions")
        ends = {p: high_watermark(self.broker, p) for p in self.refs(*topics)}
        partitions = self.ledger.partitions
        self.until(lambda: all(partitions[p].monitor_offset >= ends[p] for p in ends), f"a monitor that is at {ends}")

    def until_missing(self, text: str) -> None:
        """Work until the daemon names this among the reasons why it is not ready."""
        self.until(lambda: any(text in each for each in self.aggregator.missing()), text)

    # --- What it knows ------------------------------------------------------------------------------------------------

    def found(self, *topics: str) -> bool:
        """Whether some partition of each topic is known."""
        return {ref.topic for ref in self.refs(*topics)} >= set(topics)

    def refs(self, *topics: str) -> list[PartitionRef]:
        """The partitions of these topics that are known and were not deleted."""
        return [ref for ref, p in self.ledger.partitions.items() if ref.topic in topics and not p.void]

    def events(self, txn_id: str) -> list[Event]:
        """The events that the ledger holds of a transaction, in order of arrival; none when it is not live."""
        txn = self.ledger.live.get(txn_id)
        return list(txn.events) if txn is not None else []

    def verdicts(self, *txn_ids: str) -> dict[int, Verdict]:
        """By offset, the ledger's verdicts on the events of these live transactions."""
        lives = [self.ledger.life(self.ledger.live[txn_id]) for txn_id in txn_ids]
        return {judged.event.offset: judged.verdict for life in lives for judged in life}

    def counted(self, view: View, topic: str) -> dict[str, int]:
        """How many records of a topic were counted in a view, by result."""
        records = self.aggregator.figures.records
        return {result: count for (of, named, result), count in records.items() if (of, named) == (view.value, topic)}

    @property
    def started(self) -> dict[PartitionRef, int]:
        """Where each partition that was found begins."""
        return self._starts.offsets


class Starts(Sink):
    """Notes where each partition begins."""

    def __init__(self) -> None:
        self.offsets: dict[PartitionRef, int] = {}

    def take(self, facts: Sequence[Fact], now: float) -> None:
        for fact in facts:
            if isinstance(fact, PartitionsFound):
                for start in fact.starts:
                    self.offsets[PartitionRef(start.topic, start.partition, start.incarnation)] = start.start_offset


@contextmanager
def daemon_in_process(
    broker: Broker, config: Config, *views: View, starts: Iterable[PartitionStart] = ()
) -> Iterator[InProcess]:
    """The daemon with these readers (none named: both) at work; stopped at the end."""
    running = InProcess(broker, config, list(starts))
    try:
        running.start(*(views or View))
        yield running
    finally:
        for work in running.work.values():
            work.close()
