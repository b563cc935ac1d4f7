"""What becomes of one transaction, told from its records: states, causes, lives, settlement.

This follows the published rules in its own words and from what was injected; it shares no code with the daemon, which
it is there to judge. A transaction's story is the list of its records, each with the moment at which its fate was
decided. The story is walked from moment to moment, and every cause is noted.

A real replay has jitter, and the daemon sees things up to a second or two later. So each story that is not plainly calm
is told five times: as it is, and with everything that hangs on time happening a margin earlier or later, with the
broker's time-outs at their earliest and latest. If that changes anything, the transaction is *borderline*: nobody
could hold the daemon to it, so the simulator says so and the scenario must be mended.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from txninsightd.tools.simulation.figures import Figures, closes_of, event_order, figures_of, opens_of
from txninsightd.tools.simulation.kafkalog import PENDING, Record
from txninsightd.vocabulary import Anomaly, Cause, Kind, Outcome, State

SETTLE_S = 2.0
"""The daemon settles within this time of the moment from which it may: its views are asked once a second."""

NEVER = float("inf")


class Knobs(NamedTuple):
    """One way for the same story to be told: all that hangs on time `shift_s` later, time-outs at -1 .. +1 slack."""

    shift_s: float = 0.0
    slack: int = 0

    def decided(self, record: Record) -> float:
        """When its fate is known."""
        return record.decided_at + self.slack * record.slack_s


PLAIN = Knobs()


@dataclass(frozen=True, slots=True)
class Judge:
    """The rules of one scenario for one type, in seconds; `until` is the moment of judgement."""

    idle_after_s: float
    overdue_after_s: float
    commit_pending_after_s: float
    retry_grace_s: float
    settle_lateness_s: float
    margin_s: float
    colocated: bool
    until: float


class LifeTold(NamedTuple):
    """What became of one life of a transaction (a late retry begins another)."""

    records: list[Record]
    state: State
    cause: Cause | None
    causes: tuple[Cause, ...]
    settled: bool
    outcome: Outcome | None


class Told(NamedTuple):
    """What became of a transaction."""

    lives: list[LifeTold]
    late_events: int
    partial: bool
    attempts: int
    figures: Figures | None
    anomalies: tuple[Anomaly, ...]


# --- States and causes ------------------------------------------------------------------------------------------------


class Moment:
    """A life as it stands at one moment."""

    def __init__(self, life: list[Record], judge: Judge, knobs: Knobs, now: float) -> None:
        self.judge = judge
        self.shift = knobs.shift_s
        self.now = now
        self.seen = [r for r in life if r.at <= now]
        decided = [r for r in self.seen if knobs.decided(r) <= now]
        self.aborted = [r for r in decided if r.aborted]
        self.committed = [r for r in decided if not r.aborted]
        self.pending = [r for r in self.seen if knobs.decided(r) > now]
        self.standing = [r for r in self.seen if not (r.aborted and knobs.decided(r) <= now)]
        self.latest_abort = max((knobs.decided(r) for r in self.aborted), default=0.0)

    def state(self) -> State:
        """The table of states, first match."""
        # No rule for unknown verdicts: nothing that is injected leaves a gap.
        if closes_of(self.committed):
            return State.CLOSED
        if closes_of(self.pending):
            return State.TENTATIVELY_CLOSED
        if not self.standing or (closes_of(self.aborted) and not self._retried()):
            return State.ABORTED
        return State.OPEN

    def _retried(self) -> bool:
        last = max(closes_of(self.aborted), key=event_order)
        return any(self._shows_retry(r, last) for r in self.standing)

    def _shows_retry(self, record: Record, close: Record) -> bool:
        # Within a partition the offset tells what came later. Elsewhere the ts must, and a copy may bear the first's.
        if record.partition is close.partition:
            return record.offset > close.offset
        copies = [r.ts for r in self.aborted if (r.kind, r.step) == (record.kind, record.step)]
        return record.ts > close.ts or any(record.ts >= ts for ts in copies)

    def cause(self, state: State) -> Cause | None:
        """The table of causes, first match. Without a sighted open it is never stuck."""
        if not opens_of(self.seen):
            return None
        match state:
            case State.OPEN:
                return self._cause_of_open()
            case State.TENTATIVELY_CLOSED:
                return self._cause_of_close()
            case State.ABORTED if self.standing and self._passed(self.latest_abort, self.judge.retry_grace_s):
                return Cause.NEVER_COMMITTED
            case _:
                return None

    def _passed(self, since: float, after_s: float) -> bool:
        return self.now >= since + (after_s + self.shift)

    def _cause_of_open(self) -> Cause | None:
        if self._passed(max(max(r.ts, r.at) for r in self.seen), self.judge.idle_after_s):
            return Cause.IDLE
        if self._passed(min((r.ts for r in opens_of(self.standing)), default=NEVER), self.judge.overdue_after_s):
            return Cause.OVERDUE
        return None

    def _cause_of_close(self) -> Cause | None:
        late = [r for r in closes_of(self.pending) if self._passed(r.at, self.judge.commit_pending_after_s)]
        if not late:
            return None
        # Undecided comes first in the table: one late close away from the LSO is enough.
        return Cause.COMMIT_PENDING if all(r.at_lso_from <= self.now for r in late) else Cause.UNDECIDED


def _moments(life: list[Record], judge: Judge, knobs: Knobs) -> Iterator[float]:
    """All moments at which something may change."""
    for r in life:
        yield r.at
        yield r.at_lso_from
        yield knobs.decided(r)
        yield max(r.ts, r.at) + (judge.idle_after_s + knobs.shift_s)
        if r.kind == Kind.TRANSACTION_OPEN:
            yield r.ts + (judge.overdue_after_s + knobs.shift_s)
        if r.kind == Kind.TRANSACTION_CLOSE:
            yield r.at + (judge.commit_pending_after_s + knobs.shift_s)
        if r.aborted:
            yield knobs.decided(r) + (judge.retry_grace_s + knobs.shift_s)


# --- Lives ------------------------------------------------------------------------------------------------------------


def _deciding(life: list[Record]) -> Record | None:
    """The committed close that decides; None while none is known to be committed."""
    committed = [r for r in closes_of(life) if not r.aborted and r.decided_at < PENDING]
    return min(committed, key=lambda r: (r.at, r.partition.topic, r.partition.index, r.offset), default=None)


def _settles_at(life: list[Record], judge: Judge, knobs: Knobs) -> float:
    """When a life settles, as far as its records so far tell."""
    all_decided = max(knobs.decided(r) for r in life)
    close = _deciding(life)
    if close is not None:
        if judge.colocated:
            # At once: that can be noticed later, but come no earlier.
            return knobs.decided(close) + max(knobs.shift_s, 0.0)
        return all_decided + SETTLE_S + knobs.shift_s
    if all(r.aborted for r in life):
        return all_decided + judge.retry_grace_s + SETTLE_S + knobs.shift_s
    return NEVER


def _lives(records: list[Record], judge: Judge, knobs: Knobs) -> tuple[list[list[Record]], int]:
    """Cut a story into lives, and count the events that came after the end of one."""
    lives: list[list[Record]] = [[]]
    late = 0
    for record in records:
        life = lives[-1]
        if not life or not _comes_late(record, life, judge, knobs):
            life.append(record)
        # Only what ended as aborted begins again; wholly aborted without an open it ended as unknown.
        elif record.kind == Kind.TRANSACTION_OPEN and all(r.aborted for r in life) and opens_of(life):
            lives.append([record])
        else:
            late += 1
    return lives, late


def _comes_late(record: Record, life: list[Record], judge: Judge, knobs: Knobs) -> bool:
    close = _deciding(life)
    # Whatever lies behind the close that decides, even if it was written before that was decided.
    if close is not None and judge.colocated:
        return True
    settles_at = _settles_at(life, judge, knobs)
    if close is not None and knobs.shift_s < 0:  # partitions read past the lateness are not waited for
        settles_at = min(settles_at, close.at + judge.settle_lateness_s)
    return record.at > settles_at


def _tell_life(life: list[Record], judge: Judge, knobs: Knobs) -> LifeTold:
    settles_at = _settles_at(life, judge, knobs)
    stop = min(settles_at, judge.until)
    causes: list[Cause] = []
    cause = None
    # Between two of these moments nothing changes.
    for now in sorted({m for m in _moments(life, judge, knobs) if m < stop} | {stop}):
        moment = Moment(life, judge, knobs, now)
        was, cause = cause, moment.cause(moment.state())
        if cause is not None and cause is not was:
            causes.append(cause)
    state = Moment(life, judge, knobs, stop).state()
    settled = settles_at <= judge.until
    return LifeTold(life, state, cause, tuple(causes), settled, _outcome(life, state) if settled else None)


def _outcome(life: list[Record], state: State) -> Outcome:
    if state is State.CLOSED:
        return Outcome.CLOSED
    return Outcome.ABORTED if opens_of(life) else Outcome.UNKNOWN


# --- Telling ----------------------------------------------------------------------------------------------------------


def _attempts(life: list[Record], now: float, knobs: Knobs) -> int:
    most = 1
    for copies in (opens_of(life), closes_of(life)):
        aborted = sum(r.aborted and knobs.decided(r) <= now for r in copies)
        most = max(most, aborted + (aborted < len(copies)))
    return most


def tell(records: list[Record], judge: Judge, knobs: Knobs = PLAIN) -> Told:
    """What became of a transaction, from its records in the order in which they were written."""
    parts, late_events = _lives(records, judge, knobs)
    return _finish([_tell_life(life, judge, knobs) for life in parts], late_events, judge, knobs)


def _committed(life: list[Record], now: float, knobs: Knobs) -> list[Record]:
    return [r for r in life if not r.aborted and knobs.decided(r) <= now]


def _finish(lives: list[LifeTold], late_events: int, judge: Judge, knobs: Knobs) -> Told:
    last = lives[-1]
    closed = last.settled and last.state is State.CLOSED
    figures = figures_of(last.records, _committed(last.records, judge.until, knobs)) if closed else None
    anomalies = set(figures.anomalies) if figures else set()
    if last.settled and any(r.future for r in last.records):
        anomalies.add(Anomaly.FUTURE_TIMESTAMP)
    if last.settled and judge.colocated and len({r.partition for r in last.records}) > 1:
        anomalies.add(Anomaly.NOT_COLOCATED)
    if last.settled and len(lives) > 1:
        anomalies.add(Anomaly.LATE_RETRY)
    attempts = _attempts(last.records, judge.until, knobs)
    return Told(lives, late_events, not opens_of(last.records), attempts, figures, tuple(sorted(anomalies)))


def calm_state(records: list[Record], judge: Judge) -> State | None:
    """CLOSED or ABORTED if it plainly came to that, with no threshold, time-out or settlement anywhere near."""
    if any(r.slack_s or r.future for r in records):
        return None
    aborted = sum(r.aborted for r in records)
    closes = closes_of(records)
    if aborted not in (0, len(records)) or len(closes) > 1 or not (aborted or closes):
        return None
    if aborted and not opens_of(records):
        return None
    if judge.colocated and closes and closes[0] is not records[-1]:
        return None
    decided = max(r.decided_at for r in records)
    wait_s = judge.retry_grace_s if aborted else 0.0
    if decided + wait_s + SETTLE_S + judge.margin_s > judge.until or _is_tense(records, closes, decided, judge):
        return None
    return State.ABORTED if aborted else State.CLOSED


def _is_tense(records: list[Record], closes: list[Record], decided: float, judge: Judge) -> bool:
    """Whether it came near a threshold, or wrote something when its fate could already be known."""
    first, last, margin = records[0], records[-1], judge.margin_s
    pending = decided - closes[0].at if closes else 0.0
    return (
        last.at > min(r.decided_at for r in (closes or records))
        or (bool(closes) and last.at - closes[0].at > judge.settle_lateness_s - margin)
        or pending > min(judge.commit_pending_after_s, judge.settle_lateness_s) - margin
        or max(last.at, decided) - min(first.at, min(r.ts for r in records)) > judge.overdue_after_s - margin
        or max((b.at - a.at for a, b in pairwise(records)), default=0.0) > judge.idle_after_s - margin
        or (not closes and decided - last.at > judge.idle_after_s - margin)
    )


def tell_calm(records: list[Record], state: State, judge: Judge) -> Told:
    """`tell` for a calm one: nothing happened on the way."""
    life = LifeTold(records, state, None, (), True, Outcome.CLOSED if state is State.CLOSED else Outcome.ABORTED)
    return _finish([life], 0, judge, PLAIN)


def is_borderline(told: Told, records: list[Record], judge: Judge) -> bool:
    """Whether a margin more or less would change what became of it."""
    margin = judge.margin_s
    others = [Knobs(shift, slack) for shift in (-margin, margin) for slack in (-1, 1)]
    return any(_gist(tell(records, judge, knobs)) != _gist(told) for knobs in others)


def _gist(told: Told) -> object:
    return told._replace(lives=[life._replace(records=[]) for life in told.lives])
