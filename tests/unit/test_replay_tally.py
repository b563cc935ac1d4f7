"""Counting: tallies add up, cross processes, and give quantiles of the timing error."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from txninsightd.tools.replaying.tally import Board, Tally


def test_tallies_add_up() -> None:
    one, two, board = Tally(records=3, commits=1), Tally(records=-1, aborts=2), Board()
    one.note_late(0.001)
    one.delivery_error("gone", 2)
    two.note_late(0.001)
    two.delivery_error("gone")
    two.transaction_error("fenced")
    board.add(one)
    board.add(two)
    assert (board.sum.records, board.sum.commits, board.sum.aborts) == (2, 1, 2)
    assert (board.sum.delivery_errors, board.sum.transaction_errors, board.sum.errors) == (3, 1, 4)
    assert board.sum.reasons == {"gone": 3, "fenced": 1}
    assert list(board.sum.late_s.values()) == [2]


def test_a_tally_survives_the_crossing() -> None:
    tally = Tally(records=1, reasons={"a": 2})
    tally.note_late(0.2)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(tally), type=Tally) == tally


def test_reasons_are_bounded() -> None:
    board = Board()
    for number in range(1000):
        board.add(Tally(delivery_errors=1, reasons={f"reason {number}": 1}))
    assert board.sum.delivery_errors == 1000
    assert len(board.sum.reasons) == 20


@given(st.lists(st.floats(1e-5, 100), min_size=1), st.sampled_from([0.5, 0.99, 1.0]))
def test_quantiles_are_true_to_one_percent(late_s: list[float], quantile: float) -> None:
    tally = Tally()
    for each in late_s:
        tally.note_late(each)
    exact = sorted(late_s)[math.ceil(quantile * len(late_s)) - 1]
    assert tally.late_quantile_s(quantile) == pytest.approx(exact, rel=0.0101)


def test_without_timing_there_is_no_quantile() -> None:
    assert Tally().late_quantile_s(0.5) is None
