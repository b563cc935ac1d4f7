"""The smallest of many moments that mostly rise: kept, and looked for again only once that smallest one has moved."""

from collections.abc import Callable, Iterable


class Minimum:
    """`moments`: all of them as they are now; `without`: the minimum where there is none."""

    def __init__(self, moments: Callable[[], Iterable[float]], without: float) -> None:
        self._moments = moments
        self._without = without
        self._known: float | None = None

    def rose(self, before: float) -> None:
        """One of them has risen; `before`: what it was."""
        if self._known is not None and before <= self._known:
            self._known = None

    def changed(self) -> None:
        """One came, went or fell."""
        self._known = None

    @property
    def value(self) -> float:
        """The smallest of all."""
        if self._known is None:
            self._known = min(self._moments(), default=self._without)
        return self._known
