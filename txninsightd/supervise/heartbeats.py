"""Heartbeats: the work loop of each child says that it still comes round, and the parent hears when it falls silent.

The beats lie in an anonymous mapping that the parent makes before it forks: one float64 for each child, written by the
child's own work loop without a system call, and by nobody else while it lives. No thread beats on behalf of a loop that
stands still. A moment is of CLOCK_MONOTONIC, which no setting of the wall clock moves and which stands still while the
machine is suspended. The moment of the fork is written with a minus sign: since then there was no beat.

The parent does not subtract moments to find the silent. It looks again and again whether the number has changed, and
counts as silence only the time in which it has been looking itself: when the parent was not run either (a virtual
machine that was paused, a frozen control group, a host that gasps), nobody is to blame.
"""

import mmap
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

BEAT_BYTES = 8
LOOKS_A_TIMEOUT = 10
LONGEST_LOOK_S = 1.0


class Heartbeats:
    """The shared mapping. `names`: every child that there will ever be. To be made before the first fork."""

    def __init__(self, names: Iterable[str], now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self._slots = {name: slot for slot, name in enumerate(names)}
        self._moments = memoryview(mmap.mmap(-1, BEAT_BYTES * len(self._slots))).cast("d")

    def forked(self, name: str) -> None:
        """A new child of this name is about to begin; what its predecessor left is no beat of its own."""
        self._moments[self._slots[name]] = -self.now()

    def heart(self, name: str) -> "Heart":
        """What the child of this name beats with."""
        return Heart(self._moments, self._slots[name], self.now)

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


class Heart:
    """A child's own beat; cheap enough for every turn of a loop."""

    __slots__ = ("_moments", "_now", "_slot")

    def __init__(self, moments: "memoryview[float]", slot: int, now: Callable[[], float]) -> None:
        self._moments = moments
        self._slot = slot
        self._now = now

    def beat(self) -> None:
        """The loop has come round."""
        self._moments[self._slot] = self._now()


class LastBeat(NamedTuple):
    """When the parent last saw a child's number change, by its own reckoning, and what it was."""

    moment: float
    at_s: float


class Watch:
    """The parent's ear. `look` at least every `every_s` seconds; no child is silent for `timeout_s` unnoticed."""

    def __init__(self, heartbeats: Heartbeats, timeout_s: float) -> None:
        self.every_s = min(LONGEST_LOOK_S, timeout_s / LOOKS_A_TIMEOUT)
        self._heartbeats = heartbeats
        self._timeout_s = timeout_s
        self._looked_at = heartbeats.now()
        self._watched_s = 0.0
        self._last_beats: dict[str, LastBeat] = {}

    def forked(self, name: str) -> None:
        """A new child of this name is about to begin, and has the whole time-out for its first beat."""
        self._heartbeats.forked(name)
        self._last_beats[name] = LastBeat(self._heartbeats.moment(name), self._watched_s)

    def look(self) -> None:
        """See who has beaten since the last look. A look that came late counts as little more than one in time."""
        now = self._heartbeats.now()
        self._watched_s += min(now - self._looked_at, 2 * self.every_s)
        self._looked_at = now
        for name, heard in self._last_beats.items():
            moment = self._heartbeats.moment(name)
            if moment != heard.moment:
                self._last_beats[name] = LastBeat(moment, self._watched_s)

    def silence_s(self, name: str) -> float:
        """For how long the parent has been looking without seeing a beat."""
        return self._watched_s - self._last_beats[name].at_s

    def is_hung(self, name: str) -> bool:
        """Whether it will have been silent for too long before the next look, or was already.

        Its last beat may have come as long before the look that saw it, too.
        """
        return self.silence_s(name) >= self._timeout_s - 2 * self.every_s

    def has_beaten(self, name: str) -> bool:
        """Whether it has beaten since it was forked."""
        return self._heartbeats.has_beaten(name)
