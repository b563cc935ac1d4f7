"""Counts of published lines and errors, and the distribution of timing errors.

Each producer has its own small `Counts` and hands it over after each batch, also across processes. `Totals` adds them
under a lock. Timing errors are kept in logarithmic buckets 2 % apart. So their number does not grow with the file, and
a quantile is accurate to 1 %.
"""

import math
import threading

import msgspec

_BUCKET_RATIO = math.log(1.02)
_SMALLEST_S = 1e-6
_NAMED_REASONS = 20


class Counts(msgspec.Struct):
    """Counts of one producer or of all. `unpublished`: dispatched lines that a stop dropped."""

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
    delays_s: dict[int, int] = msgspec.field(default_factory=dict)

    def add_delay(self, delays_s: float) -> None:
        """Count a line that was published this long after it was due."""
        # Bucket i covers 1.02 ** (i - 1) to 1.02 ** i; a quantile is the middle of its bucket.
        bucket = math.ceil(math.log(max(delays_s, _SMALLEST_S)) / _BUCKET_RATIO)
        self.delays_s[bucket] = self.delays_s.get(bucket, 0) + 1

    def delivery_error(self, reason: str, count: int = 1) -> None:
        """Count records that did not reach the broker."""
        self.delivery_errors += count
        self.reasons[reason] = self.reasons.get(reason, 0) + count

    def transaction_error(self, reason: str) -> None:
        """Count a begin, commit or abort that failed."""
        self.transaction_errors += 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    @property
    def errors(self) -> int:
        """All errors; they decide the exit code."""
        return self.delivery_errors + self.transaction_errors

    def delay_quantile_s(self, quantile: float) -> float | None:
        """The timing error that this share of the lines did not exceed; None without timing."""
        rank = math.ceil(quantile * sum(self.delays_s.values()))
        for bucket, count in sorted(self.delays_s.items()):
            rank -= count
            if rank <= 0:
                return math.exp((bucket - 0.5) * _BUCKET_RATIO)
        return None


_COUNTS = [name for name in Counts.__struct_fields__ if name not in ("reasons", "delays_s")]


class Totals:
    """The sum of all counts. Producer threads add to it, and the display reads it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sum = Counts()

    def add(self, counts: Counts) -> None:
        """Add a producer's counts since its last batch."""
        with self._lock:
            for name in _COUNTS:
                setattr(self._sum, name, getattr(self._sum, name) + getattr(counts, name))
            for bucket, count in counts.delays_s.items():
                self._sum.delays_s[bucket] = self._sum.delays_s.get(bucket, 0) + count
            for reason, count in counts.reasons.items():
                # Beyond the limit, new reasons get no name; their errors are still counted.
                if reason in self._sum.reasons or len(self._sum.reasons) < _NAMED_REASONS:
                    self._sum.reasons[reason] = self._sum.reasons.get(reason, 0) + count

    @property
    def sum(self) -> Counts:
        """The totals so far. While producers run, read only the plain counts."""
        return self._sum
