"""The clock that timestamps of records are compared with, while the wall clock is stepped."""

import pytest

from txninsightd import clock
from txninsightd.ingest.record_clock import RecordClock


def test_a_clock_that_was_set_back_makes_no_record_come_from_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead_s = 0.0
    monkeypatch.setattr(clock, "steady", lambda: 1000.0)
    monkeypatch.setattr(clock, "follow", lambda: 0.0)
    monkeypatch.setattr(clock, "stepped_s", lambda: ahead_s)
    monkeypatch.setattr(clock, "now", lambda: 1000.0 + ahead_s)
    record_clock = RecordClock()
    for ahead_s, latest in ((0.0, 1000.0), (-3600.0, 1000.0), (60.0, 1060.0), (-3600.0, 1060.0)):
        assert (record_clock.now(), record_clock.latest()) == (1000.0 + ahead_s, latest)
