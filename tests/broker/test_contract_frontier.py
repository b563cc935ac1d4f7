"""What the verdicts rest on: which offsets a read_committed consumer hands out, and how far it says it has come.

A record that the monitor saw is committed if it was delivered to the validator, and aborted if it was not and lies
below the validator's frontier, max(position, last end of partition). Each test pins one property of the broker and the
client without which that rule would be wrong (docs/verdicts.md says why).
"""

import random
from bisect import bisect_left
from typing import Any

import pytest

from tests.harness.fixtures import MakeTopic
from tests.harness.kafka import QUIET, TransactionalWriter, Writer, high_watermark, last_stable_offset
from tests.harness.oracle import read_logs
from tests.harness.waiting import HANG_GUARD_S
from tests.harness.watched_consumer import NEVER_READ, WatchedConsumer, both_views, end, records
from txninsightd import clock
from txninsightd.cluster import client_settings
from txninsightd.ingest.consumer_settings import asking_settings, consumer_factory
from txninsightd.ingest.end_offset_client import EndOffsetClient
from txninsightd.tools.stack.broker import Broker
from txninsightd.vocabulary import PartitionRef, Verdict, View


def test_the_end_event_carries_the_last_stable_offset_also_behind_aborted_records_alone(
    broker: Broker, topic: MakeTopic
) -> None:
    name, producer = topic(), TransactionalWriter(broker)
    with both_views(broker, name) as (monitor, validator):
        assert validator.until_end(0) == monitor.until_end(0) == end(0)
        producer.begin()
        producer.write(name, "a", "b")
        assert monitor.until_end(2) == [*records(0, 1), *end(2)]
        assert validator.after_fetches() == []
        producer.abort()
        assert monitor.until_end(3) == end(3)
        assert validator.until_end(3) == end(3)
        assert monitor.position == validator.position == 3


def test_a_plain_record_behind_an_open_transaction_waits_for_it(broker: Broker, topic: MakeTopic) -> None:
    name, producer = topic(), TransactionalWriter(broker)
    with both_views(broker, name) as (monitor, validator):
        producer.begin()
        producer.write(name, "open")
        Writer(broker).write(name, "behind it")
        assert monitor.until_end(2)[-3:] == [*records(0, 1), *end(2)]
        assert validator.until_end(0) == end(0)
        assert validator.after_fetches() == []
        assert validator.frontier == 0
        producer.abort()
        assert validator.until_end(3) == [*records(1), *end(3)]


def test_the_end_event_comes_once_for_each_new_end_behind_the_records_before_it(
    broker: Broker, topic: MakeTopic
) -> None:
    name, producer = topic(), TransactionalWriter(broker)
    with both_views(broker, name) as (monitor, validator):
        for consumer in (monitor, validator):
            consumer.until_end(0)
        for first in (0, 3, 6):
            producer.committed(name, "x", "y")
            assert validator.until_end(first + 3) == [*records(first, first + 1), *end(first + 3)]
            monitor.until_end(first + 3)
        for consumer in (monitor, validator):
            assert consumer.after_fetches() == []


def test_position_is_unknown_until_the_first_record_and_no_end_event_moves_it(broker: Broker, topic: MakeTopic) -> None:
    name, producer = topic(), TransactionalWriter(broker)
    with both_views(broker, name) as (_, validator):
        validator.until_end(0)
        assert validator.position == NEVER_READ
        producer.begin()
        producer.write(name, "open")
        validator.after_fetches()
        assert validator.position == NEVER_READ
        producer.commit()
        validator.until_end(2)
        assert validator.position == 2
        producer.begin()
        producer.write(name, "open")
        validator.after_fetches()
        assert validator.position == 2
        producer.abort()


def test_position_counts_control_records_where_no_end_event_does(broker: Broker, topic: MakeTopic) -> None:
    """A partition that never idles has no end events: there the delivered records and markers move the position."""
    name, producer = topic(), TransactionalWriter(broker)
    producer.committed(name, "0", "1")
    producer.aborted(name, "3", "4")
    producer.committed(name, "6")
    with WatchedConsumer(broker, View.VALIDATOR, name) as validator:
        passed = []
        while len(validator.delivered) < 3:
            passed += [(s.offset, validator.position) for s in validator.take(1)]
        assert [offset for offset, _ in passed] == [0, 1, 6]
        assert [position for _, position in passed] == [1, 2, 7]
        assert validator.until_end(8) == end(8)
        assert validator.position == 8


def test_a_consumer_assigned_beyond_the_last_stable_offset_passes_nothing_before_it_is_decided(
    broker: Broker, topic: MakeTopic
) -> None:
    name, producer = topic(), TransactionalWriter(broker)
    producer.begin()
    producer.write(name, "0", "1", "2")
    with WatchedConsumer(broker, View.VALIDATOR, name, start=2) as validator:
        assert validator.after_fetches() == []
        producer.commit()
        assert validator.until_end(4) == [*records(2), *end(4)]


def test_cached_watermarks_are_the_high_one_in_both_views_and_asked_ones_are_each_views_own(
    broker: Broker, topic: MakeTopic
) -> None:
    name, producer = topic(), TransactionalWriter(broker)
    producer.committed(name, "0")
    producer.begin()
    producer.write(name, "2", "3")
    with both_views(broker, name) as (monitor, validator):
        monitor.until_end(4)
        validator.until_end(2)
        ends = {
            (consumer, cached): consumer.consumer.get_watermark_offsets(consumer.partition, HANG_GUARD_S, cached)
            for consumer in (monitor, validator)
            for cached in (True, False)
        }
        assert ends[monitor, True] == ends[validator, True] == (0, 4)
        assert ends[monitor, False] == (0, 4)
        assert ends[validator, False] == (0, 2)
    producer.abort()


def test_list_offsets_gives_the_last_stable_offset_to_a_question_for_committed_records(
    broker: Broker, topic: MakeTopic
) -> None:
    name, producer = topic(), TransactionalWriter(broker)
    producer.committed(name, "0")
    producer.begin()
    producer.write(name, "2", "3")
    assert last_stable_offset(broker, PartitionRef(name, 0)) == 2
    assert high_watermark(broker, PartitionRef(name, 0)) == 4
    producer.abort()
    assert last_stable_offset(broker, PartitionRef(name, 0)) == 5


def test_a_consumer_that_is_asked_for_a_time_before_all_gives_the_same_ends(broker: Broker, topic: MakeTopic) -> None:
    """The readers ask so, since it is cheap. No admin client is at hand here, so the consumer has answered."""
    name, writer, no_admin = topic(2), TransactionalWriter(broker), Any
    writer.committed(name, "a")
    writer.begin()
    writer.write(name, "b", "c")
    ends: dict[View, list[int | None]] = {}
    for view in View:
        settings = asking_settings(client_settings.client_settings({"bootstrap.servers": broker.bootstrap}), view)
        client = EndOffsetClient(consumer_factory(settings, QUIET), no_admin, no_admin, view, clock.now)
        ends[view] = [end.offset for end in client.ask([PartitionRef(name, 0), PartitionRef(name, 1)])]
    assert ends == {View.MONITOR: [4, 0], View.VALIDATOR: [2, 0]}
    writer.abort()


def test_the_statistics_know_the_last_stable_offset_in_a_committed_view_only(broker: Broker, topic: MakeTopic) -> None:
    name, producer = topic(), TransactionalWriter(broker)
    producer.committed(name, "0")
    producer.begin()
    producer.write(name, "2")
    with both_views(broker, name) as (monitor, validator):
        ends = []
        for consumer in (monitor, validator):
            consumer.until_end(2)
            consumer.after_fetches()
            ends.append(consumer.statistics["topics"][name]["partitions"]["0"]["ls_offset"])
        assert ends == [3, 2]
    producer.abort()


def test_this_client_is_safe_and_an_older_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    client_settings.require_safe_client()
    monkeypatch.setattr(client_settings, "libversion", lambda: ("2.13.0", 0x020D00FF))
    with pytest.raises(client_settings.UnusableClient, match=r"2\.13\.0.*install confluent-kafka >= 2\.13\.2"):
        client_settings.require_safe_client()


# --- The rule as a whole ----------------------------------------------------------------------------------------------


def test_judged_by_the_frontier_every_record_is_what_kafkas_own_log_dump_says(broker: Broker, topic: MakeTopic) -> None:
    """A few thousand records of five interleaved producers, read in batches of several sizes."""
    name = topic()
    fill(broker, name, random.Random(7))
    [log] = read_logs(broker, [name])
    truth = log.verdicts()
    decided_end = last_stable_offset(broker, PartitionRef(name, 0))
    assert len(truth) > 2000
    assert set(truth.values()) == {Verdict.COMMITTED, Verdict.ABORTED, Verdict.PENDING}
    assert truth[decided_end] is Verdict.PENDING
    with WatchedConsumer(broker, View.MONITOR, name) as monitor:
        monitor.until_end(high_watermark(broker, PartitionRef(name, 0)))
        sighted = monitor.delivered
    assert sighted == list(truth)
    for batch_records in (1, 17, 10_000):
        with WatchedConsumer(broker, View.VALIDATOR, name) as validator:
            judged: dict[int, Verdict] = {}
            while validator.frontier < decided_end:
                validator.take(batch_records)
                judged |= judge(sighted, set(validator.delivered), len(judged), validator.frontier)
            assert judged == {offset: verdict for offset, verdict in truth.items() if offset < decided_end}


def judge(sighted: list[int], delivered: set[int], judged: int, frontier: int) -> dict[int, Verdict]:
    """The verdicts of the sightings below the frontier, but for the first `judged` of them, given before."""
    news = {}
    for offset in sighted[judged : bisect_left(sighted, frontier)]:
        news[offset] = Verdict.COMMITTED if offset in delivered else Verdict.ABORTED
    return news


def fill(broker: Broker, topic: str, dice: random.Random) -> None:
    """Transactions of four producers with four compressions, a plain producer between them; one is left hanging."""
    codecs = ("none", "gzip", "lz4", "zstd")
    writes_left = {TransactionalWriter(broker, **{"compression.type": codec}): 0 for codec in codecs}
    other = Writer(broker, **{"compression.type": "snappy"})
    for i in range(250):
        values = [f"{i}-{j}" for j in range(dice.randint(1, 25))]
        writer = dice.choice([*writes_left, other])
        if not isinstance(writer, TransactionalWriter):
            writer.write(topic, *values)
            continue
        if not writes_left[writer]:
            writer.begin()
            writes_left[writer] = dice.randint(1, 6)
        writer.write(topic, *values)
        writes_left[writer] -= 1
        if not writes_left[writer]:
            (writer.abort if dice.random() < 0.2 else writer.commit)(awaits_markers=False)
    for writer in writes_left:
        if not writes_left[writer]:
            writer.begin()
        writer.write(topic, "in its last transaction")
    hanging, *others = writes_left
    for writer in others:
        writer.commit()
    other.write(topic, f"waits behind {hanging}")
