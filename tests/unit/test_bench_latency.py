"""The figures of the latency benchmark, from round trips and markers written by hand."""

import pytest

from tests.bench.latency import as_if_asked
from tests.bench.latency_instruments import Look, Markers


def test_a_long_round_trip_counts_as_those_that_would_have_begun_meanwhile() -> None:
    assert as_if_asked([0.001, 0.1], 0.02) == pytest.approx([0.001, 0.1, 0.08, 0.06, 0.04, 0.02])


def test_of_those_that_would_have_begun_each_has_its_share_of_the_waits() -> None:
    assert as_if_asked([0.06], 0.02, own_s=[0.03]) == pytest.approx([0.03, 0.02, 0.01])


def test_a_marker_is_seen_by_the_first_scrape_that_counts_it() -> None:
    markers = Markers("127.0.0.1:1", "unused")
    markers.written_at += [1.0, 1.1, 1.2, 1.3]
    looks = [Look(1.15, 1), Look(1.25, 1), Look(1.5, 3), Look(1.55, 3)]
    assert markers.latencies(looks) == pytest.approx([0.15, 0.4, 0.3, 0.25])
