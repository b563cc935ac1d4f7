"""The daemon's clock, against a wall clock that the test sets."""

import time
from pathlib import Path

import pytest

from txninsightd import clock
from txninsightd.aggregate.wall_time import WallTime


class Wall:
    """What time.time() says, and how long it takes to say it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0.0
        self.stops_s = 0.0
        self._true = time.time
        self._boot = time.clock_gettime
        monkeypatch.setattr(time, "time", self.now)
        monkeypatch.setattr(time, "clock_gettime", lambda which: self._boot(which) + self._stopped_s)
        self._stopped_s = 0.0

    def suspend(self, seconds: float) -> None:
        """The machine: the wall clock and the boot's go on meanwhile, CLOCK_MONOTONIC does not."""
        self._stopped_s += seconds

    def now(self) -> float:
        said = self._true() + self._stopped_s + self.ahead_s
        self._stopped_s += self.stops_s
        return said


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    monkeypatch.setattr(clock, "_stepped_s", 0.0)
    clock.follow()
    monkeypatch.setattr(clock, "_stepped_s", clock.stepped_s())
    return Wall(monkeypatch)


@pytest.mark.parametrize("by_s", [3600.0, -3600.0, 1.0, -1.0])
def test_a_step_is_followed_once_and_the_steady_clock_goes_on(wall: Wall, by_s: float) -> None:
    now, steady, booted_at = clock.now(), clock.steady(), clock.booted_at()
    wall.ahead_s = by_s
    assert clock.now() - now < 0.4
    assert clock.follow() == pytest.approx(by_s, abs=0.1)
    assert clock.follow() == 0
    assert clock.now() - now == pytest.approx(by_s, abs=0.4)
    assert 0 <= clock.steady() - steady < 0.4
    assert clock.booted_at() - booted_at == pytest.approx(by_s, abs=0.1)
    wall.ahead_s = 0
    assert clock.follow() == pytest.approx(-by_s, abs=0.1)


def test_small_differences_wait_until_they_add_up(wall: Wall) -> None:
    wall.ahead_s = 0.3
    assert clock.follow() == 0
    wall.ahead_s = 0.6
    assert clock.follow() == pytest.approx(0.6, abs=0.1)


def test_a_process_that_is_stopped_between_two_looks_sees_no_step(wall: Wall) -> None:
    wall.stops_s = 30.0
    assert clock.follow() == 0
    wall.stops_s = 0.0
    assert clock.follow() == 0


def test_a_suspended_machine_is_no_step_and_is_told_once(wall: Wall) -> None:
    wall_time, now = WallTime.of_this_process(), clock.now()
    wall.suspend(3600.0)
    assert wall_time.follow() == 0
    assert wall_time.steps == 0
    assert wall_time.suspended_s() == pytest.approx(3600.0, abs=0.1)
    assert wall_time.suspended_s() == pytest.approx(0.0, abs=0.1)
    assert clock.now() - now == pytest.approx(3600.0, abs=0.4)
    wall.ahead_s = 60.0
    assert wall_time.follow() == pytest.approx(60.0, abs=0.1)
    assert wall_time.suspended_s() == pytest.approx(0.0, abs=0.1)


def test_a_machine_says_which_boot_it_is() -> None:
    assert clock.boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
