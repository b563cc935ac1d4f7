"""The life cycle of a business transaction, as two tables: RULES (states) and CAUSES (why it is stuck).

This is the specification, in its plainest form: a state is a function of a transaction's sightings with their
verdicts; a cause is a function of those, of the thresholds, and of how far both views have seen. No history, no order
of arrival, no clock. The ledger computes the same incrementally, and a property test holds the two equal after every
message. The tables in docs/lifecycle.md are drawn from here.

First match wins in both tables. A stuck transaction keeps its state; the cause is laid over it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from txninsightd.core.events import Judged, Life, closes, event_order
from txninsightd.vocabulary import Cause, Kind, Outcome, PartitionRef, State, Thresholds, Verdict

NEVER = float("inf")


# --- States -----------------------------------------------------------------------------------------------------------


def _has_close(verdict: Verdict) -> Callable[[Life], bool]:
    return lambda life: bool(closes(life, verdict))


def last_aborted_close(life: Life) -> Judged | None:
    """The aborted close that is last in (ts, topic, partition, offset)."""
    return max(closes(life, Verdict.ABORTED), key=lambda j: event_order(j.event), default=None)


def retried_since(close: Judged, life: Life) -> bool:
    """Whether a standing event shows that the transaction was tried again after this aborted close.

    In the close's own partition offsets tell before from after. Elsewhere only time can: an event stamped later, or
    another copy of something that was aborted, stamped not before it.
    """
    aborted: dict[tuple[int, str | None], float] = {}
    for j in life:
        if j.verdict is Verdict.ABORTED:
            what = (j.kind, j.event.signature.step)
            # Of several aborted copies the first: from its ts on, a standing one may be its retry.
            aborted[what] = min(aborted.get(what, NEVER), j.event.ts)
    for j in life:
        if not j.stands:
            continue
        if j.event.ref == close.event.ref:
            if j.event.offset > close.event.offset:
                return True
        elif j.event.ts > close.event.ts or j.event.ts >= aborted.get((j.kind, j.event.signature.step), NEVER):
            return True
    return False


def is_aborted(life: Life) -> bool:
    """Rule 4: nothing but aborted events, or an aborted close without a sign of a retry."""
    if life and all(j.verdict is Verdict.ABORTED for j in life):
        return True
    close = last_aborted_close(life)
    return close is not None and not retried_since(close, life)


class Rule(NamedTuple):
    """One row of the table of states."""

    state: State
    condition: str
    holds: Callable[[Life], bool]


RULES = (
    Rule(State.CLOSED, "a committed close", _has_close(Verdict.COMMITTED)),
    Rule(State.TENTATIVELY_CLOSED, "a pending close", _has_close(Verdict.PENDING)),
    Rule(State.UNKNOWN, "a close of unknown verdict", _has_close(Verdict.UNKNOWN)),
    Rule(State.ABORTED, "all events aborted, or an aborted close and no sign of a retry since", is_aborted),
    Rule(State.OPEN, "otherwise", lambda life: True),
)


ENDED = (State.CLOSED, State.UNKNOWN)
"""States that only wait to be settled."""


def state_of(life: Life) -> State:
    """The state of a transaction, by the first rule that holds."""
    return next(rule.state for rule in RULES if rule.holds(life))


# --- Causes -----------------------------------------------------------------------------------------------------------


class Outage(NamedTuple):
    """A span in which the broker gave no answer."""

    began: float
    ended: float


def due_after(reference: float, wait_s: float, outages: Sequence[Outage], grace_s: float) -> float:
    """When a wait that began at `reference` is over. An outage that began while the wait ran adds its own length.

    The wait then ends no earlier than `grace_s` after the outage, since producers could not write during it.
    """
    due = reference + wait_s
    # Outages are ascending: a wait that one of them has lengthened may run into the next.
    for outage in outages:
        if outage.began < due and outage.ended > reference:
            due = max(due + outage.ended - max(outage.began, reference), outage.ended + grace_s)
    return due


@dataclass(frozen=True, slots=True)
class Situation:
    """A transaction, and how far all was seen. Moments are seconds since the epoch.

    `watermark` is the smallest monitor `as_of` over the partitions that may carry its events; `both_as_of(ref)` the
    smaller of both views' there; `last_stable_offset(ref)` is -1 while the validator is on its way to it.
    `maybe_unread`: events of it may lie where the monitor could not read. `last_at`: of the last event, if not kept.
    `pauses`: all spans in which waits do not run; `outages`: those of them that count also for a wait that was over
    before, by `over_until(*causes)` (pauses.py says why).
    """

    life: Life
    state: State
    thresholds: Thresholds
    retry_grace_s: float
    watermark: float
    both_as_of: Callable[[PartitionRef], float]
    last_stable_offset: Callable[[PartitionRef], int]
    maybe_unread: bool
    outages: Sequence[Outage] = ()
    pauses: Sequence[Outage] = ()
    over_until: Callable[..., float] = lambda *_: -NEVER
    last_at: float = -NEVER

    def due_after(self, reference: float, wait_s: float, *causes: Cause) -> float:
        """When a wait is over that makes it stuck for one of these causes."""
        was_over = reference + wait_s <= self.over_until(*causes)
        return due_after(reference, wait_s, self.outages if was_over else self.pauses, self.retry_grace_s)


class Stuck(NamedTuple):
    """Why, and since when (the moment at which the threshold was passed)."""

    cause: Cause
    since: float


def last_activity(life: Life) -> float:
    """The larger of the largest ts and the largest record timestamp."""
    return max(max(j.event.ts, j.event.record_ts) for j in life)


def earliest_open(life: Life) -> float:
    """The ts of the earliest standing open; NEVER when there is none."""
    return min((j.event.ts for j in life if j.kind == Kind.TRANSACTION_OPEN and j.stands), default=NEVER)


def latest_abort(life: Life) -> float:
    """The latest moment at which one of its events was found aborted or unknown; 0 when none was."""
    return max((j.decided_at for j in life if not j.stands), default=0.0)


def _idle(s: Situation) -> float | None:
    if s.state is not State.OPEN or s.maybe_unread:
        return None
    # `last_at` knows of the steps that were not kept.
    since = s.due_after(max(last_activity(s.life), s.last_at), s.thresholds.idle_after_s, Cause.IDLE)
    return since if s.watermark > since else None


def _overdue(s: Situation) -> float | None:
    if s.state is not State.OPEN or s.maybe_unread:
        return None
    # Without a standing open this is NEVER, too.
    since = s.due_after(earliest_open(s.life), s.thresholds.overdue_after_s, Cause.OVERDUE)
    return since if s.watermark > since else None


LATE_CLOSE = (Cause.UNDECIDED, Cause.COMMIT_PENDING)
"""The causes of a close that waits for too long: which one it is may change while it waits."""


def _late_closes(s: Situation, at_lso: bool) -> float | None:
    """Since when the earliest of its pending closes waits for too long, of those that do (not) lie at the LSO."""
    if s.state is not State.TENTATIVELY_CLOSED:
        return None
    late = []
    for j in closes(s.life, Verdict.PENDING):
        due = s.due_after(j.event.record_ts, s.thresholds.commit_pending_after_s, *LATE_CLOSE)
        if s.both_as_of(j.event.ref) > due and (j.event.offset == s.last_stable_offset(j.event.ref)) == at_lso:
            late.append(due)
    return min(late, default=None)


def _undecided(s: Situation) -> float | None:
    # The holder of the last stable offset is not known here, unless the close itself lies at that offset.
    return _late_closes(s, at_lso=False)


def _commit_pending(s: Situation) -> float | None:
    return _late_closes(s, at_lso=True)


def _never_committed(s: Situation) -> float | None:
    if s.state is not State.ABORTED or s.maybe_unread or not any(j.stands for j in s.life):
        return None
    since = s.due_after(latest_abort(s.life), s.retry_grace_s, Cause.NEVER_COMMITTED)
    # A pending event may turn out aborted too, and then no event stands: the validator must have passed it.
    seen = [s.both_as_of(j.event.ref) for j in s.life if j.verdict is Verdict.PENDING]
    return since if min([s.watermark, *seen]) > since else None


class CauseRule(NamedTuple):
    """One row of the table of causes: `since` gives the moment from which the cause holds, or None."""

    cause: Cause
    condition: str
    since: Callable[[Situation], float | None]


CAUSES = (
    CauseRule(Cause.IDLE, "Open, and no event for longer than `idle_after_s`", _idle),
    CauseRule(Cause.OVERDUE, "Open for longer than `overdue_after_s` since the earliest standing open", _overdue),
    CauseRule(
        Cause.UNDECIDED,
        "a close is pending for longer than `commit_pending_after_s`, and the holder of the last stable offset is not "
        "known",
        _undecided,
    ),
    CauseRule(
        Cause.COMMIT_PENDING,
        "a close is pending for longer than `commit_pending_after_s`, and it lies at the last stable offset: "
        "its own producer's Kafka transaction is the open one",
        _commit_pending,
    ),
    CauseRule(
        Cause.NEVER_COMMITTED,
        "its close was aborted, `retry_grace_s` has passed in both views, nothing was tried again, and events stand",
        _never_committed,
    ),
)


def cause_of(situation: Situation) -> Stuck | None:
    """Why a transaction is stuck, by the first cause that holds. Partial and replayed ones never are: do not ask."""
    for rule in CAUSES:
        since = rule.since(situation)
        if since is not None:
            return Stuck(rule.cause, since)
    return None


class Wait(NamedTuple):
    """What makes a transaction stuck if it lasts too long. `reference`: its beginning; NEVER where there is none."""

    reference: float
    wait_s: float

    @property
    def due(self) -> float:
        """When it is over, without pauses."""
        return self.reference + self.wait_s


def wait_of(s: Situation, cause: Cause) -> Wait:
    """The wait that makes it stuck for this cause; of several closes that of the earliest."""
    reference = wait_s = NEVER
    if s.state is State.OPEN and cause is Cause.IDLE:
        reference, wait_s = max(last_activity(s.life), s.last_at), s.thresholds.idle_after_s
    elif s.state is State.OPEN and cause is Cause.OVERDUE:
        reference, wait_s = earliest_open(s.life), s.thresholds.overdue_after_s
    elif s.state is State.TENTATIVELY_CLOSED and cause in LATE_CLOSE:
        pending = closes(s.life, Verdict.PENDING)
        reference, wait_s = min(j.event.record_ts for j in pending), s.thresholds.commit_pending_after_s
    elif s.state is State.ABORTED and cause is Cause.NEVER_COMMITTED:
        reference, wait_s = latest_abort(s.life), s.retry_grace_s
    return Wait(reference, wait_s)


# --- Endings ----------------------------------------------------------------------------------------------------------


def attempts_of(life: Life) -> int:
    """How often it was tried: the most, over opens and closes, of aborted copies + 1 if any stands; at least 1."""
    most = 1
    for kind in (Kind.TRANSACTION_OPEN, Kind.TRANSACTION_CLOSE):
        copies = [j for j in life if j.kind == kind]
        aborted = sum(j.verdict is Verdict.ABORTED for j in copies)
        most = max(most, aborted + any(j.stands for j in copies))
    return most


def deciding_close(life: Life) -> Judged | None:
    """Of the committed and unknown closes the smallest in (record timestamp, topic, partition, offset)."""
    return min(
        closes(life, Verdict.COMMITTED, Verdict.UNKNOWN),
        key=lambda j: (j.event.record_ts, j.event.ref, j.event.offset),
        default=None,
    )


def up_to_first_close(life: Life) -> Life:
    """Colocated: what counts are the events up to and including the first committed or unknown close."""
    decided = closes(life, Verdict.COMMITTED, Verdict.UNKNOWN)
    if not decided:
        return life
    first = min(decided, key=lambda j: (j.event.ref, j.event.offset)).event
    # In other partitions (a breach of colocation) offsets do not tell before from after: all their events count.
    return [j for j in life if j.event.ref != first.ref or j.event.offset <= first.offset]


def outcome_of(life: Life, partial: bool, maybe_unread: bool) -> Outcome:
    """The outcome of a transaction whose end is final.

    Wholly aborted it is `aborted` only if we can know that: not when its beginning was never read, nor when a retry
    may lie where the monitor could not read.
    """
    if closes(life, Verdict.COMMITTED):
        return Outcome.CLOSED
    if all(j.verdict is Verdict.ABORTED for j in life) and not partial and not maybe_unread:
        return Outcome.ABORTED
    return Outcome.UNKNOWN
