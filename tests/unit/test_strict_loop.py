"""What fails in the aggregator's loop ends the aggregator: nothing that it has taken in is passed over."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from multiprocessing import get_context

import pytest
import uvloop

from tests.harness.core.by_hand import OPEN, A, discover, ev, sight
from txninsightd.aggregate.aggregator import Aggregator
from txninsightd.aggregate.assembly import make_pipeline
from txninsightd.aggregate.strict import EXIT_FAILED, StrictLoop
from txninsightd.config import Config
from txninsightd.daemon import SCOUT, reader_roles
from txninsightd.supervise.channel import Channel, descriptor_pair
from txninsightd.vocabulary import Discovery, Sightings

HANG_GUARD_S = 60.0
GOES_ON = 42


def exit_code_after(work: Callable[[asyncio.AbstractEventLoop], None]) -> int | None:
    """Do this on the loop of a process of its own; it ends with GOES_ON if the loop comes round ten times after."""

    async def main() -> None:
        work(asyncio.get_running_loop())
        for _ in range(10):
            await asyncio.sleep(0.01)
        os._exit(GOES_ON)

    process = get_context("fork").Process(target=lambda: uvloop.run(main()))
    process.start()
    process.join(HANG_GUARD_S)
    return process.exitcode


def tell_an_aggregator(*messages: Discovery | Sightings) -> Callable[[asyncio.AbstractEventLoop], None]:
    def work(loop: asyncio.AbstractEventLoop) -> None:
        aggregator = Aggregator(
            make_pipeline(Config(), 0.0), StrictLoop(loop), reader_roles(Config()), SCOUT, lambda: 100.0, 1.0
        )
        ours, theirs = descriptor_pair()
        aggregator.attach("monitor-0", Channel(ours))
        reader = Channel(theirs)
        for message in messages:
            reader.send(message)

    return work


SEEN = sight(A, 1, ev(0, OPEN, 1.0))


@pytest.mark.parametrize(("messages", "code"), [((discover(1.0, A), SEEN), GOES_ON), ((SEEN,), EXIT_FAILED)])
def test_a_message_that_cannot_be_applied_ends_the_aggregator(
    messages: tuple[Discovery | Sightings, ...], code: int
) -> None:
    assert exit_code_after(tell_an_aggregator(*messages)) == code


def test_so_does_work_that_was_put_off() -> None:
    assert exit_code_after(lambda loop: StrictLoop(loop).call_soon(int, "0")) == GOES_ON
    assert exit_code_after(lambda loop: StrictLoop(loop).call_soon(int, "none")) == EXIT_FAILED


def test_an_order_that_cannot_be_carried_out_ends_it_too() -> None:
    def work(loop: asyncio.AbstractEventLoop) -> None:
        aggregator = Aggregator(
            make_pipeline(Config(), 0.0), StrictLoop(loop), reader_roles(Config()), SCOUT, lambda: 100.0, 1.0
        )
        aggregator.ledger.live["half"] = object()  # type: ignore[assignment]
        with contextlib.suppress(Exception):  # as the control server does
            aggregator.forget("half")

    assert exit_code_after(work) == EXIT_FAILED
