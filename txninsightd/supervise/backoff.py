"""When an exited child may be started again, and when to give up on it."""

from collections import deque


class Backoff:
    """Doubles the wait after each exit, up to a bound; `give_up_after` exits within `window_s` are too many."""

    def __init__(self, initial_s: float, max_s: float, give_up_after: int, window_s: float) -> None:
        self._initial_s = initial_s
        self._max_s = max_s
        self._give_up_after = give_up_after
        self._window_s = window_s
        self._exits: deque[float] = deque()

    def exited(self, now: float) -> float:
        """Count an exit at `now`; gives the seconds to wait before the next start."""
        self._exits.append(now)
        # Exits before the window no longer count, and the waits become short again.
        while now - self._exits[0] > self._window_s:
            self._exits.popleft()
        return float(min(self._max_s, self._initial_s * 2 ** (len(self._exits) - 1)))

    @property
    def exhausted(self) -> bool:
        """Whether the child has exited too often."""
        return len(self._exits) >= self._give_up_after
