"""The readers on real records: what they count and flag, how they map, and that holding them back costs nothing."""

import json
from collections import Counter

import pytest

from tests.harness.fixtures import MakeTopic
from tests.harness.in_process import config_for, daemon_in_process
from tests.harness.kafka import TransactionalWriter, Writer
from txninsightd.config import Topic
from txninsightd.config.model import LimitsConfig
from txninsightd.tools.stack.broker import Broker
from txninsightd.vocabulary import (
    KEPT_TIME_HEADER,
    FromConst,
    FromHeader,
    FromKey,
    FromPath,
    Kind,
    Mapping,
    PartitionRef,
    Verdict,
    View,
)

Value = str | bytes | None

COMMITTED, ABORTED, PENDING = Verdict.COMMITTED, Verdict.ABORTED, Verdict.PENDING


def event(txn_id: str = "T", kind: str = "step_open", **fields: object) -> str:
    return json.dumps({"event": kind, "txn_id": txn_id, **fields})


# --- Records ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_counted_by_name_and_passed_over(broker: Broker, topic: MakeTopic) -> None:
    name, writer = topic(), Writer(broker)
    nested = b'{"a":' + b"[" * 90_000
    malformed: list[Value] = [b"", b"{", b"\xff\xfe", b'"text"', b"[]", nested, event(txn_id=""), event(ts="soon")]
    foreign: list[Value] = [None, b"{}", event(kind="greeting")]
    oversized = event(note="x" * 100_000)
    writer.write(name, event(), *malformed, *foreign, oversized, event())
    with daemon_in_process(broker, config_for(broker, name, limits=LimitsConfig(value_bytes=100_000))) as running:
        running.until_decided(name)
        counted = {"ok": 2, "malformed": len(malformed), "foreign": len(foreign), "oversized": 1}
        assert running.counted(View.MONITOR, name) == counted
        assert running.counted(View.VALIDATOR, name) == {"ok": sum(counted.values())}
        assert running.verdicts("T") == {0: COMMITTED, len(malformed) + len(foreign) + 2: COMMITTED}


def test_a_record_replayed_with_its_old_time_is_flagged_by_its_header(broker: Broker, topic: MakeTopic) -> None:
    name, writer = topic(), Writer(broker)
    writer.write(name, event("old", "transaction_open"), headers={KEPT_TIME_HEADER: b""})
    writer.write(name, event("new", "transaction_open"), headers={"other": b"1"})
    with daemon_in_process(broker, config_for(broker, name)) as running:
        running.until_decided(name)
        assert {txn_id: txn.replayed for txn_id, txn in running.ledger.live.items()} == {"old": True, "new": False}


def test_an_event_without_a_time_of_its_own_has_that_of_its_record(broker: Broker, topic: MakeTopic) -> None:
    name, writer = topic(), Writer(broker)
    writer.write(name, event(), event(ts=1_700_000_000.5), timestamp=1_750_000_000_250)
    with daemon_in_process(broker, config_for(broker, name)) as running:
        running.until_decided(name)
        assert [(e.ts, e.record_ts) for e in running.events("T")] == [
            (1_750_000_000.25, 1_750_000_000.25),
            (1_700_000_000.5, 1_750_000_000.25),
        ]


def test_other_peoples_records_are_read_as_their_mapping_says(broker: Broker, topic: MakeTopic) -> None:
    created, paid = topic(name="orders.created"), topic(name="payments")
    by_key = Mapping(event=FromConst("transaction_open"), txn_id=FromKey(), txn_type=FromConst("order"), ts_unit="ms")
    by_header = Mapping(
        event=FromPath(("meta", "what")),
        txn_id=FromHeader("order-id"),
        step=FromConst("pay"),
        kinds={"began": Kind.STEP_OPEN, "ended": Kind.STEP_DONE},
    )
    writer = Writer(broker)
    writer.write(created, '{"ts": 1700000000500}', key="o-1")
    writer.write(created, '{"ts": 1700000000500}')
    writer.write(created, '{"ts": 1700000000500}', key=b"\xff")
    writer.write(paid, '{"meta": {"what": "began"}}', '{"meta": {"what": "ended"}}', headers={"order-id": b"o-1"})
    writer.write(paid, '{"meta": {"what": "began"}}')
    topics = (Topic(name=created, mapping=by_key), Topic(name=paid, mapping=by_header))
    with daemon_in_process(broker, config_for(broker, *topics)) as running:
        running.until_decided(created, paid)
        found = [(e.signature.kind, e.signature.step, e.signature.txn_type) for e in running.events("o-1")]
        assert sorted(found, key=str) == [
            (Kind.TRANSACTION_OPEN, None, "order"),
            (Kind.STEP_OPEN, "pay", None),
            (Kind.STEP_DONE, "pay", None),
        ]
        assert min(e.ts for e in running.events("o-1")) == 1_700_000_000.5
        assert running.counted(View.MONITOR, created) == {"ok": 1, "malformed": 2}
        assert running.counted(View.MONITOR, paid) == {"ok": 2, "malformed": 1}


def test_both_views_pass_control_records_and_judge_as_transactions_end(broker: Broker, topic: MakeTopic) -> None:
    name, producer = topic(), TransactionalWriter(broker)
    with daemon_in_process(broker, config_for(broker, name)) as running:
        producer.committed(name, event(), event())
        producer.aborted(name, event())
        producer.begin()
        producer.write(name, event())
        running.until_read(name)
        running.until_decided(name)
        assert running.verdicts("T") == {0: COMMITTED, 1: COMMITTED, 3: ABORTED, 5: PENDING}
        producer.abort()
        running.until_decided(name)
        assert running.verdicts("T")[5] is ABORTED
        partition = running.ledger.partitions[PartitionRef(name, 0)]
        assert (partition.monitor_offset, partition.validator_offset) == (7, 7)
        running.until(lambda: partition.both_as_of > 0, "a moment up to which both views have seen all")


# --- Holding back -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", View)
def test_a_reader_whose_queue_is_full_pauses_and_loses_nothing(broker: Broker, topic: MakeTopic, view: View) -> None:
    name, writer = topic(2), Writer(broker, **{"linger.ms": 20})
    limits = LimitsConfig(queue_batches=2, batch_records=20)
    with daemon_in_process(broker, config_for(broker, name, limits=limits)) as running:
        running.until_decided(name)
        running.work[view].narrow_the_line()
        for partition in (0, 1):
            writer.write(name, *[event()] * 3000, partition=partition)
        running.until(lambda: running.work[view].paused, "a pause", drains=False)
        assert running.ledger.live == {}
        running.until_decided(name)
        running.until(lambda: not running.work[view].paused, "the end of the pause")
        seen = Counter((e.ref.partition, e.offset) for e in running.events("T"))
        assert seen == {(partition, offset): 1 for partition in (0, 1) for offset in range(3000)}
        for each in View:
            assert running.counted(each, name) == {"ok": 6000}


def test_a_partition_that_is_held_back_waits_alone_and_loses_nothing(broker: Broker, topic: MakeTopic) -> None:
    name, producer = topic(2), TransactionalWriter(broker)
    with daemon_in_process(broker, config_for(broker, name)) as running:
        running.until_decided(name)
        running.pause(View.VALIDATOR, PartitionRef(name, 0), True)
        for partition in (0, 1):
            producer.committed(name, *[event(f"T{partition}")] * 3, partition=partition)
            producer.aborted(name, *[event(f"T{partition}")] * 2, partition=partition)
        running.until_read(name)
        decided = running.ledger.partitions[PartitionRef(name, 1)]
        running.until(lambda: decided.decided_offset == 7, "a verdict in the partition beside")
        assert set(running.verdicts("T0").values()) == {PENDING}
        running.pause(View.VALIDATOR, PartitionRef(name, 0), False)
        running.until_decided(name)
        for txn_id in ("T0", "T1"):
            assert running.verdicts(txn_id) == {0: COMMITTED, 1: COMMITTED, 2: COMMITTED, 4: ABORTED, 5: ABORTED}
        assert running.counted(View.VALIDATOR, name) == {"ok": 6}


def test_a_reader_begun_anew_goes_on_where_it_was_applied(broker: Broker, topic: MakeTopic) -> None:
    name, writer = topic(), Writer(broker)
    writer.write(name, *[event()] * 100)
    with daemon_in_process(broker, config_for(broker, name)) as running:
        for view in View:
            running.until_decided(name)
            running.stop(view)
            writer.write(name, *[event()] * 50)
            running.start(view)
        running.until_decided(name)
        assert Counter(e.offset for e in running.events("T")) == dict.fromkeys(range(200), 1)
        assert set(running.verdicts("T").values()) == {COMMITTED}
        for view in View:
            assert running.counted(view, name) == {"ok": 200}
