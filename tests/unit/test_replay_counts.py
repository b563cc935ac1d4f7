"""Counting: tallies add up, cross processes, and give quantiles of the timing error."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from txninsightd.tools.replaying.counts import Counts, Totals


def test_tallies_add_up() -> None:
    one, two, totals = Counts(records=3, commits=1), Counts(records=-1, aborts=2), Totals()
    one.add_delay(0.001)
    one.delivery_error("gone", 2)
    two.add_delay(0.001)
    two.delivery_error("gone")
    two.transaction_error("fenced")
    totals.add(one)
    totals.add(two)
    assert (totals.sum.records, totals.sum.commits, totals.sum.aborts) == (2, 1, 2)
    assert (totals.sum.delivery_errors, totals.sum.transaction_errors, totals.sum.errors) == (3, 1, 4)
    assert totals.sum.reasons == {"gone": 3, "fenced": 1}
    assert list(totals.sum.delays_s.values()) == [2]


def test_a_tally_survives_the_crossing() -> None:
    counts = Counts(records=1, reasons={"a": 2})
    counts.add_delay(0.2)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(counts), type=Counts) == counts


def test_reasons_are_bounded() -> None:
    totals = Totals()
    for number in range(1000):
        totals.add(Counts(delivery_errors=1, reasons={f"reason {number}": 1}))
    assert totals.sum.delivery_errors == 1000
    assert len(totals.sum.reasons) == 20


@given(st.lists(st.floats(1e-5, 100), min_size=1), st.sampled_from([0.5, 0.99, 1.0]))
def test_quantiles_are_true_to_one_percent(delays_s: list[float], quantile: float) -> None:
    counts = Counts()
    for each in delays_s:
        counts.add_delay(each)
    exact = sorted(delays_s)[math.ceil(quantile * len(delays_s)) - 1]
    assert counts.delay_quantile_s(quantile) == pytest.approx(exact, rel=0.0101)


def test_without_timing_there_is_no_quantile() -> None:
    assert Counts().delay_quantile_s(0.5) is None
