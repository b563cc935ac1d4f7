"""What was lost before a view could read it, by retention or by damage, is a gap: told, counted, judged unknown.

First the client's part (an error, where it would else skip in silence), then the reader's, on the real broker.
"""

import json
from collections import Counter

import pytest
from confluent_kafka import TopicPartition

from tests.harness.fixtures import MakeTopic
from tests.harness.in_process import InProcess, config_for, daemon_in_process
from tests.harness.kafka import (
    TransactionalWriter,
    Writer,
    ask_until,
    damage,
    delete_before,
    eager_cleaner,
    segment_bytes,
)
from tests.harness.waiting import HANG_GUARD_S
from tests.harness.watched_consumer import Seen, WatchedConsumer, records
from txninsightd.tools.stack.broker import Broker
from txninsightd.vocabulary import PartitionRef, PartitionStart, Verdict, View

COMMITTED, ABORTED, UNKNOWN = Verdict.COMMITTED, Verdict.ABORTED, Verdict.UNKNOWN


def steps(count: int, txn_id: str = "T") -> list[str]:
    """Events of one transaction that stays open."""
    return [json.dumps({"event": "step_open", "txn_id": txn_id, "step": "pay"}) for _ in range(count)]


def sighted(running: InProcess, txn_id: str = "T") -> Counter[int]:
    """How often the ledger holds each offset of a transaction."""
    return Counter(event.offset for event in running.events(txn_id))


# --- The client's part ------------------------------------------------------------------------------------------------


def test_what_retention_took_is_an_error_where_earliest_would_skip_it_in_silence(
    broker: Broker, topic: MakeTopic
) -> None:
    name = topic()
    Writer(broker).write(name, *"abcdef")
    delete_before(broker, name, 4)
    with WatchedConsumer(broker, View.VALIDATOR, name, 1) as shipped:
        assert shipped.until(lambda: shipped.seen) == [Seen("_AUTO_OFFSET_RESET", 1)]
        assert shipped.consumer.get_watermark_offsets(shipped.partition, HANG_GUARD_S) == (4, 6)
        shipped.consumer.incremental_unassign([shipped.partition])
        shipped.consumer.incremental_assign([TopicPartition(name, 0, 4)])
        assert shipped.until_end(6)[:2] == records(4, 5)
    with WatchedConsumer(broker, View.VALIDATOR, name, 1, reset="earliest") as careless:
        assert careless.until_end(6)[:2] == records(4, 5)


def test_what_compaction_removed_looks_as_if_it_had_been_aborted(broker: Broker, topic: MakeTopic) -> None:
    """Which is why compacted topics are refused."""
    at_once = {"segment.ms": "1", "min.cleanable.dirty.ratio": "0.0", "max.compaction.lag.ms": "1"}
    name, writer = topic(config={"cleanup.policy": "compact", **at_once}), Writer(broker)
    for value in "abcd":
        writer.write(name, value, key="k")
    with eager_cleaner(broker):
        ask_until(lambda: 0 not in delivered_below(broker, name, 4), "a cleaned log")


def delivered_below(broker: Broker, topic: str, frontier: int) -> list[int]:
    """What a validator that begins at 0 was handed out when it had come this far."""
    with WatchedConsumer(broker, View.VALIDATOR, topic) as validator:
        validator.until(lambda: validator.frontier >= frontier)
        return validator.delivered


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_a_damaged_batch_is_an_error_that_comes_again_and_the_position_stays_before_it(
    broker: Broker, topic: MakeTopic, codec: str
) -> None:
    name, producer = topic(), Writer(broker, **{"compression.type": codec, "linger.ms": 50})
    producer.write(name, *steps(3))
    at = segment_bytes(broker, name)
    producer.write(name, *steps(5))
    damage(broker, name, at)
    with WatchedConsumer(broker, View.MONITOR, name) as monitor:
        monitor.until(lambda: [s.what for s in monitor.seen].count("_BAD_MSG") >= 2)
        assert monitor.delivered == [0, 1, 2]
        assert monitor.position == 3


# --- The reader's part ------------------------------------------------------------------------------------------------


def test_what_retention_took_from_the_validator_is_unknown_never_aborted(broker: Broker, topic: MakeTopic) -> None:
    name, producer = topic(), TransactionalWriter(broker)
    producer.committed(name, *steps(2))
    producer.aborted(name, *steps(2))
    producer.committed(name, *steps(2))
    producer.aborted(name, *steps(1))
    with daemon_in_process(broker, config_for(broker, name), View.MONITOR) as running:
        running.until_read(name)
        delete_before(broker, name, 7)
        running.start(View.VALIDATOR)
        running.until_decided(name)
        assert running.verdicts("T") == {
            **dict.fromkeys((0, 1, 3, 4, 6), UNKNOWN),  # gone, whatever became of them
            7: COMMITTED,
            9: ABORTED,
        }
        assert running.counted(View.VALIDATOR, name) == {"gap": 7, "ok": 1}


def test_what_retention_took_from_the_monitor_is_counted_and_reading_goes_on(broker: Broker, topic: MakeTopic) -> None:
    name, producer = topic(), TransactionalWriter(broker)
    producer.committed(name, *steps(6))
    producer.aborted(name, *steps(1))
    delete_before(broker, name, 4)
    with daemon_in_process(broker, config_for(broker, name), starts=[PartitionStart(name, 0, 0)]) as running:
        running.until_decided(name)
        assert running.counted(View.MONITOR, name) == {"gap": 4, "ok": 3}
        assert running.verdicts("T") == {4: COMMITTED, 5: COMMITTED, 7: ABORTED}


def test_retention_overtakes_a_view_that_is_held(broker: Broker, topic: MakeTopic) -> None:
    name, producer = topic(), Writer(broker)
    producer.write(name, *steps(3))
    with daemon_in_process(broker, config_for(broker, name)) as running:
        running.until_decided(name)
        running.pause(View.VALIDATOR, PartitionRef(name, 0), True)
        producer.write(name, *steps(5))
        running.until_read(name)
        delete_before(broker, name, 6)
        running.pause(View.VALIDATOR, PartitionRef(name, 0), False)
        running.until_decided(name)
        assert running.verdicts("T") == {
            **dict.fromkeys((0, 1, 2, 6, 7), COMMITTED),
            **dict.fromkeys((3, 4, 5), UNKNOWN),
        }


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_a_damaged_batch_is_stepped_over_and_nothing_is_sighted_twice_or_called_aborted(
    broker: Broker, topic: MakeTopic, codec: str
) -> None:
    name, producer = topic(), TransactionalWriter(broker, **{"compression.type": codec, "linger.ms": 50})
    producer.committed(name, *steps(10))
    at = segment_bytes(broker, name)
    producer.begin()
    producer.write(name, *steps(4))
    damage(broker, name, at)
    producer.commit()
    producer.committed(name, *steps(100))
    with daemon_in_process(broker, config_for(broker, name)) as running:
        running.until_decided(name)
        seen, verdicts = sighted(running), running.verdicts("T")
        assert set(seen.values()) == {1}
        assert set(range(10)) <= set(seen)
        assert {115, 114, 113} <= set(seen)
        assert not {11, 12, 13, 14} & set(seen)
        assert {verdicts[offset] for offset in range(10)} == {COMMITTED}
        assert ABORTED not in verdicts.values()
        for view in View:
            counted = running.counted(view, name)
            assert counted["gap"] >= 4
            assert counted["ok"] + counted["gap"] <= 117
