"""The property: any order of arrival that keeps the order within each partition settles the same (see orders.py)."""

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from tests.harness.core.orders import hold_same, run, told, within_property
from tests.harness.core.worlds import (
    ORDERS,
    Chooser,
    Drawn,
    Seeded,
    Style,
    arrive,
    make_world,
    pick,
    read_world,
    reread,
)

STYLES = {
    "plain": Style(),
    "colocated": Style(colocated=True),
    "large": Style(most_business=8, most_actions=100),
    "large-colocated": Style(colocated=True, most_business=8, most_actions=100),
    "odd-clocks": Style(odd_clocks=25),
}
every_style = pytest.mark.parametrize("style", STYLES)


def hold_in_orders(c: Chooser, style: Style, how_many: int = 4) -> tuple[int, int]:
    """Play one world in several orders. Gives how many transactions met the preconditions, and how many did not."""
    world = make_world(c, style)
    streams = read_world(c, world, style)
    found = told(world, streams)
    names = [name for name, events in found.items() if within_property(world, events)]
    first = run(world, arrive(c, streams, "as sent"), settle_every=1)
    for k in range(1, how_many):
        other = run(world, arrive(c, streams, pick(c, ORDERS) if k > 1 else "mixed"), settle_every=pick(c, (1, 2, 5)))
        hold_same(first, other, names, same_messages=True)
        if len(names) == len(found):
            assert other.late_events == first.late_events
    return len(names), len(found) - len(names)


def hold_when_read_differently(c: Chooser, style: Style) -> int:
    """Play one world as two pairs of readers cut it. Gives how many transactions met the preconditions in both."""
    world = make_world(c, style)
    streams = read_world(c, world, style)
    again = reread(c, world, streams)
    within = [
        {name for name, events in told(world, s).items() if within_property(world, events)} for s in (streams, again)
    ]
    names = sorted(within[0] & within[1])
    runs = [run(world, arrive(c, s, pick(c, ORDERS)), settle_every=pick(c, (1, 3))) for s in (streams, again)]
    hold_same(*runs, names, same_messages=False)
    return len(names)


@settings(max_examples=40)
@given(st.data())
def test_small_worlds(data: st.DataObject) -> None:
    c = Drawn(data.draw)
    style = pick(c, ("plain", "colocated"))
    note(style)
    hold_in_orders(c, STYLES[style], how_many=3)


@every_style
def test_many_worlds(style: str) -> None:
    inside = outside = 0
    for seed in range(60):
        met, missed = hold_in_orders(Seeded(seed), STYLES[style])
        inside, outside = inside + met, outside + missed
    assert inside > outside > 0  # both kinds were tried


@pytest.mark.full
@every_style
def test_very_many_worlds(style: str) -> None:
    inside = outside = 0
    for seed in range(1000, 7000):
        met, missed = hold_in_orders(Seeded(seed), STYLES[style])
        inside, outside = inside + met, outside + missed
    print(f"{style}: 6,000 worlds in 4 orders, {inside} transactions within the preconditions, {outside} others")


@pytest.mark.parametrize("style", ["plain", "colocated"])
def test_worlds_that_are_read_differently(style: str) -> None:
    # Where the monitor's gaps and outages fall in time decides what may lie in them: none here.
    calm = STYLES[style]._replace(monitor_gaps=False, outages=False)
    assert sum(hold_when_read_differently(Seeded(seed), calm) for seed in range(100)) > 100


@pytest.mark.full
@every_style
def test_very_many_worlds_that_are_read_differently(style: str) -> None:
    calm = STYLES[style]._replace(monitor_gaps=False, outages=False)
    inside = sum(hold_when_read_differently(Seeded(seed), calm) for seed in range(1000, 3000))
    print(f"{style}: 2,000 worlds read twice, {inside} transactions within the preconditions")
