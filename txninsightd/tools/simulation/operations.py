"""The operations of each transaction: a pure function of its type, its failure and a random stream.

A healthy transaction is `open, (step_open, step_done)*, close`. Each event comes after a pause, and the flow says how
events are grouped into Kafka transactions. A failure rewrites that list. The clock is elsewhere: engine.py runs the
operations.

An event's *slot* is its number in the plan. The first write of a slot fixes its ts. `again=True` writes it with that ts
(a duplicate, or a retry with the same timestamps), `again=False` with the present time.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

from txninsightd.tools.simulation import scenario as s
from txninsightd.tools.simulation.delays import Delay
from txninsightd.vocabulary import Kind

LATE_WRITER_HOLD_S = 0.5
"""How long a close stays uncommitted after the out-of-order record. Both are then read before the close is decided."""

AFTER_LATE_OPEN_S = 2.0
"""The pause after the open of a late retry: its other events must not overtake it on other partitions."""

SHORTEST_PAUSE_S = 0.001
"""The shortest pause between two events of a transaction, so that no two have the same ts by chance."""


class PlannedEvent(NamedTuple):
    """A future event, `pause_s` after the one before it."""

    slot: int
    kind: Kind
    step: str | None
    topic: str
    status: str | None
    pause_s: float


class Pause(NamedTuple):
    """Wait. With `since_abort` the pause does not end near the end of the retry grace either."""

    seconds: float
    since_abort: bool = False


class Begin(NamedTuple):
    """Begin a Kafka transaction."""


class End(NamedTuple):
    """End the Kafka transaction: commit, abort, or crash (it stays open, and the producer is dead)."""

    word: str


class Write(NamedTuple):
    """Write an event. `by_another`: a separate plain producer writes it."""

    event: PlannedEvent
    again: bool = False
    skew_s: float = 0.0
    by_another: bool = False


class FixTimestamp(NamedTuple):
    """Fix the ts of a slot now; its event is written later."""

    event: PlannedEvent


class ReplaceProducer(NamedTuple):
    """Continue with another producer."""


Operation = Pause | Begin | End | Write | FixTimestamp | ReplaceProducer
Operations = list[Operation]


class PlanContext(NamedTuple):
    """The inputs of a transaction's operations."""

    events: list[PlannedEvent]
    per: s.Per
    rng: Random
    commit_after_s: Delay
    retry_grace_s: float


def plan(txn_type: s.TxnType, rng: Random) -> list[PlannedEvent]:
    """The events of a healthy transaction."""
    events: list[PlannedEvent] = [
        PlannedEvent(0, Kind.TRANSACTION_OPEN, None, txn_type.open_topic or txn_type.topic, None, 0.0),
    ]
    for step in txn_type.steps:
        topic = step.topic or txn_type.topic
        lasts = step.lasts_s.draw(rng) * _outlier(step.outliers or txn_type.outliers, rng)
        events.append(PlannedEvent(len(events), Kind.STEP_OPEN, step.name, topic, None, step.pause_s.draw(rng)))
        events.append(PlannedEvent(len(events), Kind.STEP_DONE, step.name, topic, None, lasts))
    status = _status(txn_type.statuses, rng)
    close_topic = txn_type.close_topic or txn_type.topic
    pause = txn_type.close_after_s.draw(rng)
    events.append(PlannedEvent(len(events), Kind.TRANSACTION_CLOSE, None, close_topic, status, pause))
    return events


def _outlier(outliers: s.Outliers | None, rng: Random) -> float:
    if outliers is None or rng.random() >= outliers.probability:
        return 1.0
    return outliers.factor


def _status(statuses: dict[str, float], rng: Random) -> str | None:
    if not statuses:
        return None
    return rng.choices(list(statuses), list(statuses.values()))[0]


# --- Pieces -----------------------------------------------------------------------------------------------------------


def _groups(events: Sequence[PlannedEvent], per: s.Per) -> list[Sequence[PlannedEvent]]:
    """The events of each Kafka transaction."""
    match per:
        case "event":
            return [[event] for event in events]
        case "close" if len(events) > 1 and events[-1].kind == Kind.TRANSACTION_CLOSE:
            return [events[:-1], events[-1:]]
        case _:
            return [events]


def _paused(event: PlannedEvent) -> Operations:
    # Slot 0 is written at the transaction's arrival, without a pause.
    return [Pause(max(event.pause_s, SHORTEST_PAUSE_S))] if event.slot else []


def _group(
    context: PlanContext, group: Sequence[PlannedEvent], ending: str = "commit", again: bool = False
) -> Operations:
    """One Kafka transaction. The pause before its first event comes before its begin."""
    if context.per == "none":
        return [op for event in group for op in (*_paused(event), Write(event, again))]
    operations: Operations = [*_paused(group[0]), Begin(), Write(group[0], again)]
    for event in group[1:]:
        operations += (*_paused(event), Write(event, again))
    return [*operations, Pause(context.commit_after_s.draw(context.rng)), End(ending)]


def _all(context: PlanContext, events: Sequence[PlannedEvent]) -> Operations:
    return [op for group in _groups(events, context.per) for op in _group(context, group)]


def _last_done(events: Sequence[PlannedEvent]) -> int:
    return max(i for i, event in enumerate(events) if event.kind == Kind.STEP_DONE)


KIND_OF = {
    "open": Kind.TRANSACTION_OPEN,
    "step_open": Kind.STEP_OPEN,
    "step_done": Kind.STEP_DONE,
    "close": Kind.TRANSACTION_CLOSE,
}


def _chosen(context: PlanContext, word: str) -> int:
    """The index of a random event of a kind."""
    return context.rng.choice([i for i, event in enumerate(context.events) if event.kind == KIND_OF[word]])


def _half(context: PlanContext, after_events: int | None) -> int:
    """How many events come before the failure: at least one, and never the close."""
    if after_events is None:
        return context.rng.randint(1, len(context.events) - 1)
    return min(after_events, len(context.events) - 1)


# --- Failures ---------------------------------------------------------------------------------------------------------


def _stuck(context: PlanContext, failure: s.Stuck) -> Operations:
    cut = _half(context, failure.after_events)
    operations = _all(context, context.events[:cut])
    if failure.wakes_after_s is None:
        return operations
    first, *others = context.events[cut:]
    return [*operations, *_all(context, [first._replace(pause_s=failure.wakes_after_s.draw(context.rng)), *others])]


def _slow(context: PlanContext, failure: s.Slow) -> Operations:
    opening, *steps, closing = context.events
    lasts = failure.lasts_s.draw(context.rng)
    events, total = [opening], 0.0
    while total < lasts:
        for step in steps:
            pause = failure.pace_s.draw(context.rng)
            total += pause
            # A new slot, since a slot has one ts.
            events.append(step._replace(slot=len(events), pause_s=pause))
    if failure.closes:
        events.append(closing._replace(slot=len(events)))
    return _all(context, events)


def _abort(context: PlanContext, failure: s.Abort) -> Operations:
    first = context.events if failure.at == "end" else context.events[: _half(context, failure.after_events)]
    operations = _group(context, first, "abort")
    for attempt in range(1, failure.retries + 1):
        after = failure.retry_after_s.draw(context.rng)
        ending = "abort" if attempt < failure.retries or failure.gives_up else "commit"
        retried = context.events
        if after > context.retry_grace_s:
            retried = [retried[0], retried[1]._replace(pause_s=AFTER_LATE_OPEN_S), *retried[2:]]
        operations += [Pause(after, since_abort=True), *_group(context, retried, ending, failure.timestamps == "same")]
    return operations


def _close_abort(context: PlanContext, failure: s.CloseAbort) -> Operations:
    closing = context.events[-1:]
    operations = [*_all(context, context.events[:-1]), *_group(context, closing, "abort")]
    at_once = [closing[0]._replace(pause_s=0.0)]
    for attempt in range(1, failure.retries + 1):
        ending = "abort" if attempt < failure.retries else "commit"
        operations.append(Pause(failure.retry_after_s.draw(context.rng), since_abort=True))
        operations += _group(context, at_once, ending, failure.timestamps == "same")
    return operations


def _event_abort(context: PlanContext, failure: s.EventAbort) -> Operations:
    chosen = _chosen(context, failure.of)
    operations: Operations = []
    for i, event in enumerate(context.events):
        operations += _group(context, [event], "abort" if i == chosen else "commit")
        if i == chosen and failure.retried:
            again = event._replace(pause_s=0.2)
            operations += _group(context, [again], "commit", failure.timestamps == "same")
    return operations


def _crash(context: PlanContext, failure: s.Crash) -> Operations:
    events = context.events if failure.at == "close" else context.events[: _half(context, failure.after_events)]
    *whole, broken = _groups(events, context.per)
    operations = [op for group in whole for op in _group(context, group)] + _group(context, broken, "crash")
    if failure.retry_after_s is not None:
        operations += [
            ReplaceProducer(),
            Pause(failure.retry_after_s.draw(context.rng)),
            *_all(context, context.events),
        ]
    return operations


def _duplicate(context: PlanContext, failure: s.Duplicate) -> Operations:
    chosen = context.events[_chosen(context, failure.of)]
    operations: Operations = []
    for op in _all(context, context.events):
        operations.append(op)
        if isinstance(op, Write) and op.event is chosen:
            operations.append(Write(chosen, again=True))
    return operations


def _missing(context: PlanContext, failure: s.Missing) -> Operations:
    if failure.of == "ends":
        return _all(context, context.events[1:-1])
    chosen = _chosen(context, failure.of)
    return _all(context, [event for i, event in enumerate(context.events) if i != chosen])


def _out_of_order(context: PlanContext, failure: s.OutOfOrder) -> Operations:
    late = context.events[_last_done(context.events)]
    operations: Operations = []
    for op in _all(context, [event for event in context.events if event is not late]):
        # Its ts is fixed at its regular place. It is written after the close and before the commit.
        if (
            isinstance(op, Pause)
            and not any(isinstance(o, FixTimestamp) for o in operations)
            and _past(operations, late)
        ):
            operations += [Pause(late.pause_s), FixTimestamp(late)]
        operations.append(op)
        if isinstance(op, Write) and op.event.kind == Kind.TRANSACTION_CLOSE:
            by = failure.by_s.draw(context.rng)
            operations += [Pause(by), Write(late, again=True, by_another=True), Pause(LATE_WRITER_HOLD_S)]
    return operations


def _past(operations: Operations, late: PlannedEvent) -> bool:
    """Whether the event before `late` was written."""
    return any(isinstance(op, Write) and op.event.slot == late.slot - 1 for op in operations)


def _event_after_close(context: PlanContext, failure: s.EventAfterClose) -> Operations:
    late = context.events[_last_done(context.events)]
    operations: Operations = []
    for op in _all(context, [event for event in context.events if event is not late]):
        operations.append(op)
        if isinstance(op, Write) and op.event.kind == Kind.TRANSACTION_CLOSE:
            operations += [*_paused(late), Write(late)]
    return operations


def _skew(context: PlanContext, failure: s.Skew) -> Operations:
    chosen = context.events[_chosen(context, failure.of)]
    return [
        op._replace(skew_s=failure.by_s) if isinstance(op, Write) and op.event is chosen else op
        for op in _all(context, context.events)
    ]


def _late_event(context: PlanContext, failure: s.LateEvent) -> Operations:
    late = context.events[_last_done(context.events)]._replace(pause_s=failure.after_s.draw(context.rng))
    return [*_all(context, context.events), *_group(context, [late], again=True)]


OPERATIONS_BY_FAILURE: dict[type, Callable[[PlanContext, Any], Operations]] = {
    s.Stuck: _stuck,
    s.Slow: _slow,
    s.Abort: _abort,
    s.CloseAbort: _close_abort,
    s.EventAbort: _event_abort,
    s.Crash: _crash,
    s.Duplicate: _duplicate,
    s.Missing: _missing,
    s.OutOfOrder: _out_of_order,
    s.EventAfterClose: _event_after_close,
    s.Skew: _skew,
    s.LateEvent: _late_event,
}


def operations_for(context: PlanContext, failure: s.Failure | None) -> Operations:
    """The operations of one transaction, with or without a failure."""
    if failure is None:
        return _all(context, context.events)
    return OPERATIONS_BY_FAILURE[type(failure)](context, failure)
