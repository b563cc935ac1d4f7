"""Which children have beaten, which are silent, and what does not count as silence."""

import os

import pytest

from txninsightd.supervise.heartbeats import HangDetector, Heartbeats

TIMEOUT_S = 8.0


class Clock:
    """Stands still but for `pass_by`."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


class Nursery:
    """One child, `monitor-0`, and its detector, which looks as often as it should unless told otherwise."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.beats = Heartbeats(["aggregator", "monitor-0"], self.clock)
        self.detector = HangDetector(self.beats, TIMEOUT_S)
        self.detector.about_to_fork("monitor-0")
        self.writer = self.beats.writer("monitor-0")

    def pass_by(self, seconds: float, beating: bool = False) -> None:
        until = self.clock.time + seconds
        while self.clock.time < until:
            self.clock.time += self.detector.every_s
            if beating:
                self.writer.beat()
            self.detector.check()

    def no_process_runs(self, seconds: float) -> None:
        self.clock.time += seconds
        self.detector.check()

    @property
    def hung(self) -> bool:
        return self.detector.is_hung("monitor-0")


@pytest.fixture
def nursery() -> Nursery:
    return Nursery()


def test_one_that_beats_is_never_hung(nursery: Nursery) -> None:
    nursery.pass_by(100 * TIMEOUT_S, beating=True)
    assert not nursery.hung
    assert nursery.detector.silence_s("monitor-0") == 0


def test_one_that_falls_silent_is_hung_before_a_look_could_come_too_late(nursery: Nursery) -> None:
    nursery.pass_by(50, beating=True)
    nursery.pass_by(TIMEOUT_S - 3 * nursery.detector.every_s)
    assert not nursery.hung
    nursery.pass_by(nursery.detector.every_s)
    assert nursery.hung


def test_one_that_never_beats_has_as_long_from_its_fork(nursery: Nursery) -> None:
    nursery.pass_by(TIMEOUT_S - 3 * nursery.detector.every_s)
    assert not nursery.hung
    assert not nursery.detector.has_beaten("monitor-0")
    nursery.pass_by(nursery.detector.every_s)
    assert nursery.hung


def test_its_successor_begins_anew(nursery: Nursery) -> None:
    nursery.pass_by(5, beating=True)
    nursery.pass_by(2 * TIMEOUT_S)
    nursery.detector.about_to_fork("monitor-0")
    assert not nursery.hung
    assert not nursery.detector.has_beaten("monitor-0")
    nursery.writer.beat()
    assert nursery.detector.has_beaten("monitor-0")


def test_after_a_suspended_machine_no_child_is_hung(nursery: Nursery) -> None:
    """All beats are old at once, and the parent did not run either."""
    nursery.pass_by(5, beating=True)
    nursery.no_process_runs(3600)
    assert not nursery.hung
    nursery.pass_by(TIMEOUT_S / 2)
    assert not nursery.hung


def test_one_that_stays_silent_after_the_sleep_is_hung_all_the_same(nursery: Nursery) -> None:
    nursery.pass_by(5, beating=True)
    nursery.no_process_runs(3600)
    nursery.pass_by(TIMEOUT_S)
    assert nursery.hung


def test_a_parent_that_is_always_late_still_finds_the_hung(nursery: Nursery) -> None:
    for _ in range(int(TIMEOUT_S)):
        nursery.no_process_runs(10 * nursery.detector.every_s)
    assert nursery.hung


def test_ages_are_those_of_the_last_beats(nursery: Nursery) -> None:
    nursery.clock.time += 3
    assert nursery.beats.ages_s() == {"monitor-0": 3}
    nursery.writer.beat()
    nursery.clock.time += 1
    assert nursery.beats.ages_s() == {"monitor-0": 1}


def test_a_beat_crosses_the_fork() -> None:
    beats = Heartbeats(["monitor-0", "validator-0"])
    beats.about_to_fork("monitor-0")
    beats.about_to_fork("validator-0")
    pid = os.fork()
    if not pid:
        beats.writer("validator-0").beat()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert beats.has_beaten("validator-0")
    assert not beats.has_beaten("monitor-0")
