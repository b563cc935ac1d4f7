"""The expected result of one transaction, computed from its records: states, causes, lives, settlement.

This is a second implementation of the published rules, for testing the daemon, and shares no code with it. A
transaction's trace is the list of its records, each with the time at which it was decided. The evaluation steps through
all times at which something may change, and notes every cause.

A real replay has jitter, and the daemon sees events up to two seconds late. So each trace that is not clearly
undisturbed is evaluated five times: as it is, and with all time limits a margin earlier or later, each with the
broker's time-outs at their earliest and latest. If a result differs, the transaction is *borderline*: the daemon may go
either way, so the simulator reports it and the scenario needs a fix.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from txninsightd.tools.simulation.figures import Figures, closes_of, event_order, figures_of, opens_of
from txninsightd.tools.simulation.kafkalog import PENDING, Record
from txninsightd.vocabulary import Anomaly, Cause, Kind, Outcome, State

SETTLE_S = 2.0
"""The daemon settles within this time after it may: it queries the ends of its views once a second."""

NEVER = float("inf")


class Variation(NamedTuple):
    """A variation in timing: all time limits `shift_s` later, time-outs `slack` (-1, 0, 1) times their slack later."""

    shift_s: float = 0.0
    slack: int = 0

    def decided(self, record: Record) -> float:
        """When the record is decided."""
        return record.decided_at + self.slack * record.slack_s


UNVARIED = Variation()


@dataclass(frozen=True, slots=True)
class EvaluationRules:
    """The rules of a scenario for one type, in seconds; `until` is the time of the evaluation."""

    idle_after_s: float
    overdue_after_s: float
    commit_pending_after_s: float
    retry_grace_s: float
    settle_lateness_s: float
    margin_s: float
    colocated: bool
    until: float


class LifeResult(NamedTuple):
    """The result of one life of a transaction (a late retry begins another life)."""

    records: list[Record]
    state: State
    cause: Cause | None
    causes: tuple[Cause, ...]
    settled: bool
    outcome: Outcome | None


class Result(NamedTuple):
    """The result of a transaction."""

    lives: list[LifeResult]
    late_events: int
    partial: bool
    attempts: int
    figures: Figures | None
    anomalies: tuple[Anomaly, ...]


# --- States and causes ------------------------------------------------------------------------------------------------


class LifeSnapshot:
    """A life at one moment."""

    def __init__(self, life: list[Record], rules: EvaluationRules, variation: Variation, now: float) -> None:
        self.rules = rules
        self.shift = variation.shift_s
        self.now = now
        self.seen = [r for r in life if r.at <= now]
        decided = [r for r in self.seen if variation.decided(r) <= now]
        self.aborted = [r for r in decided if r.aborted]
        self.committed = [r for r in decided if not r.aborted]
        self.pending = [r for r in self.seen if variation.decided(r) > now]
        self.standing = [r for r in self.seen if not (r.aborted and variation.decided(r) <= now)]
        self.latest_abort = max((variation.decided(r) for r in self.aborted), default=0.0)

    def state(self) -> State:
        """The table of states, first match."""
        # There is no rule for unknown verdicts: the simulator injects no gaps.
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
        # Within a partition the offset gives the order. Across partitions the ts does; a copy may have the first's ts.
        if record.partition is close.partition:
            return record.offset > close.offset
        copies = [r.ts for r in self.aborted if (r.kind, r.step) == (record.kind, record.step)]
        return record.ts > close.ts or any(record.ts >= ts for ts in copies)

    def cause(self, state: State) -> Cause | None:
        """The table of causes, first match. A transaction without a sighted open is never stuck."""
        if not opens_of(self.seen):
            return None
        match state:
            case State.OPEN:
                return self._cause_of_open()
            case State.TENTATIVELY_CLOSED:
                return self._cause_of_close()
            case State.ABORTED if self.standing and self._passed(self.latest_abort, self.rules.retry_grace_s):
                return Cause.NEVER_COMMITTED
            case _:
                return None

    def _passed(self, since: float, after_s: float) -> bool:
        return self.now >= since + (after_s + self.shift)

    def _cause_of_open(self) -> Cause | None:
        if self._passed(max(max(r.ts, r.at) for r in self.seen), self.rules.idle_after_s):
            return Cause.IDLE
        if self._passed(min((r.ts for r in opens_of(self.standing)), default=NEVER), self.rules.overdue_after_s):
            return Cause.OVERDUE
        return None

    def _cause_of_close(self) -> Cause | None:
        late = [r for r in closes_of(self.pending) if self._passed(r.at, self.rules.commit_pending_after_s)]
        if not late:
            return None
        # UNDECIDED comes first in the table: one late close that is not at the LSO is enough.
        return Cause.COMMIT_PENDING if all(r.at_lso_from <= self.now for r in late) else Cause.UNDECIDED


def _change_times(life: list[Record], rules: EvaluationRules, variation: Variation) -> Iterator[float]:
    """All times at which the state or the cause may change."""
    for r in life:
        yield r.at
        yield r.at_lso_from
        yield variation.decided(r)
        yield max(r.ts, r.at) + (rules.idle_after_s + variation.shift_s)
        if r.kind == Kind.TRANSACTION_OPEN:
            yield r.ts + (rules.overdue_after_s + variation.shift_s)
        if r.kind == Kind.TRANSACTION_CLOSE:
            yield r.at + (rules.commit_pending_after_s + variation.shift_s)
        if r.aborted:
            yield variation.decided(r) + (rules.retry_grace_s + variation.shift_s)


# --- Lives ------------------------------------------------------------------------------------------------------------


def _deciding(life: list[Record]) -> Record | None:
    """The deciding committed close; None before one is known to be committed."""
    committed = [r for r in closes_of(life) if not r.aborted and r.decided_at < PENDING]
    return min(committed, key=lambda r: (r.at, r.partition.topic, r.partition.index, r.offset), default=None)


def _settles_at(life: list[Record], rules: EvaluationRules, variation: Variation) -> float:
    """When a life settles, according to its records so far."""
    all_decided = max(variation.decided(r) for r in life)
    close = _deciding(life)
    if close is not None:
        if rules.colocated:
            # It settles at once. The daemon may notice later, but not earlier.
            return variation.decided(close) + max(variation.shift_s, 0.0)
        return all_decided + SETTLE_S + variation.shift_s
    if all(r.aborted for r in life):
        return all_decided + rules.retry_grace_s + SETTLE_S + variation.shift_s
    return NEVER


def _lives(records: list[Record], rules: EvaluationRules, variation: Variation) -> tuple[list[list[Record]], int]:
    """Split a trace into lives, and count the events after the end of a life."""
    lives: list[list[Record]] = [[]]
    late = 0
    for record in records:
        life = lives[-1]
        if not life or not _comes_late(record, life, rules, variation):
            life.append(record)
        # Only a life that ended as aborted is followed by another. Aborted without an open, it ended as unknown.
        elif record.kind == Kind.TRANSACTION_OPEN and all(r.aborted for r in life) and opens_of(life):
            lives.append([record])
        else:
            late += 1
    return lives, late


def _comes_late(record: Record, life: list[Record], rules: EvaluationRules, variation: Variation) -> bool:
    close = _deciding(life)
    # All records after the deciding close are late, even if they were written before it was decided.
    if close is not None and rules.colocated:
        return True
    settles_at = _settles_at(life, rules, variation)
    if close is not None and variation.shift_s < 0:  # the daemon does not wait for partitions read past the lateness
        settles_at = min(settles_at, close.at + rules.settle_lateness_s)
    return record.at > settles_at


def _evaluate_life(life: list[Record], rules: EvaluationRules, variation: Variation) -> LifeResult:
    settles_at = _settles_at(life, rules, variation)
    stop = min(settles_at, rules.until)
    causes: list[Cause] = []
    cause = None
    # Nothing changes between two of these times.
    for now in sorted({m for m in _change_times(life, rules, variation) if m < stop} | {stop}):
        snapshot = LifeSnapshot(life, rules, variation, now)
        was, cause = cause, snapshot.cause(snapshot.state())
        if cause is not None and cause is not was:
            causes.append(cause)
    state = LifeSnapshot(life, rules, variation, stop).state()
    settled = settles_at <= rules.until
    return LifeResult(life, state, cause, tuple(causes), settled, _outcome(life, state) if settled else None)


def _outcome(life: list[Record], state: State) -> Outcome:
    if state is State.CLOSED:
        return Outcome.CLOSED
    return Outcome.ABORTED if opens_of(life) else Outcome.UNKNOWN


# --- The whole transaction --------------------------------------------------------------------------------------------


def _attempts(life: list[Record], now: float, variation: Variation) -> int:
    most = 1
    for copies in (opens_of(life), closes_of(life)):
        aborted = sum(r.aborted and variation.decided(r) <= now for r in copies)
        most = max(most, aborted + (aborted < len(copies)))
    return most


def evaluate(records: list[Record], rules: EvaluationRules, variation: Variation = UNVARIED) -> Result:
    """The result of a transaction, from its records in the order of writing."""
    parts, late_events = _lives(records, rules, variation)
    return _result([_evaluate_life(life, rules, variation) for life in parts], late_events, rules, variation)


def _committed(life: list[Record], now: float, variation: Variation) -> list[Record]:
    return [r for r in life if not r.aborted and variation.decided(r) <= now]


def _result(lives: list[LifeResult], late_events: int, rules: EvaluationRules, variation: Variation) -> Result:
    last = lives[-1]
    closed = last.settled and last.state is State.CLOSED
    figures = figures_of(last.records, _committed(last.records, rules.until, variation)) if closed else None
    anomalies = set(figures.anomalies) if figures else set()
    if last.settled and any(r.future for r in last.records):
        anomalies.add(Anomaly.FUTURE_TIMESTAMP)
    if last.settled and rules.colocated and len({r.partition for r in last.records}) > 1:
        anomalies.add(Anomaly.NOT_COLOCATED)
    if last.settled and len(lives) > 1:
        anomalies.add(Anomaly.LATE_RETRY)
    attempts = _attempts(last.records, rules.until, variation)
    return Result(lives, late_events, not opens_of(last.records), attempts, figures, tuple(sorted(anomalies)))


def undisturbed_state(records: list[Record], rules: EvaluationRules) -> State | None:
    """CLOSED or ABORTED if no threshold, time-out or settlement was near; None if the full evaluation is needed."""
    if any(r.slack_s or r.future for r in records):
        return None
    aborted = sum(r.aborted for r in records)
    closes = closes_of(records)
    if aborted not in (0, len(records)) or len(closes) > 1 or not (aborted or closes):
        return None
    if aborted and not opens_of(records):
        return None
    if rules.colocated and closes and closes[0] is not records[-1]:
        return None
    decided = max(r.decided_at for r in records)
    wait_s = rules.retry_grace_s if aborted else 0.0
    if decided + wait_s + SETTLE_S + rules.margin_s > rules.until or _is_near_a_limit(records, closes, decided, rules):
        return None
    return State.ABORTED if aborted else State.CLOSED


def _is_near_a_limit(records: list[Record], closes: list[Record], decided: float, rules: EvaluationRules) -> bool:
    """Whether it came near a threshold, or wrote a record after a decision could be known."""
    first, last, margin = records[0], records[-1], rules.margin_s
    pending = decided - closes[0].at if closes else 0.0
    return (
        last.at > min(r.decided_at for r in (closes or records))
        or (bool(closes) and last.at - closes[0].at > rules.settle_lateness_s - margin)
        or pending > min(rules.commit_pending_after_s, rules.settle_lateness_s) - margin
        or max(last.at, decided) - min(first.at, min(r.ts for r in records)) > rules.overdue_after_s - margin
        or max((b.at - a.at for a, b in pairwise(records)), default=0.0) > rules.idle_after_s - margin
        or (not closes and decided - last.at > rules.idle_after_s - margin)
    )


def evaluate_undisturbed(records: list[Record], state: State, rules: EvaluationRules) -> Result:
    """`evaluate` for an undisturbed transaction, which passes through no cause."""
    life = LifeResult(records, state, None, (), True, Outcome.CLOSED if state is State.CLOSED else Outcome.ABORTED)
    return _result([life], 0, rules, UNVARIED)


def is_borderline(result: Result, records: list[Record], rules: EvaluationRules) -> bool:
    """Whether a margin more or less would change the result."""
    margin = rules.margin_s
    others = [Variation(shift, slack) for shift in (-margin, margin) for slack in (-1, 1)]
    return any(_comparable(evaluate(records, rules, variation)) != _comparable(result) for variation in others)


def _comparable(result: Result) -> object:
    return result._replace(lives=[life._replace(records=[]) for life in result.lives])
