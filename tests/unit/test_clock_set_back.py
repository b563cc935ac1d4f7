"""The wall clock is set far forward and back again: nothing is put off until that has passed."""

from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from tests.harness.core.by_hand import B, cover, discover
from tests.harness.manual_loop import ManualLoop
from tests.harness.waiting import until
from txninsightd.aggregate.aggregator import Aggregator
from txninsightd.aggregate.assembly import make_pipeline
from txninsightd.aggregate.wall_time import WallTime
from txninsightd.cluster.metadata_refresh import MetadataRefresh
from txninsightd.cluster.topic_ids import TopicIds
from txninsightd.config import Config
from txninsightd.daemon import SCOUT, reader_roles
from txninsightd.ingest.end_offset_client import EndOffsetClient
from txninsightd.ingest.end_offsets import EndOffsets
from txninsightd.ingest.topic_id_gate import TopicIdGate
from txninsightd.supervise.channel import Channel, descriptor_pair
from txninsightd.vocabulary import PartitionRef, Seen, SeenTopic, View

HOUR_S = 3600.0


class Clock:
    """Tells the time that it is set to."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time


class Admin:
    """Answers every question at once, if only with an error; counts them by name."""

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}

    def _answer(self, name: str, keys: Any) -> Any:
        self.asked[name] = self.asked.get(name, 0) + 1
        return dict.fromkeys(keys, _failed())

    def list_offsets(self, wanted: Any, **_: Any) -> Any:
        return self._answer("list_offsets", wanted)

    def describe_topics(self, wanted: Any, **_: Any) -> Any:
        return self._answer("describe_topics", ["b"])

    def list_topics(self, **_: Any) -> Any:
        return self._answer("list_topics", [])


def _refused() -> Any:
    raise KafkaException(KafkaError(KafkaError._TRANSPORT))


def _failed() -> "Future[Any]":
    failed: Future[Any] = Future()
    failed.set_exception(KafkaException(KafkaError(KafkaError._TIMED_OUT)))
    return failed


def await_refreshed(admin: Admin, metadata: MetadataRefresh, times: int) -> None:
    """Wait until the metadata was fetched so often; a call is lost while the fetch before it still ends."""
    for _ in until(lambda: admin.asked.get("list_topics") == times, f"{times} refreshes"):
        metadata.request()


def test_the_readers_go_on_asking() -> None:
    clock = Clock()
    admin: Any = Admin()
    metadata = MetadataRefresh(admin, clock.now)
    end_offsets = EndOffsets(EndOffsetClient(_refused, admin, metadata, View.MONITOR, clock.now), clock.now)
    topic_id_gate = TopicIdGate(TopicIds(admin), metadata, clock.now)
    topic_id_gate.buffer(cover(B, 0, 1, [0], 1.0))
    asked: list[dict[str, int]] = []
    for step_s in (0.0, HOUR_S, -HOUR_S):
        clock.time += step_s
        end_offsets.poll([PartitionRef("b", 0)])
        topic_id_gate.poll(None, [], at_once=False)
        for _ in until(lambda: end_offsets.poll([PartitionRef("b", 0)]), "the answer about the ends"):
            pass
        await_refreshed(admin, metadata, len(asked) + 1)
        asked.append(dict(admin.asked))
    assert [each["list_offsets"] for each in asked] == [1, 2, 3]
    assert [each["describe_topics"] for each in asked] == [1, 2, 3]


class Stepped:
    """The clock of an aggregator's process, whose wall clock the test steps."""

    def __init__(self) -> None:
        self.steady_s, self.ahead_s, self._followed_s = 1000.0, 0.0, 0.0

    def now(self) -> float:
        return self.steady_s + self._followed_s

    def follow(self) -> float:
        step_s, self._followed_s = self.ahead_s - self._followed_s, self.ahead_s
        return step_s

    def followed_s(self) -> float:
        return self._followed_s


def test_a_step_is_counted_and_what_readers_say_is_taken_as_it_is_from_then_on() -> None:
    clock, loop, (ours, theirs) = Stepped(), ManualLoop(), descriptor_pair()
    wall_time = WallTime(clock.follow, clock.followed_s)
    roles = reader_roles(Config())
    aggregator = Aggregator(make_pipeline(Config(), 0.0), loop, roles, SCOUT, clock.now, 1.0, wall_time=wall_time)
    reader = Channel(theirs)
    aggregator.attach("monitor-0", Channel(ours))
    for ahead_s in (0.0, HOUR_S, -HOUR_S, 0.0):
        clock.ahead_s = ahead_s
        # Sent before the step is noticed, read before or after: the moments are the same.
        reader.send(discover(clock.steady_s, B))
        aggregator.tick()
        loop.run_once()
        clock.steady_s += 1
        ref = PartitionRef("b", 0)
        topic = SeenTopic("b", 0, [0], [clock.steady_s], [0], [0], [])
        reader.send(Seen(View.MONITOR, [topic]))
        reader.send(Seen(View.VALIDATOR, [topic]))
        loop.run_once()
        aggregator.tick()
        partition = aggregator.ledger.partitions[ref]
        assert partition.monitor_as_of == partition.validator_as_of == clock.now()
        assert aggregator.ledger.watermark.discovered_at == clock.now() - 1
        clock.steady_s += 1
    assert aggregator.clock_steps == 3
    assert not [text for text in aggregator.missing() if "seen" in text]
