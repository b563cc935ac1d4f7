"""Counters, histograms and caps as plain numbers."""

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from txninsightd.core.facts import StandingChanged
from txninsightd.core.figures import Figures
from txninsightd.core.histogram import Exemplar, Histogram
from txninsightd.core.labels import UNNAMED, LabelCap, PairCap
from txninsightd.core.transaction import Standing
from txninsightd.vocabulary import OVERFLOW, Anomaly


@given(st.lists(st.sampled_from([None, "", "a", "b", "c", "d", "e"])), st.integers(0, 4))
def test_the_first_values_keep_their_names(values: list[str | None], most: int) -> None:
    cap = LabelCap(most)
    named: list[str] = []
    cut = 0
    for value in values:
        if value and value not in named and len(named) < most:
            named.append(value)
        expected = UNNAMED if not value else value if value in named else OVERFLOW
        cut += expected == OVERFLOW
        assert cap(value) == expected
    assert cap.cut == cut


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from([None, "a", "b", "c"]))), st.integers(1, 5))
def test_pairs_are_bounded_too(pairs: list[tuple[str, str | None]], most: int) -> None:
    cap = PairCap(most, LabelCap(2))
    told = {(first, cap(first, second)) for first, second in pairs}
    assert len({pair for pair in told if pair[1] != OVERFLOW}) <= most
    assert all(cap(*pair) == pair[1] for pair in told if pair[1] not in (OVERFLOW, UNNAMED))


@given(st.lists(st.floats(0, 100)))
def test_a_histogram_counts_up_to_and_including_each_bound(values: list[float]) -> None:
    bounds = (1.0, 5.0, 25.0)
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value, ("t", 7.0))
    for i, bound in enumerate(bounds):
        assert sum(histogram.counts[: i + 1]) == sum(value <= bound for value in values)
    assert sum(histogram.counts) == len(values)
    for i, exemplar in histogram.exemplars.items():
        last = [value for value in values if bisect_left(bounds, value) == i][-1]
        assert exemplar == Exemplar("t", last, 7.0)


def test_every_anomaly_exists_from_the_start() -> None:
    assert Figures((1.0,), 10).anomalies == {anomaly.value: 0 for anomaly in Anomaly}


def test_a_transaction_moves_from_one_gauge_to_another_and_leaves_nothing() -> None:
    figures = Figures((1.0,), 10)
    steps = [
        Standing("a", "open", None, 12, False),
        Standing("a", "stuck", "idle", 12, True),
        Standing("b", None, None, None, False),
    ]
    for before, after in zip([None, *steps], [*steps, None], strict=True):
        figures.take([StandingChanged(before, after)], 0.0)
    gauges = figures.gauges
    assert (gauges.live, gauges.stuck, gauges.partial, gauges.opened_seconds) == ({}, {}, {}, {})


def test_types_beyond_the_cap_share_a_gauge_until_the_cap_is_raised() -> None:
    figures = Figures((1.0,), 1)
    for txn_type, second in (("a", 1), ("b", 2), ("c", 2)):
        figures.take([StandingChanged(None, Standing(txn_type, "open", None, second, False))], 0.0)
    assert figures.gauges.live == {("a", "open"): 1, (OVERFLOW, "open"): 2}
    assert figures.gauges.opened_seconds == {"a": {1: 1}, OVERFLOW: {2: 2}}
    assert figures.txn_types.cut == 2
    figures.name_at_most(2)
    b_stuck = Standing("b", "stuck", "idle", 2, False)
    figures.take([StandingChanged(Standing("b", "open", None, 2, False), b_stuck)], 0.0)
    assert figures.gauges.live == {("a", "open"): 1, (OVERFLOW, "open"): 1, ("b", "stuck"): 1}
    assert figures.gauges.stuck == {("b", "idle"): 1}


def test_every_decrement_finds_its_increment_though_the_type_has_a_label_by_now() -> None:
    figures = Figures((1.0,), 0)
    standing = Standing("a", "open", None, 1, True)
    figures.take([StandingChanged(None, standing)] * 2, 0.0)
    figures.name_at_most(1)
    figures.take([StandingChanged(None, standing)], 0.0)
    assert figures.gauges.live == {(OVERFLOW, "open"): 3}
    figures.label_overflow([standing] * 3)
    assert figures.gauges.live == {("a", "open"): 3}
    assert figures.gauges.opened_seconds == {"a": {1: 3}}
    figures.take([StandingChanged(standing, None)] * 3, 0.0)
    gauges = figures.gauges
    assert (gauges.live, gauges.stuck, gauges.partial, gauges.opened_seconds) == ({}, {}, {}, {})


def test_reading_the_gauges_changes_nothing() -> None:
    figures = Figures((1.0,), 0)
    figures.take([StandingChanged(None, Standing("a", "open", None, 1, True))], 0.0)
    before = list(figures.save())
    for _ in range(3):
        assert figures.gauges.live == {(OVERFLOW, "open"): 1}
        assert figures.gauges.partial == {OVERFLOW: 1}
    assert list(figures.save()) == before


def test_configured_types_are_named_whichever_comes_first() -> None:
    figures = Figures((1.0,), 2, txn_types=("order", "pay"))
    assert [figures.txn_types(name) for name in ("new", "pay", "order")] == [OVERFLOW, "pay", "order"]


def test_a_configured_type_without_room_is_not_cut_before_an_event_has_it() -> None:
    figures = Figures((1.0,), most_label_values=2, txn_types=("order", "loan", "pay"))
    figures.txn_types.name("refund")  # as whenever rules are adopted
    figures.txn_types.name("order")
    assert (figures.txn_types.saved(), figures.txn_types.cut) == ((["order", "loan"], 0), 0)
    assert figures.txn_types("pay") == OVERFLOW
    assert figures.txn_types.cut == 1
