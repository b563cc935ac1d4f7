"""The second pass: every line is handed to its producer at its time.

The main thread reads ahead by one line, prepares it (timestamps, headers) and then waits for its moment; lines that are
due go to the workers in batches, one for each producer. A few workers are started some seconds before their
first line, except where a name comes back after its crash: taking up the same transactional.id ends the transaction
that hangs, so that must not happen early.
"""

import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import msgspec

from txninsightd.tools.events_file import BadLine, Control, Line, Record
from txninsightd.tools.replaying.plan import Life, Sequence, Survey, Timeline, TsPaths
from txninsightd.tools.replaying.publisher import Due
from txninsightd.tools.replaying.timestamps import shift_timestamps
from txninsightd.tools.replaying.workers import Crew
from txninsightd.vocabulary import KEPT_TIME_HEADER

BATCH_LINES = 500
LOOKAHEAD_S = 5.0
EARLY_AT_ONCE = 64


@dataclass(frozen=True)
class Rewrite:
    """What is done to records on their way: timestamps shifted, or kept and marked as such."""

    ts_paths: TsPaths
    shift_s: int = 0
    keep_time: bool = False
    epoch: float = 0.0

    def due(self, due: float | None, line: Record | Control) -> Due:
        """The line as it is to be published, with its moment."""
        if isinstance(line, Control):
            return Due(due, line)
        if self.keep_time:
            headers = (line.headers or {}) | {KEPT_TIME_HEADER: "1"}
            timestamp_ms = round((line.at + self.epoch) * 1000)
            return Due(due, msgspec.structs.replace(line, headers=headers), timestamp_ms)
        if self.shift_s and line.payload is not None and line.holds_json:
            payload = shift_timestamps(line.payload, self.ts_paths.of(line.topic), self.shift_s)
            line = msgspec.structs.replace(line, payload=payload)
        return Due(due, line)


@dataclass
class Progress:
    """How far the replay has come: the number and `at` of the last line that was handed over, out of all."""

    line: int = 0
    at: float = 0.0


class Conductor:
    """Hands the lines of a file to the crew, in order and in time, until they end or `stopping` is set."""

    def __init__(
        self,
        found: Survey,
        timeline: Timeline,
        crew: Crew,
        stopping: threading.Event,
        show: Callable[[Progress], None],
    ) -> None:
        self._transactional = found.transactional
        # Those who may be started before their first line; the others are started by their first batch.
        self._ahead = deque(life for life in found.lives if not life.successor and timeline.is_timed)
        self._lives: dict[str, deque[Life]] = defaultdict(deque)
        for life in found.lives:
            self._lives[life.producer].append(life)
        self._timeline = timeline
        self._start = 0.0
        self._crew = crew
        self._stopping = stopping
        self._show = show
        self._sequence = Sequence()
        self._batches: dict[Life, list[Due]] = {}
        self._batched = 0
        self._over: set[Life] = set()
        self._early: set[Life] = set()
        self.progress = Progress(at=timeline.first_at)

    def start_first(self) -> None:
        """Have the producers that are needed first ready before time begins to run. Raises Refusal."""
        workers = [self._crew.start(life) for life in self._needed_until(LOOKAHEAD_S)]
        for worker in workers:
            worker.wait_opened()

    def run(self, lines: Iterable[tuple[int, Line | BadLine]], rewrite: Rewrite, start: float) -> None:
        """Publish all lines, the first of them at `start` (monotonic clock)."""
        self._start = start
        reached = self._timeline.first_at
        for number, line in lines:
            if self._stopping.is_set():
                break
            if isinstance(line, Record | Control):
                reached = max(reached, line.at)
                due = start + self._timeline.offset(reached) if self._timeline.is_timed else None
                # Each line is asked about, once and in order: `_sequence` follows the file as the survey's did.
                self._take(number, line, None if self._is_misplaced(line) else rewrite.due(due, line))
        self._hand_over()

    def _take(self, number: int, line: Record | Control, item: Due | None) -> None:
        """`item` is the line as it is to be published; None when it is misplaced and left out."""
        if item is not None and item.due is not None and item.due > time.monotonic():
            # What is due must not wait for what is not yet.
            self._hand_over()
            self._wait_until(item.due)
            if self._stopping.is_set():
                return
        lives = self._lives[line.producer]
        if item is not None:
            self._batches.setdefault(lives[0], []).append(item)
            self._batched += 1
        # A record that is left out may be a life's last line; a control line that was refused belongs to none.
        if lives and lives[0].last_line == number:
            self._over.add(lives.popleft())
        self.progress.line, self.progress.at = number, line.at
        if self._batched >= BATCH_LINES:
            self._hand_over()

    def _is_misplaced(self, line: Record | Control) -> bool:
        """The survey has named such lines already."""
        if isinstance(line, Control):
            return self._sequence.refusal(line) is not None
        return line.producer in self._transactional and not self._sequence.inside(line.producer)

    def _hand_over(self) -> None:
        # Nothing of them is left to hand over.
        for life in self._over - self._batches.keys():
            self._crew.leave(life)
        # In the order of their lines, so a crashed one has left when its successor is hired, and told of it.
        for life, batch in self._batches.items():
            self._crew.put(life, batch)
            if life in self._over:
                self._crew.leave(life)
        self._early.difference_update(self._batches, self._over)
        self._batches, self._batched, self._over = {}, 0, set()
        self._show(self.progress)

    def _wait_until(self, due: float) -> None:
        while not self._stopping.is_set():
            now = time.monotonic()
            for life in self._needed_until(now - self._start + LOOKAHEAD_S):
                self._crew.start(life)
            if due <= now:
                return
            self._stopping.wait(min(due, self._next_start()) - now)

    def _next_start(self) -> float:
        """When a worker is to be started ahead of its first line."""
        if not self._ahead or len(self._early) >= EARLY_AT_ONCE:
            return math.inf
        return self._start + self._timeline.offset(self._ahead[0].first_at) - LOOKAHEAD_S

    def _needed_until(self, offset_s: float) -> Iterator[Life]:
        """Lives whose first line is due by then and still to come."""
        while self._ahead and len(self._early) < EARLY_AT_ONCE:
            if self._timeline.offset(self._ahead[0].first_at) > offset_s:
                return
            life = self._ahead.popleft()
            # Else it was started by its first batch.
            if life.first_line > self.progress.line:
                self._early.add(life)
                yield life
