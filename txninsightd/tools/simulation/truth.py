"""What the daemon must say once everything was replayed at speed 1 and `observe_after_s` more have passed.

This follows the published rules (states, causes, settlement, figures), in its own words and from what was injected; it
shares no code with the daemon, which it is there to judge. A transaction's story is the list of its records, each with
the moment at which its fate was decided. The story is walked from moment to moment, and every cause is noted.

A real replay has jitter, and the daemon sees things up to a second or two later. So each story that is not plainly calm
is told five times: as it is, and with everything that hangs on time happening a margin earlier or later, with the
broker's time-outs at their earliest and latest. If that changes anything, the transaction is *borderline*: nobody
could hold the daemon to it, so the simulator says so and the scenario must be mended.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from txninsightd.tools.simulation.kafkalog import PENDING, KafkaTransaction, Record
from txninsightd.tools.simulation.scenario import Expected, Scenario
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
    figures: "Figures | None"
    anomalies: tuple[Anomaly, ...]


def _order(record: Record) -> tuple[float, str, int, int]:
    return record.ts, record.partition.topic, record.partition.index, record.offset


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
        if _closes(self.committed):
            return State.CLOSED
        if _closes(self.pending):
            return State.TENTATIVELY_CLOSED
        if not self.standing or (_closes(self.aborted) and not self._retried()):
            return State.ABORTED
        return State.OPEN

    def _retried(self) -> bool:
        last = max(_closes(self.aborted), key=_order)
        return any(self._shows_retry(r, last) for r in self.standing)

    def _shows_retry(self, record: Record, close: Record) -> bool:
        if record.partition is close.partition:
            return record.offset > close.offset
        copies = [r.ts for r in self.aborted if (r.kind, r.step) == (record.kind, record.step)]
        return record.ts > close.ts or any(record.ts >= ts for ts in copies)

    def cause(self, state: State) -> Cause | None:
        """The table of causes, first match. Without a sighted open it is never stuck."""
        if not _opens(self.seen):
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
        if self._passed(min((r.ts for r in _opens(self.standing)), default=NEVER), self.judge.overdue_after_s):
            return Cause.OVERDUE
        return None

    def _cause_of_close(self) -> Cause | None:
        late = [r for r in _closes(self.pending) if self._passed(r.at, self.judge.commit_pending_after_s)]
        if not late:
            return None
        return Cause.COMMIT_PENDING if all(r.at_lso_from <= self.now for r in late) else Cause.UNDECIDED


def _closes(records: list[Record]) -> list[Record]:
    return [r for r in records if r.kind == Kind.TRANSACTION_CLOSE]


def _opens(records: list[Record]) -> list[Record]:
    return [r for r in records if r.kind == Kind.TRANSACTION_OPEN]


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
    committed = [r for r in _closes(life) if not r.aborted and r.decided_at < PENDING]
    return min(committed, key=lambda r: (r.at, r.partition.topic, r.partition.index, r.offset), default=None)


def _settles_at(life: list[Record], judge: Judge, knobs: Knobs) -> float:
    """When a life settles, as far as its records so far tell."""
    all_decided = max(knobs.decided(r) for r in life)
    close = _deciding(life)
    if close is not None:
        if judge.colocated:
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
        elif record.kind == Kind.TRANSACTION_OPEN and all(r.aborted for r in life) and _opens(life):
            lives.append([record])
        else:
            late += 1
    return lives, late


def _comes_late(record: Record, life: list[Record], judge: Judge, knobs: Knobs) -> bool:
    close = _deciding(life)
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
    return Outcome.ABORTED if _opens(life) else Outcome.UNKNOWN


# --- Figures ----------------------------------------------------------------------------------------------------------


class Figures(NamedTuple):
    """The figures of a closed life, from its committed events. Steps: (step, seconds)."""

    duration_s: float | None
    exact: bool  # False: a clamped ts entered, which is as exact as the replay's timing
    status: str | None
    step_durations: tuple[tuple[str | None, float], ...]
    step_gaps: tuple[tuple[str | None, float], ...]
    anomalies: frozenset[Anomaly]


def _figures(life: list[Record], now: float, knobs: Knobs) -> Figures:
    events = sorted((r for r in life if not r.aborted and knobs.decided(r) <= now), key=_order)
    opens, closes = _opens(events), _closes(events)
    first = closes[0]
    found = _oddities(life, events, opens, closes)
    durations = []
    for step, starts, ends in _steps(events):
        if len(starts) > len(ends):
            found.add(Anomaly.STEP_NOT_DONE)
        if len(ends) > len(starts):
            found.add(Anomaly.DONE_WITHOUT_OPEN)
        for start, done in zip(starts, ends, strict=False):
            if done < start:
                found.add(Anomaly.NEGATIVE_GAP)
            else:
                durations.append((step, round(done - start, 6)))
    gaps = [(r.step, round(r.ts - before.ts, 6)) for before, r in pairwise(events) if r.kind == Kind.STEP_OPEN]
    duration = round(first.ts - opens[0].ts, 6) if opens else None
    if duration is not None and duration < 0:
        found.add(Anomaly.NEGATIVE_GAP)
        duration = None
    exact = not (first.future or any(r.future for r in opens[:1]))
    return Figures(duration, exact, first.status, tuple(durations), tuple(gaps), frozenset(found))


def _oddities(life: list[Record], events: list[Record], opens: list[Record], closes: list[Record]) -> set[Anomaly]:
    found = set()
    if len(opens) > 1:
        found.add(Anomaly.DUPLICATE_OPEN)
    if len(closes) > 1:
        found.add(Anomaly.DUPLICATE_CLOSE)
    if not opens:
        found.add(Anomaly.OPEN_NOT_COMMITTED if _opens(life) else Anomaly.CLOSE_WITHOUT_OPEN)
    if any(r.ts > closes[0].ts for r in events if r.kind != Kind.TRANSACTION_CLOSE):
        found.add(Anomaly.EVENT_AFTER_CLOSE)
    return found


def _steps(events: list[Record]) -> Iterator[tuple[str | None, list[float], list[float]]]:
    """Each step with the ts of its opens and of its dones, in order."""
    stepping = [r for r in events if r.kind in (Kind.STEP_OPEN, Kind.STEP_DONE)]
    for step in dict.fromkeys(r.step for r in stepping):
        yield (
            step,
            [r.ts for r in stepping if r.step == step and r.kind == Kind.STEP_OPEN],
            [r.ts for r in stepping if r.step == step and r.kind == Kind.STEP_DONE],
        )


def _attempts(life: list[Record], now: float, knobs: Knobs) -> int:
    most = 1
    for copies in (_opens(life), _closes(life)):
        aborted = sum(r.aborted and knobs.decided(r) <= now for r in copies)
        most = max(most, aborted + (aborted < len(copies)))
    return most


# --- Telling ----------------------------------------------------------------------------------------------------------


def tell(records: list[Record], judge: Judge, knobs: Knobs = PLAIN) -> Told:
    """What became of a transaction, from its records in the order in which they were written."""
    parts, late_events = _lives(records, judge, knobs)
    return _finish([_tell_life(life, judge, knobs) for life in parts], late_events, judge, knobs)


def _finish(lives: list[LifeTold], late_events: int, judge: Judge, knobs: Knobs) -> Told:
    last = lives[-1]
    closed = last.settled and last.state is State.CLOSED
    figures = _figures(last.records, judge.until, knobs) if closed else None
    anomalies = set(figures.anomalies) if figures else set()
    if last.settled and any(r.future for r in last.records):
        anomalies.add(Anomaly.FUTURE_TIMESTAMP)
    if last.settled and judge.colocated and len({r.partition for r in last.records}) > 1:
        anomalies.add(Anomaly.NOT_COLOCATED)
    if last.settled and len(lives) > 1:
        anomalies.add(Anomaly.LATE_RETRY)
    attempts = _attempts(last.records, judge.until, knobs)
    return Told(lives, late_events, not _opens(last.records), attempts, figures, tuple(sorted(anomalies)))


def calm_state(records: list[Record], judge: Judge) -> State | None:
    """CLOSED or ABORTED if it plainly came to that, with no threshold, time-out or settlement anywhere near."""
    if any(r.slack_s or r.future for r in records):
        return None
    aborted = sum(r.aborted for r in records)
    closes = _closes(records)
    if aborted not in (0, len(records)) or len(closes) > 1 or not (aborted or closes):
        return None
    if aborted and not _opens(records):
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


# --- The book ---------------------------------------------------------------------------------------------------------


class Story:
    """All that one business transaction wrote."""

    def __init__(self, truth: "Truth", txn_id: str, txn_type: str, failure: str | None) -> None:
        self.txn_id = txn_id
        self.txn_type = txn_type
        self.failure = failure
        self.records: list[Record] = []
        self.undecided = 0
        self._truth = truth
        self._written = False

    def add(self, record: Record) -> None:
        """It wrote this."""
        self.records.append(record)

    def all_written(self) -> None:
        """It will write nothing more."""
        self._written = True
        if not self.undecided:
            self._truth.ripe(self)

    def all_decided(self) -> None:
        """Nothing of it is undecided at present."""
        if self._written:
            self._truth.ripe(self)


@dataclass
class Totals:
    """Sums over the whole run, as the daemon's counters and gauges must have them."""

    records: Counter[tuple[str, str]] = field(default_factory=Counter)
    kafka: Counter[str] = field(default_factory=Counter)
    opened: Counter[str] = field(default_factory=Counter)
    finished: Counter[tuple[str, Outcome, str | None]] = field(default_factory=Counter)
    stuck: Counter[tuple[str, Cause]] = field(default_factory=Counter)
    live: Counter[tuple[str, str]] = field(default_factory=Counter)
    live_stuck: Counter[tuple[str, Cause]] = field(default_factory=Counter)
    live_partial: Counter[str] = field(default_factory=Counter)
    anomalies: Counter[Anomaly] = field(default_factory=Counter)
    durations: dict[tuple[str], list[float]] = field(default_factory=dict)
    step_durations: dict[tuple[str, str | None], list[float]] = field(default_factory=dict)
    step_gaps: dict[tuple[str, str | None], list[float]] = field(default_factory=dict)
    late_events: int = 0
    transactions: int = 0
    borderline: list[str] = field(default_factory=list)

    def record(self, topic: str, result: str) -> None:
        """One record was written."""
        self.records[topic, result] += 1

    def add(self, txn_type: str, told: Told) -> None:
        """One transaction's story is told."""
        self.transactions += 1
        self.late_events += told.late_events
        if told.late_events:
            self.anomalies[Anomaly.LATE_EVENT] += told.late_events
        self.anomalies.update(told.anomalies)
        for life in told.lives:
            self._add_life(txn_type, life, told)
        if told.figures is not None:
            self._add_figures(txn_type, told.figures)

    def _add_life(self, txn_type: str, life: LifeTold, told: Told) -> None:
        self.opened[txn_type] += bool(_opens(life.records))
        self.stuck.update((txn_type, cause) for cause in life.causes)
        if life.outcome is not None:
            status = told.figures.status if told.figures is not None and life is told.lives[-1] else None
            self.finished[txn_type, life.outcome, status] += 1
        elif life.cause is not None:
            self.live[txn_type, "stuck"] += 1
            self.live_stuck[txn_type, life.cause] += 1
        else:
            self.live[txn_type, life.state.value] += 1
            self.live_partial[txn_type] += told.partial

    def _add_figures(self, txn_type: str, figures: Figures) -> None:
        if figures.duration_s is not None:
            _observe(self.durations, (txn_type,), figures.duration_s)
        for step, seconds in figures.step_durations:
            _observe(self.step_durations, (txn_type, step), seconds)
        for step, seconds in figures.step_gaps:
            _observe(self.step_gaps, (txn_type, step), seconds)


def _observe(into: dict[Any, list[float]], key: tuple[str | None, ...], seconds: float) -> None:
    both = into.setdefault(key, [0, 0.0])
    both[0] += 1
    both[1] += seconds


def _rows(counts: Counter[Any], *names: str) -> list[dict[str, Any]]:
    keys = sorted((key if isinstance(key, tuple) else (key,) for key in counts), key=str)
    return [dict(zip(names, key, strict=True)) | {"count": counts[key if len(key) > 1 else key[0]]} for key in keys]


def _by_topic(records: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (topic, result), count in sorted(records.items()):
        nested.setdefault(topic, {})[result] = count
    return nested


def _sums(observed: dict[Any, list[float]], *names: str) -> list[dict[str, Any]]:
    keys = sorted(observed, key=str)
    return [
        dict(zip(names, key, strict=True)) | {"count": observed[key][0], "sum_s": round(observed[key][1], 6)}
        for key in keys
    ]


class Truth:
    """Tells each story as soon as it is final, the rest at the end. `write` gets one plain object a line."""

    def __init__(
        self, scenario: Scenario, write: Callable[[dict[str, Any]], object], last_at: Callable[[], float]
    ) -> None:
        self.totals = Totals()
        self.hanging: dict[KafkaTransaction, float] = {}  # those of dead producers, and when the broker will abort them
        self.contradictions: list[str] = []
        self._scenario = scenario
        self._write = write
        self._last_at = last_at
        self._stories: dict[str, Story] = {}

    def begin(self, txn_id: str, txn_type: str, failure: str | None) -> Story:
        """A transaction begins."""
        story = Story(self, txn_id, txn_type, failure)
        self._stories[txn_id] = story
        return story

    def ripe(self, story: Story) -> None:
        """All of it is written and decided: tell it, if nothing that is still to come can change it."""
        judge = self._judge(story, self._last_at() + self._scenario.observe_after_s)
        told, borderline = _tell_surely(story, judge)
        if told.lives[-1].settled and not borderline:
            self._tell(story, told, False)

    def close(self, until: float) -> None:
        """Tell all that is left, and the totals."""
        about_to_end = any(
            at - self._scenario.timeout_check_s / 2 - self._scenario.margin_s < until for at in self.hanging.values()
        )
        for story in list(self._stories.values()):
            told, borderline = _tell_surely(story, self._judge(story, until))
            self._tell(story, told, borderline or (about_to_end and story.undecided > 0))
        self._write({"totals": self._totals(until)})

    def _judge(self, story: Story, until: float) -> Judge:
        rules = self._scenario.rules
        idle, overdue, pending = self._scenario.thresholds(story.txn_type)
        return Judge(
            idle_after_s=idle,
            overdue_after_s=overdue,
            commit_pending_after_s=pending,
            retry_grace_s=rules.retry_grace_s,
            settle_lateness_s=rules.settle_lateness_s,
            margin_s=self._scenario.margin_s,
            colocated=self._scenario.colocated,
            until=until,
        )

    def _tell(self, story: Story, told: Told, borderline: bool) -> None:
        del self._stories[story.txn_id]
        self.totals.add(story.txn_type, told)
        if borderline:
            self.totals.borderline.append(story.txn_id)
        line = _line(story, told)
        line["reason"] = self._reason(story, line)
        self._write(line)
        story.records = []

    def _reason(self, story: Story, line: dict[str, Any]) -> str | None:
        expected = self._scenario.expected_of(story.failure)
        for one in expected:
            if meets(line, one):
                return one.reason
        shown = {key: line[key] for key in ("state", "stuck", "causes", "attempts", "outcome", "anomalies")}
        came_to = msgspec.json.encode(shown).decode()
        self.contradictions.append(f"{story.txn_id} ({story.failure or 'healthy'}) came to {came_to}")
        return None

    def _totals(self, until: float) -> dict[str, Any]:
        t = self.totals
        return {
            "transactions": t.transactions,
            "judged_at": round(until, 6),
            "records": _by_topic(t.records),
            "kafka": dict(sorted(t.kafka.items())),
            "opened": _rows(t.opened, "txn_type"),
            "finished": _rows(t.finished, "txn_type", "outcome", "status"),
            "stuck_total": _rows(t.stuck, "txn_type", "cause"),
            "anomalies": dict(sorted(t.anomalies.items())),
            "late_events": t.late_events,
            "live": _rows(t.live, "txn_type", "state"),
            "live_stuck": _rows(t.live_stuck, "txn_type", "cause"),
            "live_partial": _rows(t.live_partial, "txn_type"),
            "durations": _sums(t.durations, "txn_type"),
            "step_durations": _sums(t.step_durations, "txn_type", "step"),
            "step_gaps": _sums(t.step_gaps, "txn_type", "step"),
            "borderline": sorted(t.borderline),
        }


def _tell_surely(story: Story, judge: Judge) -> tuple[Told, bool]:
    calm = None if story.undecided else calm_state(story.records, judge)
    if calm is not None:
        return tell_calm(story.records, calm, judge), False
    told = tell(story.records, judge)
    return told, is_borderline(told, story.records, judge)


def _line(story: Story, told: Told) -> dict[str, Any]:
    last, figures = told.lives[-1], told.figures
    return {
        "txn_id": story.txn_id,
        "txn_type": story.txn_type,
        "state": last.state,
        "stuck": last.cause,
        "causes": list(last.causes),
        "attempts": told.attempts,
        "duration_s": figures.duration_s if figures else None,
        "duration_exact": figures.exact if figures else True,
        "outcome": last.outcome,
        "status": figures.status if figures else None,
        "partial": told.partial,
        "anomalies": list(told.anomalies),
        "late_events": told.late_events,
        "earlier_outcomes": [life.outcome for life in told.lives[:-1]],
        "events": len(last.records),
        "failure": story.failure,
    }


def meets(line: dict[str, Any], expected: Expected) -> bool:
    """Whether a truth line is what a scenario expects: in all that it names."""
    shown = {**line, "has_duration": line["duration_s"] is not None}
    named = {key: getattr(expected, key) for key in expected.__struct_fields__ if key != "reason"}
    return all(value is UNSET or shown[key] == value for key, value in named.items())
