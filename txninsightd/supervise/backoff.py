"""When a dead child may be started again, and when to give up on it."""

from collections import deque


class Backoff:
    """Waits twice as long after each death, up to a bound; `give_up_after` deaths within `window_s` are too many."""

    def __init__(self, initial_s: float, max_s: float, give_up_after: int, window_s: float) -> None:
        self._initial_s = initial_s
        self._max_s = max_s
        self._give_up_after = give_up_after
        self._window_s = window_s
        self._deaths: deque[float] = deque()

    def died(self, now: float) -> float:
        """A death at `now`; gives the seconds to wait before the next start."""
        self._deaths.append(now)
        # Deaths of long ago count no more, and the waits become short again.
        while now - self._deaths[0] > self._window_s:
            self._deaths.popleft()
        return float(min(self._max_s, self._initial_s * 2 ** (len(self._deaths) - 1)))

    @property
    def hopeless(self) -> bool:
        """Whether it has died too often."""
        return len(self._deaths) >= self._give_up_after
