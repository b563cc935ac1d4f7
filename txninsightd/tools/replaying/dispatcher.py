"""The second pass: dispatches each line to its producer at its time.

The main thread reads one line ahead, prepares it (timestamps, headers) and waits until it is due. Due lines go to the
workers in batches, one per producer. Workers start some seconds before their first line. The exception is a producer
that comes back after a crash: its transactional.id aborts the open transaction, which must not happen early.
"""

import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import msgspec

from txninsightd.tools.events_file import BadLine, Control, Line, Record
from txninsightd.tools.replaying.plan import ProducerSession, Survey, Timeline, TransactionTracker, TsPaths
from txninsightd.tools.replaying.publisher import ScheduledLine
from txninsightd.tools.replaying.timestamps import shift_timestamps
from txninsightd.tools.replaying.workers import WorkerPool
from txninsightd.vocabulary import KEPT_TIME_HEADER

BATCH_LINES = 500
LOOKAHEAD_S = 5.0
EARLY_AT_ONCE = 64


@dataclass(frozen=True)
class Rewrite:
    """How records are rewritten: timestamps shifted, or kept and marked with a header."""

    ts_paths: TsPaths
    shift_s: int = 0
    keep_time: bool = False
    epoch: float = 0.0

    def schedule(self, due: float | None, line: Record | Control) -> ScheduledLine:
        """The line as published, with its time."""
        if isinstance(line, Control):
            return ScheduledLine(due, line)
        if self.keep_time:
            headers = (line.headers or {}) | {KEPT_TIME_HEADER: "1"}
            timestamp_ms = round((line.at + self.epoch) * 1000)
            return ScheduledLine(due, msgspec.structs.replace(line, headers=headers), timestamp_ms)
        if self.shift_s and line.payload is not None and line.holds_json:
            payload = shift_timestamps(line.payload, self.ts_paths.of(line.topic), self.shift_s)
            line = msgspec.structs.replace(line, payload=payload)
        return ScheduledLine(due, line)


@dataclass
class Progress:
    """The number and `at` of the last dispatched line. `dispatched`: how many lines have gone to their producers."""

    line: int = 0
    at: float = 0.0
    dispatched: int = 0


class Dispatcher:
    """Dispatches the lines of a file in order and on time, until they end or `stopping` is set."""

    def __init__(
        self,
        found: Survey,
        timeline: Timeline,
        pool: WorkerPool,
        stopping: threading.Event,
        show: Callable[[Progress], None],
    ) -> None:
        self._transactional = found.transactional
        # Sessions to start before their first line. The first batch starts the others.
        self._ahead = deque(session for session in found.sessions if not session.after_crash and timeline.is_timed)
        self._sessions: dict[str, deque[ProducerSession]] = defaultdict(deque)
        for session in found.sessions:
            self._sessions[session.producer].append(session)
        self._timeline = timeline
        self._start = 0.0
        self._pool = pool
        self._stopping = stopping
        self._show = show
        self._tracker = TransactionTracker()
        self._batches: dict[ProducerSession, list[ScheduledLine]] = {}
        self._batched = 0
        self._finished: set[ProducerSession] = set()
        self._started_early: set[ProducerSession] = set()
        self.progress = Progress(at=timeline.first_at)

    def start_first(self) -> None:
        """Start the first producers and wait until they are ready. Raises Refusal."""
        workers = [self._pool.start(session) for session in self._needed_until(LOOKAHEAD_S)]
        for worker in workers:
            worker.wait_opened()

    def run(self, lines: Iterable[tuple[int, Line | BadLine]], rewrite: Rewrite, start: float) -> None:
        """Publish all lines, the first one at `start` (monotonic clock)."""
        self._start = start
        reached = self._timeline.first_at
        for number, line in lines:
            if self._stopping.is_set():
                break
            if isinstance(line, Record | Control):
                reached = max(reached, line.at)
                due = start + self._timeline.offset(reached) if self._timeline.is_timed else None
                # Check every line once and in order: `_tracker` follows the file as in the survey.
                self._dispatch(number, line, None if self._is_misplaced(line) else rewrite.schedule(due, line))
        self._flush_batches()

    def _dispatch(self, number: int, line: Record | Control, item: ScheduledLine | None) -> None:
        """`item` is the line as published; None when it is misplaced and skipped."""
        if item is not None and item.due is not None and item.due > time.monotonic():
            # Due lines must not wait for later ones.
            self._flush_batches()
            self._wait_until(item.due)
            if self._stopping.is_set():
                return
        sessions = self._sessions[line.producer]
        if item is not None:
            self._batches.setdefault(sessions[0], []).append(item)
            self._batched += 1
            self.progress.dispatched += 1
        # A skipped record may be a session's last line; a rejected control line belongs to no session.
        if sessions and sessions[0].last_line == number:
            self._finished.add(sessions.popleft())
        self.progress.line, self.progress.at = number, line.at
        if self._batched >= BATCH_LINES:
            self._flush_batches()

    def _is_misplaced(self, line: Record | Control) -> bool:
        """Whether the line is misplaced; the survey has reported it."""
        if isinstance(line, Control):
            return self._tracker.apply(line) is not None
        return line.producer in self._transactional and not self._tracker.is_open(line.producer)

    def _flush_batches(self) -> None:
        # All their lines are dispatched.
        for session in self._finished - self._batches.keys():
            self._pool.retire(session)
        # In line order: a crashed session is retired before its successor starts.
        for session, batch in self._batches.items():
            self._pool.put(session, batch)
            if session in self._finished:
                self._pool.retire(session)
        self._started_early.difference_update(self._batches, self._finished)
        self._batches, self._batched, self._finished = {}, 0, set()
        self._show(self.progress)

    def _wait_until(self, due: float) -> None:
        while not self._stopping.is_set():
            now = time.monotonic()
            for session in self._needed_until(now - self._start + LOOKAHEAD_S):
                self._pool.start(session)
            if due <= now:
                return
            self._stopping.wait(min(due, self._next_start()) - now)

    def _next_start(self) -> float:
        """When the next worker must start ahead of its first line."""
        if not self._ahead or len(self._started_early) >= EARLY_AT_ONCE:
            return math.inf
        return self._start + self._timeline.offset(self._ahead[0].first_at) - LOOKAHEAD_S

    def _needed_until(self, offset_s: float) -> Iterator[ProducerSession]:
        """Sessions with a first line that is due by then and not yet read."""
        while self._ahead and len(self._started_early) < EARLY_AT_ONCE:
            if self._timeline.offset(self._ahead[0].first_at) > offset_s:
                return
            session = self._ahead.popleft()
            if session.first_line > self.progress.line:
                self._started_early.add(session)
                yield session
