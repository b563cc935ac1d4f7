"""Keeps the log readable when the same thing happens all the time: one line of a kind each ten seconds."""

from collections import Counter
from collections.abc import Callable, Hashable

SAMPLE_EVERY_S = 10.0


class LogSampler:
    """Decides, by key, which lines are logged."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        # Keys are few (a topic and a result, a facility), so none is forgotten.
        self._next_at: dict[Hashable, float] = {}
        self._skipped: Counter[Hashable] = Counter()

    def sample(self, key: Hashable) -> int | None:
        """None: do not log this one. Else log it, and that so many were skipped since the last line with this key."""
        now = self._now()
        if now < self._next_at.get(key, 0.0):
            self._skipped[key] += 1
            return None
        self._next_at[key] = now + SAMPLE_EVERY_S
        return self._skipped.pop(key, 0)
