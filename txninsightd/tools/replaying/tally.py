"""Counting what became of the lines, and how well their time was kept.

A `Tally` is small, adds up, and crosses processes: every producer keeps its own and hands it in after each batch; the
`Board` sums them up under a lock. Timing errors are kept in logarithmic buckets 2 % apart, so that their number does
not grow with the file and a quantile is true to 1 %.
"""

import math
import threading

import msgspec

_BUCKET_RATIO = math.log(1.02)
_SMALLEST_S = 1e-6
_NAMED_REASONS = 20


class Tally(msgspec.Struct):
    """Counts of one producer, or of all. `unpublished` lines were left out because the replay was stopped."""

    records: int = 0
    commits: int = 0
    aborts: int = 0
    crashes: int = 0
    delivery_errors: int = 0
    transaction_errors: int = 0
    unpublished: int = 0
    aborted_at_stop: int = 0
    left_open: int = 0
    reasons: dict[str, int] = msgspec.field(default_factory=dict)
    late_s: dict[int, int] = msgspec.field(default_factory=dict)

    def note_late(self, late_s: float) -> None:
        """A line was published this long after it was due."""
        # Bucket i reaches from 1.02 ** (i - 1) to 1.02 ** i; a quantile is told as the middle between them.
        bucket = math.ceil(math.log(max(late_s, _SMALLEST_S)) / _BUCKET_RATIO)
        self.late_s[bucket] = self.late_s.get(bucket, 0) + 1

    def delivery_error(self, reason: str, count: int = 1) -> None:
        """Records did not reach the broker."""
        self.delivery_errors += count
        self.reasons[reason] = self.reasons.get(reason, 0) + count

    def transaction_error(self, reason: str) -> None:
        """A Kafka transaction could not be begun, committed or aborted as written."""
        self.transaction_errors += 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    @property
    def errors(self) -> int:
        """What decides the exit code."""
        return self.delivery_errors + self.transaction_errors

    def late_quantile_s(self, quantile: float) -> float | None:
        """The timing error that this share of the lines did not exceed; None when no timing was kept."""
        rank = math.ceil(quantile * sum(self.late_s.values()))
        for bucket, count in sorted(self.late_s.items()):
            rank -= count
            if rank <= 0:
                return math.exp((bucket - 0.5) * _BUCKET_RATIO)
        return None


_COUNTS = [name for name in Tally.__struct_fields__ if name not in ("reasons", "late_s")]


class Board:
    """The sum of all tallies, for the threads that hand them in and the one that shows it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sum = Tally()

    def add(self, tally: Tally) -> None:
        """Take in what a producer counted since its last time."""
        with self._lock:
            for name in _COUNTS:
                setattr(self._sum, name, getattr(self._sum, name) + getattr(tally, name))
            for bucket, count in tally.late_s.items():
                self._sum.late_s[bucket] = self._sum.late_s.get(bucket, 0) + count
            for reason, count in tally.reasons.items():
                # Past the bound new reasons go unnamed; the errors are counted all the same.
                if reason in self._sum.reasons or len(self._sum.reasons) < _NAMED_REASONS:
                    self._sum.reasons[reason] = self._sum.reasons.get(reason, 0) + count

    @property
    def sum(self) -> Tally:
        """Everything so far. Only counts may be read while producers are at work."""
        return self._sum
