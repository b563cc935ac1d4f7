"""What each transaction will do, as a list of operations: a pure function of its type, its failure and a random stream.

A healthy transaction is `open, (step_open, step_done)*, close`, each event after a pause, cut into Kafka transactions
as its flow says. A failure rewrites that list. Nothing here knows the time: actors.py plays the operations.

An event's *slot* is its number in the plan. The first write of a slot fixes its ts; `again=True` writes it with that ts
(a duplicate, or a retry with the same timestamps), `again=False` with the present one.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

from txninsightd.tools.simulation import scenario as s
from txninsightd.tools.simulation.delays import Delay
from txninsightd.vocabulary import Kind

LATE_WRITER_HOLD_S = 0.5
"""How long a close stays uncommitted after the out-of-order record, so that both are read before it is decided."""

AFTER_LATE_OPEN_S = 2.0
"""The pause after the open of a late retry: its other events must not overtake it on other partitions."""

SHORTEST_PAUSE_S = 0.001
"""Between two events of a transaction: no two of them carry the same ts by chance."""


class Planned(NamedTuple):
    """One event to come, `pause_s` after the one before it."""

    slot: int
    kind: Kind
    step: str | None
    topic: str
    status: str | None
    pause_s: float


class Pause(NamedTuple):
    """Let time pass. With `since_abort` the end is kept clear of the retry grace's end, too."""

    seconds: float
    since_abort: bool = False


class Begin(NamedTuple):
    """Begin a Kafka transaction."""


class End(NamedTuple):
    """End it: commit, abort, or crash (which leaves it open, and the producer dead)."""

    word: str


class Write(NamedTuple):
    """Write an event. `by_another`: a plain producer of its own writes it."""

    event: Planned
    again: bool = False
    skew_s: float = 0.0
    by_another: bool = False


class Stamp(NamedTuple):
    """Fix the ts of a slot now; it is written later."""

    event: Planned


class Replace(NamedTuple):
    """Another producer takes over."""


Operation = Pause | Begin | End | Write | Stamp | Replace
Script = list[Operation]


class Part(NamedTuple):
    """What a script is made of."""

    events: list[Planned]
    per: s.Per
    rng: Random
    commit_after_s: Delay
    retry_grace_s: float


def plan(txn_type: s.TxnType, rng: Random) -> list[Planned]:
    """The events of a healthy transaction."""
    events: list[Planned] = [
        Planned(0, Kind.TRANSACTION_OPEN, None, txn_type.open_topic or txn_type.topic, None, 0.0),
    ]
    for step in txn_type.steps:
        topic = step.topic or txn_type.topic
        lasts = step.lasts_s.draw(rng) * _outlier(step.outliers or txn_type.outliers, rng)
        events.append(Planned(len(events), Kind.STEP_OPEN, step.name, topic, None, step.pause_s.draw(rng)))
        events.append(Planned(len(events), Kind.STEP_DONE, step.name, topic, None, lasts))
    status = _status(txn_type.statuses, rng)
    close_topic = txn_type.close_topic or txn_type.topic
    pause = txn_type.close_after_s.draw(rng)
    events.append(Planned(len(events), Kind.TRANSACTION_CLOSE, None, close_topic, status, pause))
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


def _groups(events: Sequence[Planned], per: s.Per) -> list[Sequence[Planned]]:
    """The events of each Kafka transaction."""
    match per:
        case "event":
            return [[event] for event in events]
        case "close" if len(events) > 1 and events[-1].kind == Kind.TRANSACTION_CLOSE:
            return [events[:-1], events[-1:]]
        case _:
            return [events]


def _paused(event: Planned) -> Script:
    # Slot 0 comes when the transaction arrives.
    return [Pause(max(event.pause_s, SHORTEST_PAUSE_S))] if event.slot else []


def _group(part: Part, group: Sequence[Planned], ending: str = "commit", again: bool = False) -> Script:
    """One Kafka transaction: the pause before its first event comes before its begin."""
    if part.per == "none":
        return [op for event in group for op in (*_paused(event), Write(event, again))]
    script: Script = [*_paused(group[0]), Begin(), Write(group[0], again)]
    for event in group[1:]:
        script += (*_paused(event), Write(event, again))
    return [*script, Pause(part.commit_after_s.draw(part.rng)), End(ending)]


def _all(part: Part, events: Sequence[Planned]) -> Script:
    return [op for group in _groups(events, part.per) for op in _group(part, group)]


def _last_done(events: Sequence[Planned]) -> int:
    return max(i for i, event in enumerate(events) if event.kind == Kind.STEP_DONE)


KIND_OF = {
    "open": Kind.TRANSACTION_OPEN,
    "step_open": Kind.STEP_OPEN,
    "step_done": Kind.STEP_DONE,
    "close": Kind.TRANSACTION_CLOSE,
}


def _chosen(part: Part, word: str) -> int:
    """The index of a random event of a kind."""
    return part.rng.choice([i for i, event in enumerate(part.events) if event.kind == KIND_OF[word]])


def _half(part: Part, after_events: int | None) -> int:
    """How many events come before a break: one at least, the close never."""
    if after_events is None:
        return part.rng.randint(1, len(part.events) - 1)
    return min(after_events, len(part.events) - 1)


# --- Failures ---------------------------------------------------------------------------------------------------------


def _stuck(part: Part, failure: s.Stuck) -> Script:
    cut = _half(part, failure.after_events)
    script = _all(part, part.events[:cut])
    if failure.wakes_after_s is None:
        return script
    first, *others = part.events[cut:]
    return [*script, *_all(part, [first._replace(pause_s=failure.wakes_after_s.draw(part.rng)), *others])]


def _slow(part: Part, failure: s.Slow) -> Script:
    opening, *steps, closing = part.events
    lasts = failure.lasts_s.draw(part.rng)
    events, total = [opening], 0.0
    while total < lasts:
        for step in steps:
            pause = failure.pace_s.draw(part.rng)
            total += pause
            # A slot of its own, since a slot has one ts.
            events.append(step._replace(slot=len(events), pause_s=pause))
    if failure.closes:
        events.append(closing._replace(slot=len(events)))
    return _all(part, events)


def _abort(part: Part, failure: s.Abort) -> Script:
    first = part.events if failure.at == "end" else part.events[: _half(part, failure.after_events)]
    script = _group(part, first, "abort")
    for attempt in range(1, failure.retries + 1):
        after = failure.retry_after_s.draw(part.rng)
        ending = "abort" if attempt < failure.retries or failure.gives_up else "commit"
        retried = part.events
        if after > part.retry_grace_s:
            retried = [retried[0], retried[1]._replace(pause_s=AFTER_LATE_OPEN_S), *retried[2:]]
        script += [Pause(after, since_abort=True), *_group(part, retried, ending, failure.timestamps == "same")]
    return script


def _close_abort(part: Part, failure: s.CloseAbort) -> Script:
    closing = part.events[-1:]
    script = [*_all(part, part.events[:-1]), *_group(part, closing, "abort")]
    at_once = [closing[0]._replace(pause_s=0.0)]
    for attempt in range(1, failure.retries + 1):
        ending = "abort" if attempt < failure.retries else "commit"
        script.append(Pause(failure.retry_after_s.draw(part.rng), since_abort=True))
        script += _group(part, at_once, ending, failure.timestamps == "same")
    return script


def _event_abort(part: Part, failure: s.EventAbort) -> Script:
    chosen = _chosen(part, failure.of)
    script: Script = []
    for i, event in enumerate(part.events):
        script += _group(part, [event], "abort" if i == chosen else "commit")
        if i == chosen and failure.retried:
            again = event._replace(pause_s=0.2)
            script += _group(part, [again], "commit", failure.timestamps == "same")
    return script


def _crash(part: Part, failure: s.Crash) -> Script:
    events = part.events if failure.at == "close" else part.events[: _half(part, failure.after_events)]
    *whole, broken = _groups(events, part.per)
    script = [op for group in whole for op in _group(part, group)] + _group(part, broken, "crash")
    if failure.retry_after_s is not None:
        script += [Replace(), Pause(failure.retry_after_s.draw(part.rng)), *_all(part, part.events)]
    return script


def _duplicate(part: Part, failure: s.Duplicate) -> Script:
    chosen = part.events[_chosen(part, failure.of)]
    script: Script = []
    for op in _all(part, part.events):
        script.append(op)
        if isinstance(op, Write) and op.event is chosen:
            script.append(Write(chosen, again=True))
    return script


def _missing(part: Part, failure: s.Missing) -> Script:
    if failure.of == "ends":
        return _all(part, part.events[1:-1])
    chosen = _chosen(part, failure.of)
    return _all(part, [event for i, event in enumerate(part.events) if i != chosen])


def _out_of_order(part: Part, failure: s.OutOfOrder) -> Script:
    late = part.events[_last_done(part.events)]
    script: Script = []
    for op in _all(part, [event for event in part.events if event is not late]):
        # It is stamped where it should have been written; the write itself follows behind the close, before that is
        # committed.
        if isinstance(op, Pause) and not any(isinstance(o, Stamp) for o in script) and _past(script, late):
            script += [Pause(late.pause_s), Stamp(late)]
        script.append(op)
        if isinstance(op, Write) and op.event.kind == Kind.TRANSACTION_CLOSE:
            by = failure.by_s.draw(part.rng)
            script += [Pause(by), Write(late, again=True, by_another=True), Pause(LATE_WRITER_HOLD_S)]
    return script


def _past(script: Script, late: Planned) -> bool:
    """Whether the event before `late` was written."""
    return any(isinstance(op, Write) and op.event.slot == late.slot - 1 for op in script)


def _event_after_close(part: Part, failure: s.EventAfterClose) -> Script:
    late = part.events[_last_done(part.events)]
    script: Script = []
    for op in _all(part, [event for event in part.events if event is not late]):
        script.append(op)
        if isinstance(op, Write) and op.event.kind == Kind.TRANSACTION_CLOSE:
            script += [*_paused(late), Write(late)]
    return script


def _skew(part: Part, failure: s.Skew) -> Script:
    chosen = part.events[_chosen(part, failure.of)]
    return [
        op._replace(skew_s=failure.by_s) if isinstance(op, Write) and op.event is chosen else op
        for op in _all(part, part.events)
    ]


def _late_event(part: Part, failure: s.LateEvent) -> Script:
    late = part.events[_last_done(part.events)]._replace(pause_s=failure.after_s.draw(part.rng))
    return [*_all(part, part.events), *_group(part, [late], again=True)]


WRITERS: dict[type, Callable[[Part, Any], Script]] = {
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


def script_for(part: Part, failure: s.Failure | None) -> Script:
    """The operations of one transaction, with a failure or without."""
    if failure is None:
        return _all(part, part.events)
    return WRITERS[type(failure)](part, failure)
