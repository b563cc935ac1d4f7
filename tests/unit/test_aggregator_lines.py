"""What the aggregator tells readers to read, and when."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.core.by_hand import B_ANEW, A, B, cover, discover
from tests.unit.test_checkpoint import Gated
from txninsightd.aggregate import aggregator as aggregator_module
from txninsightd.aggregate.aggregator import Aggregator
from txninsightd.aggregate.assembly import make_pipeline
from txninsightd.config import Config
from txninsightd.daemon import SCOUT, reader_roles
from txninsightd.supervise.channel import Channel, descriptor_pair
from txninsightd.vocabulary import Coverage, Discovery, Pause, ToReader, UpdateReaderSettings

HANG_GUARD_S = 60.0


async def told_at_attaching(aggregator: Aggregator, child: str) -> list[Any]:
    ours, theirs = descriptor_pair()
    aggregator.attach(child, Channel(ours))
    decode = msgspec.msgpack.Decoder(ToReader).decode
    return [decode(frame) for frame in Channel(theirs).receive()]


@pytest.mark.parametrize(
    ("and_then", "paused"), [([], True), ([discover(3.0, B_ANEW, found=()), discover(4.0, B_ANEW)], False)]
)
def test_a_new_validator_is_told_what_is_held_but_not_what_was_of_a_deleted_topic(
    monkeypatch: pytest.MonkeyPatch, and_then: list[Discovery], paused: bool
) -> None:
    monkeypatch.setattr(aggregator_module, "MOST_WAITING_RUNS", 3)

    async def main() -> list[Any]:
        pipeline = make_pipeline(Config(), 0.0)
        aggregator = Aggregator(pipeline, asyncio.get_running_loop(), reader_roles(Config()), SCOUT, lambda: 100.0, 1.0)
        ahead = [cover(B, i, i + 1, [i], 2.0) for i in range(4)]
        messages: list[Discovery | Coverage] = [discover(1.0, B), *ahead, *and_then]
        for message in messages:
            aggregator._apply(message)
        return await told_at_attaching(aggregator, "validator-0")

    told = asyncio.run(asyncio.wait_for(main(), HANG_GUARD_S))
    assert [message for message in told if isinstance(message, Pause)] == [Pause("b", 0, True)] * paused
    assert len(told) == 1 + paused


def test_a_child_that_is_no_reader_is_heard_and_assigned_nothing() -> None:
    async def main() -> list[Any]:
        pipeline = make_pipeline(Config(), 0.0)
        loop = asyncio.get_running_loop()
        aggregator = Aggregator(pipeline, loop, reader_roles(Config()), SCOUT, lambda: 100.0, 1.0)
        aggregator._apply(discover(1.0, B))
        ours, theirs = descriptor_pair()
        aggregator.attach("collector-0", Channel(ours))
        collector = Channel(theirs)
        collector.send(discover(2.0, B, A))
        while len(aggregator.ledger.partitions) < 2:
            await asyncio.sleep(0.001)
        aggregator.update_settings(UpdateReaderSettings("info", "json", 1, 1, 1, 1.0))
        return collector.receive()

    assert asyncio.run(asyncio.wait_for(main(), HANG_GUARD_S)) == []


def test_nothing_is_read_before_it_is_on_disk_where_it_was_begun(tmp_path: Path) -> None:
    async def main() -> None:
        store = Gated(tmp_path)
        loop = asyncio.get_running_loop()
        aggregator = Aggregator(
            make_pipeline(Config(), 0.0), loop, reader_roles(Config()), SCOUT, loop.time, 1.0, store
        )
        ours, theirs = descriptor_pair()
        aggregator.attach("validator-0", Channel(ours))
        reader = Channel(theirs)
        for message in (discover(1.0, B), discover(2.0, B, found=())):
            aggregator._apply(message)
            assert not reader.receive()
        store.open_gate()
        await aggregator.durable()
        assert reader.receive()

    asyncio.run(asyncio.wait_for(main(), HANG_GUARD_S))
