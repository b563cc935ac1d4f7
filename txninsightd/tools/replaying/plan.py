"""The first pass: what a file needs, found before anything is published, and when each line is due.

The survey streams. It keeps one entry per producer session, per topic and per reported bad line, and no line. A
*session* runs from a producer's first line to its last one, or to its crash. A name that continues after its crash
begins another session, like a restarted process with the same transactional.id. Since the replayer knows the sessions,
it creates producers shortly before they are needed and closes them afterwards.

Which producers are transactional is known only at the end of the pass. So records outside begin ... commit are counted
per producer and become bad lines afterwards. The second pass skips them by the same rule.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from txninsightd.tools.events_file import Action, BadLine, Control, Header, Line, Record
from txninsightd.tools.replaying.timestamps import DEFAULT_TS_PATHS, first_time

NAMED_BAD_LINES = 20
# Three years. Times that count from 0 stay below it; epoch seconds passed it in March 1973.
_EPOCH_SECONDS_ABOVE = 1e8


@dataclass(eq=False)
class ProducerSession:
    """A producer from its first line to its last one; `after_crash`: the name crashed before."""

    producer: str
    first_line: int
    first_at: float
    after_crash: bool
    last_line: int = 0
    transactional: bool = False
    crashes: bool = False


@dataclass
class BadLines:
    """The number of bad lines, and the first of them with their reasons."""

    count: int = 0
    named: list[tuple[int, str]] = field(default_factory=list)

    def add(self, number: int, reason: str, count: int = 1) -> None:
        self.count += count
        if len(self.named) < NAMED_BAD_LINES:
            self.named.append((number, reason))


class TransactionTracker:
    """Tracks begin, commit, abort and crash of every producer, and detects invalid ones."""

    def __init__(self) -> None:
        self._open: set[str] = set()

    def is_open(self, producer: str) -> bool:
        """Whether the producer has an open Kafka transaction."""
        return producer in self._open

    def apply(self, line: Control) -> str | None:
        """Apply a control line; returns why it is invalid, or None."""
        if line.action is Action.BEGIN:
            if line.producer in self._open:
                return f"begin, but {line.producer!r} has not ended its previous Kafka transaction"
            self._open.add(line.producer)
        # A crash is valid with or without an open transaction.
        elif line.action is not Action.CRASH and line.producer not in self._open:
            return f"{line.action}, but {line.producer!r} has no open Kafka transaction"
        else:
            self._open.discard(line.producer)
        return None


@dataclass(frozen=True)
class TsPaths:
    """Paths of timestamps in a topic's values: from the operator, else from the header, else `ts`."""

    given: tuple[str, ...] | None = None
    by_topic: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, topic: str) -> tuple[str, ...]:
        """Dotted paths of this topic."""
        return self.given or self.by_topic.get(topic, DEFAULT_TS_PATHS)

    def with_header(self, header: Header) -> "TsPaths":
        """A copy with the header's paths."""
        paths = {name: (facts.ts_path,) for name, facts in header.topics.items() if facts.ts_path}
        return TsPaths(self.given, paths)


@dataclass
class Survey:
    """The result of the first pass.

    `topics` maps a topic to its highest named partition (-1: none). `first_stamp` is `at` and ts (epoch seconds) of the
    first record with a timestamp. `events` counts the usable records and control lines.
    """

    ts_paths: TsPaths = field(default_factory=TsPaths)

    header: Header = field(default_factory=Header)
    lines: int = 0
    events: int = 0
    first_at: float = math.inf
    last_at: float = -math.inf
    first_stamp: tuple[float, float] | None = None
    topics: dict[str, int] = field(default_factory=dict)
    sessions: list[ProducerSession] = field(default_factory=list)
    transactional: set[str] = field(default_factory=set)
    bad: BadLines = field(default_factory=BadLines)

    @property
    def epoch(self) -> float:
        """The offset from `at` to epoch seconds: 0, unless `at` counts from 0 in this file.

        Then the header gives it, or else the first timestamp, which is assumed to be that of its own `at`.
        """
        if self.first_at > _EPOCH_SECONDS_ABOVE:
            return 0.0
        if self.header.epoch is not None:
            return self.header.epoch
        at, ts = self.first_stamp or (0.0, 0.0)
        return ts - at if ts > _EPOCH_SECONDS_ABOVE else 0.0


def survey(lines: Iterable[tuple[int, Line | BadLine]], ts_paths: TsPaths) -> Survey:
    """Read all lines once. The file's header completes `ts_paths`."""
    surveyor = _Surveyor(ts_paths)
    for number, line in lines:
        surveyor.take(number, line)
    return surveyor.finish()


@dataclass
class _Stray:
    first_line: int
    count: int = 0


class _Surveyor:
    def __init__(self, ts_paths: TsPaths) -> None:
        self._found = Survey(ts_paths=ts_paths)
        self._tracker = TransactionTracker()
        self._active: dict[str, ProducerSession] = {}
        self._crashed: set[str] = set()
        self._strays: dict[str, _Stray] = {}

    def take(self, number: int, line: Line | BadLine) -> None:
        self._found.lines = number
        if isinstance(line, Record):
            self._take_record(number, line)
        elif isinstance(line, Control):
            self._take_control(number, line)
        elif isinstance(line, BadLine):
            self._found.bad.add(number, line.reason)
        else:
            self._found.header = line
            self._found.ts_paths = self._found.ts_paths.with_header(line)

    def finish(self) -> Survey:
        found = self._found
        for session in found.sessions:
            session.transactional = session.producer in found.transactional
        for producer in found.transactional & self._strays.keys():
            stray = self._strays[producer]
            found.events -= stray.count
            found.bad.add(stray.first_line, _stray_reason(producer, stray.count), stray.count)
        found.bad.named.sort()
        return found

    def _take_record(self, number: int, line: Record) -> None:
        found = self._found
        if not self._tracker.is_open(line.producer):
            self._strays.setdefault(line.producer, _Stray(number)).count += 1
        partition = -1 if line.partition is None else line.partition
        # -2 is below -1 (no partition), so a topic without partitions is entered too.
        if partition > found.topics.get(line.topic, -2):
            found.topics[line.topic] = partition
        if found.first_stamp is None and line.payload is not None and line.holds_json:
            ts = first_time(line.payload, found.ts_paths.of(line.topic))
            found.first_stamp = None if ts is None else (line.at, ts)
        self._count(number, line)

    def _take_control(self, number: int, line: Control) -> None:
        # Even an invalid control line marks its producer as transactional.
        self._found.transactional.add(line.producer)
        refusal = self._tracker.apply(line)
        if refusal is not None:
            self._found.bad.add(number, refusal)
            return
        session = self._count(number, line)
        if line.action is Action.CRASH:
            session.crashes = True
            self._crashed.add(line.producer)
            del self._active[line.producer]

    def _count(self, number: int, line: Record | Control) -> ProducerSession:
        found = self._found
        found.events += 1
        found.first_at = min(found.first_at, line.at)
        found.last_at = max(found.last_at, line.at)
        session = self._active.get(line.producer)
        if session is None:
            # Not line.at: the line is due no earlier than the lines before it.
            session = ProducerSession(line.producer, number, found.last_at, line.producer in self._crashed)
            self._active[line.producer] = session
            found.sessions.append(session)
        session.last_line = number
        return session


def _stray_reason(producer: str, count: int) -> str:
    others = f" (and {count - 1} more)" if count > 1 else ""
    return f"a record of the transactional producer {producer!r} outside begin ... commit{others}"


@dataclass(frozen=True)
class Timeline:
    """When lines are due, in seconds after the start. With an infinite `speed` there is no timing."""

    first_at: float
    speed: float

    @property
    def is_timed(self) -> bool:
        """Whether lines have due times."""
        return math.isfinite(self.speed)

    def offset(self, at: float) -> float:
        """The due time of `at`, which must be the largest so far: lines are due in file order."""
        return (at - self.first_at) / self.speed


def rebase_start(now: float, first_at: float, last_at: float, speed: float) -> tuple[float, int]:
    """When to publish the first line (`now` or up to a second later), and the shift (seconds) of every timestamp.

    The shift is the publication time of the last line minus that line's `at`. Slower than the original, it uses the
    first line instead, so no timestamp is later than its publication. The shift is a whole number, which leaves
    durations exact. The start is delayed until the shift is exact.
    """
    if math.isinf(speed):
        return now, math.floor(now - last_at)
    lead = min((last_at - first_at) / speed - last_at, -first_at)
    shift_s = math.ceil(now + lead)
    return shift_s - lead, shift_s
