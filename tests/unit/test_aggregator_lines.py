"""What the aggregator tells readers to read, and when."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.core.by_hand import B_ANEW, B, cover, discover
from tests.harness.manual_loop import ManualLoop
from tests.unit.test_checkpoint import Gated
from txninsightd.aggregate import aggregator as aggregator_module
from txninsightd.aggregate.aggregator import Aggregator
from txninsightd.config import Config
from txninsightd.daemon import make_ledger
from txninsightd.supervise.channel import Channel, descriptor_pair
from txninsightd.vocabulary import Coverage, Discovery, Pause, ToReader, View

HANG_GUARD_S = 60.0


def attached(aggregator: Aggregator, view: View) -> Channel:
    """A new reader of this view; gives the reader's end of its line."""
    ours, theirs = descriptor_pair()
    aggregator.attach(view, 0, Channel(ours))
    return Channel(theirs)


@pytest.mark.parametrize(
    ("and_then", "paused"), [([], True), ([discover(3.0, B_ANEW, found=()), discover(4.0, B_ANEW)], False)]
)
def test_a_new_validator_is_told_what_is_held_but_not_what_was_of_a_deleted_topic(
    monkeypatch: pytest.MonkeyPatch, and_then: list[Discovery], paused: bool
) -> None:
    monkeypatch.setattr(aggregator_module, "MOST_WAITING_RUNS", 3)

    loop = ManualLoop()
    aggregator = Aggregator(make_ledger(Config(), 0.0), loop, dict.fromkeys(View, 1), lambda: 100.0, 1.0)
    former = attached(aggregator, View.VALIDATOR)
    ahead = [cover(B, i, i + 1, [i], 2.0) for i in range(4)]
    messages: list[Discovery | Coverage] = [discover(1.0, B), *ahead, *and_then]
    for message in messages:
        former.send(message)
    loop.run_once()
    decode = msgspec.msgpack.Decoder(ToReader).decode
    told: list[Any] = [decode(frame) for frame in attached(aggregator, View.VALIDATOR).receive()]
    assert [message for message in told if isinstance(message, Pause)] == [Pause("b", 0, True)] * paused
    assert len(told) == 1 + paused


def test_nothing_is_read_before_it_is_on_disk_where_it_was_begun(tmp_path: Path) -> None:
    async def main() -> None:
        store = Gated(tmp_path)
        loop = asyncio.get_running_loop()
        aggregator = Aggregator(make_ledger(Config(), 0.0), loop, dict.fromkeys(View, 1), loop.time, 1.0, store)
        reader, monitor = attached(aggregator, View.VALIDATOR), attached(aggregator, View.MONITOR)
        for message in (discover(1.0, B), discover(2.0, B, found=())):
            monitor.send(message)
            while aggregator.ledger.watermark.discovered_at < message.asked_at:
                await asyncio.sleep(0)
            assert not reader.receive()
        store.open_gate()
        await aggregator.durable()
        assert reader.receive()

    asyncio.run(asyncio.wait_for(main(), HANG_GUARD_S))
