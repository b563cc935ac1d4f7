"""A histogram as plain numbers, with an exemplar for each bucket."""

from bisect import bisect_left
from collections.abc import Sequence

import msgspec


class Exemplar(msgspec.Struct, frozen=True, gc=False):
    """One transaction that fell into a bucket."""

    txn_id: str
    value: float
    at: float


class Histogram:
    """Counts by upper bound (seconds, ascending; the last, infinite one is implied), sum, and an exemplar a bucket."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, exemplar: tuple[str, float] | None = None) -> None:
        """Count one value; `exemplar` is (txn_id, moment)."""
        i = bisect_left(self.bounds, value)
        self.counts[i] += 1
        self.sum += value
        if exemplar is not None:
            self.exemplars[i] = Exemplar(exemplar[0], value, exemplar[1])
