"""How many log lines each process has dropped, in memory that all processes of the daemon share.

The parent creates the table before it forks: a slot for itself and one for each child that there will ever be. A child
keeps its slot over restarts, so no count falls. Each slot has one writer, the process that has its name now.

The table also says which process has left the output in the middle of a line. Another process then ends that line
before it writes its own, so that a line that was cut costs no other line.
"""

import mmap
import os
import time
from collections.abc import Callable, Iterable, Mapping

PARENT = "parent"
LATELY_S = 60.0
"""For how long after the last dropped line `notes` mentions it."""

CELL_BYTES = 8
COUNT, SAID, ERROR, AT = range(4)
"""The cells of a slot: lines dropped, those that the log has mentioned, the last error number, nanoseconds of
CLOCK_MONOTONIC. The table's first cell is the unfinished line's slot, counted from 1."""
SLOT_CELLS = 4


class DroppedLines:
    """The shared table. `children`: their names; an unknown name shares the parent's slot."""

    def __init__(self, children: Iterable[str] = (), now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._slots = {name: slot for slot, name in enumerate(dict.fromkeys([PARENT, *children]))}
        self._cells = memoryview(mmap.mmap(-1, CELL_BYTES * (1 + SLOT_CELLS * len(self._slots)))).cast("Q")
        self._now_ns = now_ns

    def counts(self) -> Mapping[str, int]:
        """The lines that each process has dropped since the daemon's start."""
        return {name: self._cells[_cell(slot, COUNT)] for name, slot in self._slots.items()}

    def notes(self) -> list[str]:
        """What an operator should know, in words: nothing unless lines were dropped lately."""
        lately = {name: slot for name, slot in self._slots.items() if self._is_late(slot)}
        if not lately:
            return []
        last = max(lately.values(), key=lambda slot: self._cells[_cell(slot, AT)])
        reason = os.strerror(self._cells[_cell(last, ERROR)])
        counts = ", ".join(f"{name} {self._cells[_cell(slot, COUNT)]:,}" for name, slot in lately.items())
        return [f"log lines were dropped in the last minute ({reason}); since the start: {counts}"]

    def _is_late(self, slot: int) -> bool:
        at = self._cells[_cell(slot, AT)]
        return bool(at) and self._now_ns() - at < LATELY_S * 1e9

    def of_process(self, name: str) -> "OwnDrops":
        """The slot of the process with this name, for its writer."""
        return OwnDrops(self._cells, self._slots.get(name, 0), self._now_ns)


class OwnDrops:
    """One process's slot."""

    def __init__(self, cells: "memoryview[int]", slot: int, now_ns: Callable[[], int]) -> None:
        self._cells = cells
        self._slot = slot
        self._now_ns = now_ns

    def add(self, error: int, lines: int = 1) -> None:
        """Lines were dropped; `error`: errno's reason."""
        cells, slot = self._cells, self._slot
        cells[_cell(slot, ERROR)] = error
        cells[_cell(slot, AT)] = self._now_ns()
        cells[_cell(slot, COUNT)] += lines

    def take_over(self, former: "OwnDrops") -> None:
        """Count what this process has dropped before there was this table."""
        lines = former._cells[_cell(former._slot, COUNT)]
        if lines:
            self.add(former._cells[_cell(former._slot, ERROR)], lines)

    @property
    def unsaid(self) -> int:
        """The dropped lines that the log does not mention yet."""
        return self._cells[_cell(self._slot, COUNT)] - self._cells[_cell(self._slot, SAID)]

    def mark_said(self) -> None:
        """The log mentions all of them."""
        self._cells[_cell(self._slot, SAID)] = self._cells[_cell(self._slot, COUNT)]

    @property
    def any_unfinished(self) -> bool:
        """Whether the output ends in the middle of a line."""
        return self._cells[0] != 0

    @property
    def is_unfinished(self) -> bool:
        """Whether it ends in the middle of this process's line."""
        return self._cells[0] == self._slot + 1

    def mark_unfinished(self, unfinished: bool) -> None:
        """The output now ends in the middle of this process's line, or at the end of a line."""
        self._cells[0] = self._slot + 1 if unfinished else 0


def _cell(slot: int, which: int) -> int:
    return 1 + SLOT_CELLS * slot + which
