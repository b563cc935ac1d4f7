"""Keeps the log readable when the same thing happens all the time: one line each ten seconds."""

from collections import Counter
from collections.abc import Callable, Hashable

SAMPLE_EVERY_S = 10.0


class Sampler:
    """Decides, by key, what is said."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        # Keys are few (a topic and a result, a facility), so none is forgotten.
        self._next_at: dict[Hashable, float] = {}
        self._unsaid: Counter[Hashable] = Counter()

    def take(self, key: Hashable) -> int | None:
        """None: leave it out. Else say it, and that so many were left out since the last time."""
        now = self._now()
        if now < self._next_at.get(key, 0.0):
            self._unsaid[key] += 1
            return None
        self._next_at[key] = now + SAMPLE_EVERY_S
        return self._unsaid.pop(key, 0)
