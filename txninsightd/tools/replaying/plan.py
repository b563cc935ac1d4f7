"""What a file asks for, learnt in one pass before anything is published, and when each line is due.

The survey streams: it keeps one entry for each producer's life, each topic and the first bad lines, never a line.
A *life* runs from a producer's first line to its last one, or to its crash; a name that goes on after its crash
begins another life, as a restarted process with the same transactional.id. Knowing where lives begin and end lets
the replayer create producers shortly before they are needed and close them once they are not.

Which producers are transactional is known only at the end of the pass, so records outside begin ... commit
are counted by producer and become bad lines afterwards; the second pass skips them by the same rule.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from txninsightd.tools.events_file import Action, BadLine, Control, Header, Line, Record
from txninsightd.tools.replaying.timestamps import DEFAULT_TS_PATHS, first_time

NAMED_BAD_LINES = 20
# Three years: what counts from 0 is below that, what counts from 1970 has passed it in March 1973.
_EPOCH_SECONDS_ABOVE = 1e8


@dataclass(eq=False)
class Life:
    """One producer from its first line to its last one; `successor` when the name crashed before."""

    producer: str
    first_line: int
    first_at: float
    successor: bool
    last_line: int = 0
    transactional: bool = False
    crashes: bool = False


@dataclass
class BadLines:
    """How many lines cannot be used, and the first of them with their reasons."""

    count: int = 0
    named: list[tuple[int, str]] = field(default_factory=list)

    def add(self, number: int, reason: str, count: int = 1) -> None:
        self.count += count
        if len(self.named) < NAMED_BAD_LINES:
            self.named.append((number, reason))


class Sequence:
    """Follows begin, commit, abort and crash of every producer, and says what makes no sense."""

    def __init__(self) -> None:
        self._open: set[str] = set()

    def inside(self, producer: str) -> bool:
        """Is a Kafka transaction of the producer open here?"""
        return producer in self._open

    def refusal(self, line: Control) -> str | None:
        """Take a control line, or say why it makes no sense here."""
        if line.action is Action.BEGIN:
            if line.producer in self._open:
                return f"begin, but {line.producer!r} has not ended its Kafka transaction before"
            self._open.add(line.producer)
        # A crash makes sense whether something is open or not.
        elif line.action is not Action.CRASH and line.producer not in self._open:
            return f"{line.action}, but {line.producer!r} has no Kafka transaction open"
        else:
            self._open.discard(line.producer)
        return None


@dataclass(frozen=True)
class TsPaths:
    """Where the timestamps of a topic's values stand: as the operator says, else as the header says, else at `ts`."""

    given: tuple[str, ...] | None = None
    by_topic: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, topic: str) -> tuple[str, ...]:
        """Dotted paths."""
        return self.given or self.by_topic.get(topic, DEFAULT_TS_PATHS)

    def with_header(self, header: Header) -> "TsPaths":
        """The same, knowing what the header says."""
        said = {name: (facts.ts_path,) for name, facts in header.topics.items() if facts.ts_path}
        return TsPaths(self.given, said)


@dataclass
class Survey:
    """What the first pass found.

    `topics` maps a topic to the highest partition named for it (-1: none), `first_stamp` is `at` and ts (epoch seconds)
    of the first record that carries a timestamp, `events` counts the records and control lines that can be used.
    """

    ts_paths: TsPaths = field(default_factory=TsPaths)

    header: Header = field(default_factory=Header)
    lines: int = 0
    events: int = 0
    first_at: float = math.inf
    last_at: float = -math.inf
    first_stamp: tuple[float, float] | None = None
    topics: dict[str, int] = field(default_factory=dict)
    lives: list[Life] = field(default_factory=list)
    transactional: set[str] = field(default_factory=set)
    bad: BadLines = field(default_factory=BadLines)

    @property
    def epoch(self) -> float:
        """What to add to an `at` to get epoch seconds: nothing, unless `at` counts from 0 in this file.

        Then the header says it, or else the first timestamp, which is taken to be that of its own `at`.
        """
        if self.first_at > _EPOCH_SECONDS_ABOVE:
            return 0.0
        if self.header.epoch is not None:
            return self.header.epoch
        at, ts = self.first_stamp or (0.0, 0.0)
        return ts - at if ts > _EPOCH_SECONDS_ABOVE else 0.0


def survey(lines: Iterable[tuple[int, Line | BadLine]], ts_paths: TsPaths) -> Survey:
    """Read everything once. `ts_paths` are completed from the file's header."""
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
        self._sequence = Sequence()
        self._living: dict[str, Life] = {}
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
        for life in found.lives:
            life.transactional = life.producer in found.transactional
        for producer in found.transactional & self._strays.keys():
            stray = self._strays[producer]
            found.events -= stray.count
            found.bad.add(stray.first_line, _stray_reason(producer, stray.count), stray.count)
        found.bad.named.sort()
        return found

    def _take_record(self, number: int, line: Record) -> None:
        found = self._found
        if not self._sequence.inside(line.producer):
            self._strays.setdefault(line.producer, _Stray(number)).count += 1
        partition = -1 if line.partition is None else line.partition
        # -2: so that -1, which stands for none, is entered as well.
        if partition > found.topics.get(line.topic, -2):
            found.topics[line.topic] = partition
        if found.first_stamp is None and line.payload is not None and line.holds_json:
            ts = first_time(line.payload, found.ts_paths.of(line.topic))
            found.first_stamp = None if ts is None else (line.at, ts)
        self._count(number, line)

    def _take_control(self, number: int, line: Control) -> None:
        # Even a line that makes no sense says that the producer is transactional.
        self._found.transactional.add(line.producer)
        refusal = self._sequence.refusal(line)
        if refusal is not None:
            self._found.bad.add(number, refusal)
            return
        life = self._count(number, line)
        if line.action is Action.CRASH:
            life.crashes = True
            self._crashed.add(line.producer)
            del self._living[line.producer]

    def _count(self, number: int, line: Record | Control) -> Life:
        found = self._found
        found.events += 1
        found.first_at = min(found.first_at, line.at)
        found.last_at = max(found.last_at, line.at)
        life = self._living.get(line.producer)
        if life is None:
            # Not from line.at: it is due no earlier than the lines before it.
            life = Life(line.producer, number, found.last_at, line.producer in self._crashed)
            self._living[line.producer] = life
            found.lives.append(life)
        life.last_line = number
        return life


def _stray_reason(producer: str, count: int) -> str:
    others = f" (and {count - 1} more)" if count > 1 else ""
    return f"a record of the transactional producer {producer!r} outside begin ... commit{others}"


@dataclass(frozen=True)
class Timeline:
    """When lines are due, in seconds after the start. `speed` infinity: as fast as it goes, no timing is kept."""

    first_at: float
    speed: float

    @property
    def is_timed(self) -> bool:
        """Is there a timing to keep?"""
        return math.isfinite(self.speed)

    def offset(self, at: float) -> float:
        """`at` must be the largest so far: a line is never due before the one that precedes it in the file."""
        return (at - self.first_at) / self.speed


def rebase_start(now: float, first_at: float, last_at: float, speed: float) -> tuple[float, int]:
    """When to publish the first line (`now` or up to a second later), and the shift (seconds) of every timestamp.

    The shift is the moment at which the last line will be published, less that line's own `at`; slower than original it
    is taken from the first line instead, so that nothing is stamped later than it is published. It is a whole number,
    which leaves durations exactly as they were; the start waits for the moment at which it is true.
    """
    if math.isinf(speed):
        return now, math.floor(now - last_at)
    lead = min((last_at - first_at) / speed - last_at, -first_at)
    shift_s = math.ceil(now + lead)
    return shift_s - lead, shift_s
