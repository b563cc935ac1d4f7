"""What the aggregator tells readers to read, and when."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.harness.core.by_hand import B_RECREATED, OPEN, A, B, cover, discover, ev, sight
from tests.harness.gated_store import GatedStore
from tests.harness.manual_loop import ManualLoop
from txninsightd.aggregate import aggregator as aggregator_module
from txninsightd.aggregate.aggregator import Aggregator
from txninsightd.aggregate.assembly import make_pipeline
from txninsightd.aggregate.wall_time import WallTime
from txninsightd.config import Config
from txninsightd.core.portions import DECIDED_A_PORTION
from txninsightd.daemon import SCOUT, reader_roles
from txninsightd.supervise.channel import Channel, descriptor_pair
from txninsightd.vocabulary import Assign, Coverage, Discovery, PartitionStart, Pause, ToReader, UpdateReaderSettings

HANG_GUARD_S = 60.0


def attached(aggregator: Aggregator, child: str) -> Channel:
    """A new child of this name; gives the child's end of its line."""
    ours, theirs = descriptor_pair()
    aggregator.attach(child, Channel(ours))
    return Channel(theirs)


@pytest.mark.parametrize(
    ("and_then", "paused"), [([], True), ([discover(3.0, B_RECREATED, found=()), discover(4.0, B_RECREATED)], False)]
)
def test_a_new_validator_is_told_what_is_held_but_not_what_was_of_a_deleted_topic(
    monkeypatch: pytest.MonkeyPatch, and_then: list[Discovery], paused: bool
) -> None:
    monkeypatch.setattr(aggregator_module, "MOST_WAITING_RUNS", 3)

    loop, pipeline = ManualLoop(), make_pipeline(Config(), 0.0)
    aggregator = Aggregator(pipeline, loop, reader_roles(Config()), SCOUT, lambda: 100.0, 1.0)
    former = attached(aggregator, "validator-0")
    ahead = [cover(B, i, i + 1, [i], 2.0) for i in range(4)]
    messages: list[Discovery | Coverage] = [discover(1.0, B), *ahead, *and_then]
    for message in messages:
        former.send(message)
    loop.run_once()
    decode = msgspec.msgpack.Decoder(ToReader).decode
    told: list[Any] = [decode(frame) for frame in attached(aggregator, "validator-0").receive()]
    assert [message for message in told if isinstance(message, Pause)] == [Pause("b", 0, True)] * paused
    assert len(told) == 1 + paused


def test_a_child_that_is_no_reader_is_heard_and_assigned_nothing() -> None:
    loop, pipeline = ManualLoop(), make_pipeline(Config(), 0.0)
    aggregator = Aggregator(pipeline, loop, reader_roles(Config()), SCOUT, lambda: 100.0, 1.0)
    collector = attached(aggregator, "collector-0")
    collector.send(discover(1.0, B, A))
    loop.run_once()
    assert len(aggregator.ledger.partitions) == 2
    aggregator.update_settings(UpdateReaderSettings("info", "json", 1, 1, 1, 1.0))
    assert collector.receive() == []


def test_a_message_that_decides_much_holds_up_nothing(tmp_path: Path) -> None:
    count = 60 * DECIDED_A_PORTION

    async def main() -> None:
        loop = asyncio.get_running_loop()
        pipeline = make_pipeline(Config(), 0.0)
        aggregator = Aggregator(pipeline, loop, reader_roles(Config()), SCOUT, loop.time, 1.0)
        monitor, validator = attached(aggregator, "monitor-0"), attached(aggregator, "validator-0")
        monitor.send(discover(1.0, A))
        for low in range(0, count, 5000):
            monitor.send(sight(A, low + 5000, *(ev(o, OPEN, 100, f"t{o}") for o in range(low, low + 5000))))
            await turns_until(lambda upto=low + 5000: len(pipeline.ledger.live) == upto, monitor.flush)
        validator.send(cover(A, 0, count, [], 105))
        state = pipeline.ledger.partitions[A]
        turns = await turns_until(lambda: state.undecided_records() < count)
        # The loop comes round, and another line is heard, while the rest of that message waits.
        monitor.send(discover(2.0, A, B))
        turns = await turns_until(lambda: B in pipeline.ledger.partitions)
        assert turns > 0
        assert state.undecided_records() > 0
        await turns_until(lambda: not state.undecided_records())
        gauges = pipeline.figures.gauges
        await turns_until(lambda: gauges.live == {("unspecified", "aborted"): count})

    asyncio.run(asyncio.wait_for(main(), HANG_GUARD_S))


def test_a_clock_that_is_stepped_between_two_portions_gives_each_its_own_time() -> None:
    """A step is followed between two turns of the loop, and the rest of a message is of the time after it."""
    count, ahead_s = 3 * DECIDED_A_PORTION, 0.0

    async def main() -> None:
        nonlocal ahead_s
        loop, followed_s = asyncio.get_running_loop(), 0.0

        def follow() -> float:
            nonlocal followed_s
            step_s, followed_s = ahead_s - followed_s, ahead_s
            return step_s

        wall_time = WallTime(follow, lambda: followed_s)
        pipeline = make_pipeline(Config(), 0.0)
        now = lambda: 100.0 + followed_s  # noqa: E731
        aggregator = Aggregator(pipeline, loop, reader_roles(Config()), SCOUT, now, 1.0, wall_time=wall_time)
        monitor, validator = attached(aggregator, "monitor-0"), attached(aggregator, "validator-0")
        monitor.send(discover(1.0, A))
        monitor.send(sight(A, count, *(ev(o, OPEN, 100, f"t{o}") for o in range(count))))
        await turns_until(lambda: len(pipeline.ledger.live) == count, monitor.flush)
        validator.send(cover(A, 0, count, [], 50.0))
        state = pipeline.ledger.partitions[A]
        await turns_until(lambda: state.undecided_records() < count)
        assert state.undecided_records() > 0
        ahead_s = -3600.0
        aggregator.tick()
        await turns_until(lambda: not state.undecided_records() and not pipeline.ledger.agenda)
        decided_at = {note.decided_at for txn in pipeline.ledger.live.values() for note in txn.notes.values()}
        assert decided_at == {50.0 - 3600.0}

    asyncio.run(asyncio.wait_for(main(), HANG_GUARD_S))


async def turns_until(condition: Callable[[], bool], in_each: Callable[[], None] = lambda: None) -> int:
    """Let the loop come round until the condition holds; gives how often it did."""
    turns = 0
    while not condition():
        in_each()
        turns += 1
        await asyncio.sleep(0)
    return turns


def test_what_a_dead_child_had_sent_is_applied_before_its_successor_is_heard() -> None:
    loop, pipeline = ManualLoop(), make_pipeline(Config(), 0.0)
    aggregator = Aggregator(pipeline, loop, reader_roles(Config()), SCOUT, lambda: 100.0, 1.0)
    former = attached(aggregator, "monitor-0")
    former.send(discover(1.0, A))
    former.send(sight(A, 1, ev(0, OPEN, 1.0)))
    former.close()
    told = [msgspec.msgpack.Decoder(ToReader).decode(f) for f in attached(aggregator, "monitor-0").receive()]
    (assigned,) = [message for message in told if isinstance(message, Assign)]
    assert [(start.topic, start.start_offset) for start in assigned.starts] == [("a", 1)]


def test_nothing_is_read_before_it_is_on_disk_where_it_was_begun(tmp_path: Path) -> None:
    async def main() -> None:
        store = GatedStore(tmp_path)
        loop = asyncio.get_running_loop()
        pipeline = make_pipeline(Config(), 0.0)
        aggregator = Aggregator(pipeline, loop, reader_roles(Config()), SCOUT, loop.time, 1.0, store)
        reader, monitor = attached(aggregator, "validator-0"), attached(aggregator, "monitor-0")
        for message in (discover(1.0, B), discover(2.0, B, found=())):
            monitor.send(message)
            while aggregator.ledger.watermark.discovered_at < message.asked_at:
                await asyncio.sleep(0)
            assert not reader.receive()
        store.open_gate()
        await aggregator.durable()
        assert reader.receive()

    asyncio.run(asyncio.wait_for(main(), HANG_GUARD_S))


def test_a_new_partition_is_seen_up_to_the_look_that_did_not_find_it_but_its_readers_have_seen_nothing() -> None:
    loop, pipeline = ManualLoop(), make_pipeline(Config(), 0.0)
    aggregator = Aggregator(pipeline, loop, reader_roles(Config()), SCOUT, lambda: 100.0, 1.0)
    monitor = attached(aggregator, "monitor-0")
    new = [PartitionStart("b", 0, 0, as_of=98.0, topic_id="b-0")]
    for message in (discover(98.0, A), Discovery(99.0, new, {"a": [0], "b": [0]}, [], {"a": "a-0", "b": "b-0"})):
        monitor.send(message)
        loop.run_once()
    partition = aggregator.ledger.partitions[B]
    assert (partition.monitor_as_of, partition.validator_as_of) == (98.0, 98.0)
    decode = msgspec.msgpack.Decoder(ToReader).decode
    assigned = [message for message in map(decode, monitor.receive()) if isinstance(message, Assign)]
    assert [(start.topic, start.as_of) for assign in assigned for start in assign.starts] == [("a", 0.0), ("b", 0.0)]
