"""Heartbeats: the work loop of each child shows that it still runs, and the parent notices when it stops.

The beats lie in an anonymous mapping that the parent creates before it forks: one float64 for each child. The child's
own work loop writes it, without a system call; while the child lives, no other process and no helper thread writes it.
A beat is a moment of CLOCK_MONOTONIC, which a change of the wall clock does not move and which stops while the machine
is suspended. The moment of the fork is written with a minus sign: no beat has come since then.

The parent does not subtract moments to find a silent child. It checks at intervals whether the number has changed, and
counts as silence only the time during which it was checking. When the parent did not run either (a paused virtual
machine, a frozen control group, an overloaded host), the child is not blamed.
"""

import mmap
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

BEAT_BYTES = 8
CHECKS_A_TIMEOUT = 10
LONGEST_CHECK_S = 1.0


class Heartbeats:
    """The shared mapping, created before the first fork. `names`: every child that there will ever be."""

    def __init__(self, names: Iterable[str], now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self._slots = {name: slot for slot, name in enumerate(names)}
        self._moments = memoryview(mmap.mmap(-1, BEAT_BYTES * len(self._slots))).cast("d")

    def about_to_fork(self, name: str) -> None:
        """Reset the slot: a beat of the child's predecessor is not a beat of the child."""
        self._moments[self._slots[name]] = -self.now()

    def writer(self, name: str) -> "HeartbeatWriter":
        """What the child of this name beats with."""
        return HeartbeatWriter(self._moments, self._slots[name], self.now)

    def has_beaten(self, name: str) -> bool:
        """Whether the present child of this name has beaten since it was forked."""
        return self._moments[self._slots[name]] > 0

    def moment(self, name: str) -> float:
        """The number in the child's slot: it changes with each beat."""
        return self._moments[self._slots[name]]

    def ages_s(self) -> Mapping[str, float]:
        """Seconds since the last beat of each child that was ever forked; before its first beat, since its fork."""
        now = self.now()
        moments = {name: abs(self._moments[slot]) for name, slot in self._slots.items()}
        return {name: max(0.0, now - moment) for name, moment in moments.items() if moment}


class HeartbeatWriter:
    """Writes one child's beats; cheap enough for every turn of a loop."""

    __slots__ = ("_moments", "_now", "_slot")

    def __init__(self, moments: "memoryview[float]", slot: int, now: Callable[[], float]) -> None:
        self._moments = moments
        self._slot = slot
        self._now = now

    def beat(self) -> None:
        """The loop has completed a turn."""
        self._moments[self._slot] = self._now()


class ObservedBeat(NamedTuple):
    """A number that the parent saw in a child's slot, and when it first saw it, in seconds of checking."""

    moment: float
    seen_at_s: float


class HangDetector:
    """Finds children with a loop that has stopped. Call `check` at least every `every_s` seconds."""

    def __init__(self, heartbeats: Heartbeats, timeout_s: float) -> None:
        self.every_s = min(LONGEST_CHECK_S, timeout_s / CHECKS_A_TIMEOUT)
        self._heartbeats = heartbeats
        self._timeout_s = timeout_s
        self._checked_at = heartbeats.now()
        self._checking_s = 0.0
        self._observed: dict[str, ObservedBeat] = {}

    def about_to_fork(self, name: str) -> None:
        """Give the new child of this name the whole time-out for its first beat."""
        self._heartbeats.about_to_fork(name)
        self._observed[name] = ObservedBeat(self._heartbeats.moment(name), self._checking_s)

    def check(self) -> None:
        """Note which children have beaten since the last check. A late check counts little more than a timely one."""
        now = self._heartbeats.now()
        self._checking_s += min(now - self._checked_at, 2 * self.every_s)
        self._checked_at = now
        for name, observed in self._observed.items():
            moment = self._heartbeats.moment(name)
            if moment != observed.moment:
                self._observed[name] = ObservedBeat(moment, self._checking_s)

    def silence_s(self, name: str) -> float:
        """For how long the parent has been checking without a new beat."""
        return self._checking_s - self._observed[name].seen_at_s

    def is_hung(self, name: str) -> bool:
        """Whether the child's silence exceeds the time-out before the next check.

        Its last beat may precede the check that saw it by one interval, too.
        """
        return self.silence_s(name) >= self._timeout_s - 2 * self.every_s

    def has_beaten(self, name: str) -> bool:
        """Whether the child has beaten since it was forked."""
        return self._heartbeats.has_beaten(name)
