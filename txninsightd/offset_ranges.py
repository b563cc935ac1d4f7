"""Ranges of offsets in one partition: ascending, half open, kept as one flat list of pairs.

Messages and checkpoints carry ranges as flat lists (`[3, 6, 8, 9]` is [3, 6) and [8, 9)), because a batch of a thousand
runs then costs two thousand integers and no objects. This type is the one place that knows what the pairs mean. It
wraps a list without copying it, so a wrapper costs nothing worth saving.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import pairwise


class OffsetRanges:
    """`flat`: ascending, half-open pairs, shared with the caller."""

    __slots__ = ("flat",)

    def __init__(self, flat: list[int]) -> None:
        self.flat = flat

    @classmethod
    def of_offsets(cls, offsets: list[int]) -> "OffsetRanges":
        """The runs of ascending offsets: [3, 4, 5, 8] becomes [3, 6) and [8, 9)."""
        if not offsets:
            return cls([])
        # Most batches are one run without a hole, and need no loop.
        if offsets[-1] - offsets[0] == len(offsets) - 1:
            return cls([offsets[0], offsets[-1] + 1])
        flat = [offsets[0]]
        before = offsets[0]
        for offset in offsets:
            if offset > before + 1:
                flat += (before + 1, offset)
            before = offset
        flat.append(before + 1)
        return cls(flat)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.flat[::2], self.flat[1::2], strict=True)

    def __len__(self) -> int:
        """How many ranges there are."""
        return len(self.flat) // 2

    def __contains__(self, offset: int) -> bool:
        # An odd number of boundaries at or below the offset: it lies inside a range.
        return bisect_right(self.flat, offset) % 2 == 1

    @property
    def end(self) -> int:
        """The end of the last range; -1 without one."""
        return self.flat[-1] if self.flat else -1

    @property
    def is_sound(self) -> bool:
        """Whether each range has an end and none begins before the one before it ends."""
        return not len(self.flat) % 2 and all(low <= high for low, high in pairwise(self.flat))

    def add(self, start: int, end: int) -> None:
        """Append a range, which must not begin before the last one ends."""
        self.flat += (start, end)

    def count(self, start: int = 0) -> int:
        """How many offsets from `start` on lie in the ranges."""
        return sum(max(0, end - max(low, start)) for low, end in self)

    def between(self, start: int, end: int) -> list[int]:
        """What lies in [start, end), which is not empty, as flat pairs."""
        flat = self.flat
        first, last = bisect_right(flat, start), bisect_left(flat, end)
        # An odd index: `start` or `end` lies inside a range.
        inside = flat[first:last]
        if first % 2:
            inside.insert(0, start)
        if last % 2:
            inside.append(end)
        return inside

    def holes(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of [start, end) that no range covers."""
        flat = self.flat
        # Ranges begin at even indexes: the one that `start` lies in, else the first one behind it.
        i = bisect_right(flat, start) & ~1
        while start < end and i < len(flat):
            if flat[i] > start:
                yield start, min(flat[i], end)
            start = max(start, flat[i + 1])
            i += 2
        if start < end:
            yield start, end
