"""Virtual time: sleeping costs nothing, wakes in order, and stalls loudly."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txninsightd.tools.simulation.clock import RESOLUTION_S, Deadlock, run
from txninsightd.tools.simulation.engine import avoid_bands


def test_a_year_passes_at_once_and_exactly() -> None:
    async def sleeper() -> float:
        for _ in range(365):
            await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time()

    began = time.monotonic()
    assert run(sleeper()) == 365 * 86_400
    assert time.monotonic() - began < 60  # a hang guard


@given(st.lists(st.floats(0, 1000), max_size=50))
def test_sleepers_wake_in_the_order_of_their_time(delays: list[float]) -> None:
    woken: list[float] = []

    async def sleeper(delay: float) -> None:
        await asyncio.sleep(delay)
        woken.append(asyncio.get_running_loop().time())

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for delay in delays:
                group.create_task(sleeper(delay))

    run(main())
    assert woken == sorted(woken)
    assert woken == pytest.approx(sorted(delays), abs=2 * RESOLUTION_S)


def test_futures_and_timers_work_together() -> None:
    async def main() -> tuple[str, float]:
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        loop.call_at(7.5, answer.set_result, "done")
        return await answer, loop.time()

    assert run(main()) == ("done", 7.5)


def test_waiting_for_nothing_is_an_error_and_no_hang() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock):
        run(main())


BAND = st.tuples(st.floats(0, 100), st.floats(0.1, 10)).map(lambda b: (b[0], b[0] + b[1]))


@given(st.floats(50, 100), st.lists(BAND, max_size=1))
def test_a_moment_is_moved_out_of_a_band_and_never_into_the_past(
    target: float, bands: list[tuple[float, float]]
) -> None:
    moved = avoid_bands(target, 50.0, bands)
    assert moved >= 50.0
    assert all(not low < moved < high for low, high in bands)
    assert all(moved in (target, low, high) for low, high in bands)
