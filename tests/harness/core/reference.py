"""The plain model: the rules of docs/lifecycle.md in their most naive form, to hold the ledger against.

It keeps every sighting and every coverage that it was ever given, and after each message works everything out again
from the beginning: positions, `as_of`s, the verdict of each event, states, causes, what may be settled and what would
come of it. Nothing here is fast, nothing is remembered but what was received, which lives have ended, and the running
maximum of the watermark. It shares no code with the core but the words of the vocabulary and the operator's rules.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from txninsightd.core.rules import Rules
from txninsightd.vocabulary import (
    Anomaly,
    Cause,
    Coverage,
    Discovery,
    Kind,
    Outcome,
    PartitionRef,
    Sightings,
    Signature,
    State,
    Verdict,
)

NEVER = float("inf")
UNSEEN = float("-inf")
OPEN, STEP_OPEN, STEP_DONE, CLOSE = Kind.TRANSACTION_OPEN, Kind.STEP_OPEN, Kind.STEP_DONE, Kind.TRANSACTION_CLOSE


class Sighting(NamedTuple):
    """An event as the monitor saw it; (partition, offset) is its identity."""

    ref: PartitionRef
    offset: int
    txn_id: str
    signature: Signature
    ts: float
    record_ts: float
    read_at: float

    @property
    def kind(self) -> int:
        return self.signature.kind

    @property
    def order(self) -> tuple[float, PartitionRef, int]:
        return (self.ts, self.ref, self.offset)


class Seen(NamedTuple):
    """A sighting with its verdict, and the moment of that verdict (0 while pending)."""

    event: Sighting
    verdict: Verdict
    decided_at: float

    @property
    def stands(self) -> bool:
        return self.verdict in (Verdict.COMMITTED, Verdict.PENDING)


# --- A partition ------------------------------------------------------------------------------------------------------


@dataclass
class Partition:
    """All that was ever received about one partition."""

    ref: PartitionRef
    start_offset: int
    sightings: list[Sightings] = field(default_factory=list)
    coverage: list[Coverage] = field(default_factory=list)
    gone: bool = False
    void: bool = False
    absent_at: float = UNSEEN  # at this look it was not there
    deleted_at: float = UNSEEN  # at this look it was still gone for good
    former: "Partition | None" = None  # what was known of it before it was taken for deleted and came back

    def monitor_position(self) -> int:
        return max([self.start_offset, *(m.to_offset for m in self.sightings)])

    def validator_position(self) -> int:
        return max([self.start_offset, *(m.to_offset for m in self.coverage)])

    def last_stable_offset(self) -> int:
        """Where the validator stands, if an answer that it has reached says that no more is stable; else -1."""
        reached = max((m.stable_offset for m in self.coverage), default=-1)
        return reached if reached == self.validator_position() else -1

    def decided_position(self) -> int:
        return min(self.monitor_position(), self.validator_position())

    def monitor_as_of(self) -> float:
        return max([self.deleted_at, *(m.as_of for m in self.sightings if m.as_of)])

    def has_unread(self) -> bool:
        """Whether the broker named an end that was not reached."""
        return max((m.end_offset for m in self.sightings), default=-1) > self.monitor_position()

    def validator_as_of(self) -> float:
        return max((m.as_of for m in self.coverage if m.as_of), default=UNSEEN)

    def seen_until(self) -> float:
        """Up to when nothing of it was unread: what was not there held nothing."""
        return max(self.absent_at, self.monitor_as_of())

    def both_as_of(self) -> float:
        return min(self.monitor_as_of(), self.validator_as_of())

    def read_past(self) -> float:
        """The running maximum, over batches, of the smallest record timestamp in the batch."""
        return max((m.low_timestamp for m in self.sightings if m.low_timestamp), default=UNSEEN)

    def verdict(self, offset: int) -> tuple[Verdict, float]:
        """What the committed view says of this offset, and when it said so."""
        if self.former is not None and offset < self.start_offset:
            return self.former.verdict(offset)
        if offset >= self.decided_position():
            return Verdict.PENDING, 0.0
        passed = self.start_offset
        for c in self.coverage:
            if c.to_offset <= passed:
                continue
            if offset < c.to_offset:
                if offset < c.from_offset:
                    return Verdict.UNKNOWN, c.decided_at
                if within(c.runs, offset):
                    return Verdict.COMMITTED, c.decided_at
                return (Verdict.UNKNOWN if within(c.gaps, offset) else Verdict.ABORTED), c.decided_at
            passed = c.to_offset
        raise AssertionError("an offset below the decided position was never covered")


def within(flat: list[int], offset: int) -> bool:
    """Whether one of the half-open ranges holds the offset."""
    return any(flat[i] <= offset < flat[i + 1] for i in range(0, len(flat), 2))


class Gap(NamedTuple):
    """The monitor passed something unreadable; `as_of` is how far that partition had been seen before."""

    ref: PartitionRef
    passed_at: float
    as_of: float


# --- One transaction --------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Life:
    """One life of a transaction: the sightings that count for it, in the order of arrival.

    `all_read_for`: the close for which all had been read at some moment. What is found later cannot hold what came
    before it, so that stays so.
    """

    txn_id: str
    late_retry: bool
    sightings: list[Sighting] = field(default_factory=list)
    cause: Cause | None = None
    since: float = 0.0
    causes: list[Cause] = field(default_factory=list)
    counted_open: bool = False
    all_read_for: Sighting | None = None
    been_stuck: dict[Cause, tuple[float, float]] = field(default_factory=dict)


class Change(NamedTuple):
    """A transaction became stuck, or for another cause, or is so no longer."""

    txn_id: str
    txn_type: str | None
    before: Cause | None
    cause: Cause | None
    since: float


class Figure(NamedTuple):
    """One duration or gap of a step."""

    step: str | None
    seconds: float


class Ended(NamedTuple):
    """What a settled transaction comes to."""

    outcome: Outcome
    txn_type: str | None
    attempts: int
    duration_s: float | None
    status: str | None
    step_durations: list[Figure]
    step_gaps: list[Figure]
    anomalies: set[Anomaly]
    commit_delay_s: float | None
    late_events: int
    replayed: bool


def of_kind(life: Iterable[Seen], kind: Kind, *verdicts: Verdict) -> list[Seen]:
    return [s for s in life if s.event.kind == kind and (not verdicts or s.verdict in verdicts)]


def state_of(life: list[Seen]) -> State:
    """The table of states, first match wins."""
    if of_kind(life, CLOSE, Verdict.COMMITTED):
        return State.CLOSED
    if of_kind(life, CLOSE, Verdict.PENDING):
        return State.TENTATIVELY_CLOSED
    if of_kind(life, CLOSE, Verdict.UNKNOWN):
        return State.UNKNOWN
    if all(s.verdict == Verdict.ABORTED for s in life):
        return State.ABORTED
    aborted_closes = of_kind(life, CLOSE, Verdict.ABORTED)
    if aborted_closes and not any(is_sign_of_retry(s, last(aborted_closes), life) for s in life):
        return State.ABORTED
    return State.OPEN


def last(life: list[Seen]) -> Sighting:
    return max((s.event for s in life), key=lambda e: e.order)


def is_sign_of_retry(candidate: Seen, close: Sighting, life: list[Seen]) -> bool:
    """Whether this event shows that the transaction was tried again after this aborted close."""
    if not candidate.stands:
        return False
    event = candidate.event
    if event.ref == close.ref:
        return event.offset > close.offset
    if event.ts > close.ts:
        return True
    return any(
        s.verdict == Verdict.ABORTED
        and (s.event.kind, s.event.signature.step) == (event.kind, event.signature.step)
        and event.ts >= s.event.ts
        for s in life
    )


def type_of(events: list[Sighting]) -> str | None:
    """What the earliest event that names a type says."""
    typed = sorted((e for e in events if e.signature.txn_type is not None), key=lambda e: e.order)
    return typed[0].signature.txn_type if typed else None


def last_activity(events: list[Sighting]) -> float:
    """The larger of the largest ts and the largest record timestamp."""
    return max(max(e.ts, e.record_ts) for e in events)


def attempts_of(life: list[Seen]) -> int:
    most = 1
    for kind in (OPEN, CLOSE):
        aborted = len(of_kind(life, kind, Verdict.ABORTED))
        standing = any(s.stands for s in of_kind(life, kind))
        most = max(most, aborted + (1 if standing else 0))
    return most


def up_to_first_close(life: list[Seen]) -> list[Seen]:
    """Colocated: what lies beyond the first committed or unknown close is late."""
    decided = of_kind(life, CLOSE, Verdict.COMMITTED, Verdict.UNKNOWN)
    if not decided:
        return life
    first = min((s.event for s in decided), key=lambda e: (e.ref, e.offset))
    return [s for s in life if s.event.ref != first.ref or s.event.offset <= first.offset]


def steps_of(events: list[Sighting], kind: Kind) -> dict[str | None, list[float]]:
    found: dict[str | None, list[float]] = {}
    for e in events:
        if e.kind == kind:
            found.setdefault(e.signature.step, []).append(e.ts)
    return found


class Gauges(NamedTuple):
    """Live by (type, state), stuck by (type, cause), partial by type, and opens by (type, whole second)."""

    live: Counter[tuple[str, str]]
    stuck: Counter[tuple[str, str]]
    partial: Counter[str]
    opened: Counter[tuple[str, int]]


class Measured(NamedTuple):
    """What is measured of a closed transaction."""

    duration_s: float | None
    status: str | None
    step_durations: list[Figure]
    step_gaps: list[Figure]
    anomalies: set[Anomaly]


def measure(life: list[Seen], partial: bool) -> Measured:
    """The figures of a closed transaction, from its committed events in their order."""
    events = sorted((s.event for s in life if s.verdict == Verdict.COMMITTED), key=lambda e: e.order)
    opens = [e for e in events if e.kind == OPEN]
    closes = [e for e in events if e.kind == CLOSE]
    odd: set[Anomaly] = set()
    if not of_kind(life, OPEN):
        odd.add(Anomaly.CLOSE_WITHOUT_OPEN)
    elif not opens:
        odd.add(Anomaly.OPEN_NOT_COMMITTED)
    if len(opens) > 1:
        odd.add(Anomaly.DUPLICATE_OPEN)
    if len(closes) > 1:
        odd.add(Anomaly.DUPLICATE_CLOSE)
    if any(e.order > closes[0].order for e in events if e.kind != CLOSE):
        odd.add(Anomaly.EVENT_AFTER_CLOSE)
    duration = closes[0].ts - opens[0].ts if opens and not partial else None
    if duration is not None and duration < 0:
        odd.add(Anomaly.NEGATIVE_GAP)
        duration = None
    step_durations = []
    opened, done = steps_of(events, STEP_OPEN), steps_of(events, STEP_DONE)
    for step in opened.keys() | done.keys():
        begins, ends = opened.get(step, []), done.get(step, [])
        if len(begins) > len(ends):
            odd.add(Anomaly.STEP_NOT_DONE)
        if len(ends) > len(begins):
            odd.add(Anomaly.DONE_WITHOUT_OPEN)
        for k in range(min(len(begins), len(ends))):
            if ends[k] < begins[k]:
                odd.add(Anomaly.NEGATIVE_GAP)
            else:
                step_durations.append(Figure(step, ends[k] - begins[k]))
    step_gaps = []
    for k in range(1, len(events)):
        if events[k].kind == STEP_OPEN:
            step_gaps.append(Figure(events[k].signature.step, events[k].ts - events[k - 1].ts))
    return Measured(duration, closes[0].signature.status, step_durations, step_gaps, odd)


# --- All of it --------------------------------------------------------------------------------------------------------


class Plain:
    """The plain model of a whole ledger."""

    def __init__(self, rules: Rules, start_at: float = UNSEEN) -> None:
        self.rules = rules
        self.start_at = start_at
        self.partitions: dict[PartitionRef, Partition] = {}
        self.topic_ids: dict[str, list[str]] = {}
        self.lives: dict[str, Life] = {}
        self.ended: dict[str, Outcome] = {}
        self.discovered_at = UNSEEN
        self.watermark_everywhere = UNSEEN
        self.outages: list[tuple[float, float]] = []
        self.gaps: list[Gap] = []
        self.late_events = 0
        self.sighted = 0
        self.timed_out_until = UNSEEN
        self.caught_up = False
        self.opened: Counter[str] = Counter()
        self.stuck: Counter[tuple[str, str]] = Counter()
        self.changes: list[Change] = []
        self.records: Counter[tuple[str, str, str]] = Counter()
        self._verdicts: dict[PartitionRef, dict[int, tuple[Verdict, float]]] = {}

    # What comes in

    def receive(self, message: Sightings | Coverage | Discovery) -> None:
        """Take in one message, then look at everything again."""
        if isinstance(message, Discovery):
            self._discovered(message)
        else:
            partition = self.partitions[PartitionRef(message.topic, message.partition, message.incarnation)]
            if partition.void:
                return
            if isinstance(message, Sightings):
                self._sighted(partition, message)
                if message.outage_from:
                    self.outages.append((message.outage_from, message.as_of))
            else:
                self._covered(partition, message)
            self._verdicts.pop(partition.ref, None)
        self.watermark_everywhere = max(self.watermark_everywhere, self.seen_everywhere())
        for life in self.lives.values():
            self._look_at(life)
        seen = [p.both_as_of() for p in self.present()]
        self.caught_up = self.caught_up or (bool(seen) and min(seen) > UNSEEN)

    def _discovered(self, message: Discovery) -> None:
        for topic, topic_id in message.topic_ids.items():
            ids = self.topic_ids.setdefault(topic, [topic_id])
            if topic_id != ids[-1]:
                ids.append(topic_id)
                for partition in self.partitions.values():
                    if partition.ref.topic == topic and not partition.void:
                        self._void(partition, message.asked_at, unread=True)
        for found in message.found:
            ref = PartitionRef(found.topic, found.partition, max(0, len(self.topic_ids.get(found.topic, [])) - 1))
            known = self.partitions.get(ref)
            if known is None:
                self.partitions[ref] = Partition(ref, found.start_offset, absent_at=self.discovered_at)
            elif known.void:
                start = known.monitor_position()
                self.partitions[ref] = Partition(ref, start, absent_at=self.discovered_at, former=known)
        if not message.complete:
            return
        for ref, partition in self.partitions.items():
            if partition is not self.latest(ref):
                continue
            absent = ref.partition not in message.present.get(ref.topic, [])
            if absent and partition.gone and not partition.void:
                self._void(partition, message.asked_at, unread=partition.has_unread())
            partition.gone = absent or partition.void
            if partition.void:
                partition.deleted_at = message.asked_at
        self.discovered_at = max(self.discovered_at, message.asked_at)

    def latest(self, ref: PartitionRef) -> Partition:
        """What is known of the partition in the last of its topic's incarnations."""
        return max((p for p in self.partitions.values() if p.ref[:2] == ref[:2]), key=lambda p: p.ref)

    def _void(self, partition: Partition, now: float, unread: bool) -> None:
        """The topic was deleted: what is undecided stays unknown, and nothing more can be read."""
        low, high, ref = partition.decided_position(), partition.monitor_position(), partition.ref
        if unread:
            self.gaps.append(Gap(ref, now, partition.seen_until()))
        if low < high:
            lost = Coverage(ref.topic, ref.partition, low, high, now, UNSEEN, [], [low, high], -1)
            self._covered(partition, lost)
            self._verdicts.pop(ref, None)
        partition.gone = partition.void = True

    def _sighted(self, partition: Partition, message: Sightings) -> None:
        known = partition.monitor_position()
        if message.gaps and message.gaps[-1] > known:
            self.gaps.append(Gap(partition.ref, message.read_at, partition.seen_until()))
        columns = zip(
            message.offsets,
            message.txn_ids,
            message.signature_indexes,
            message.timestamps,
            message.record_timestamps,
            strict=True,
        )
        for offset, txn_id, index, ts, record_ts in columns:
            if offset >= known:
                signature = Signature(*message.signatures[index])
                ref = partition.ref
                self._admit(Sighting(ref, offset, txn_id, signature, ts, record_ts, message.read_at))
        if message.to_offset > known:
            for result, count in message.results.items():
                self.records["monitor", message.topic, result] += count
        partition.sightings.append(message)

    def _covered(self, partition: Partition, message: Coverage) -> None:
        known = partition.validator_position()
        for result, flat in (("ok", message.runs), ("gap", message.gaps)):
            offsets = [o for i in range(0, len(flat), 2) for o in range(flat[i], flat[i + 1])]
            if message.to_offset > known:
                self.records["validator", message.topic, result] += sum(o >= known for o in offsets)
        partition.coverage.append(message)

    def _admit(self, sighting: Sighting) -> None:
        self.sighted += 1
        txn_id = sighting.txn_id
        life = self.lives.get(txn_id)
        if life is None:
            former = self.ended.get(txn_id)
            if former is not None and not (former == Outcome.ABORTED and sighting.kind == OPEN):
                self.late_events += 1
                return
            life = self.lives[txn_id] = Life(txn_id, late_retry=former is not None)
        life.sightings.append(sighting)

    def tick(self, now: float) -> None:
        """From now on, what has waited since before `now - settle_max_s` has waited for long enough."""
        self.timed_out_until = max(self.timed_out_until, now)

    # How far we have seen

    def present(self) -> list[Partition]:
        return [p for p in self.partitions.values() if not p.gone]

    def seen_everywhere(self) -> float:
        """Up to when nothing unread can exist in any partition, those not yet discovered included."""
        return min([self.discovered_at, *(p.monitor_as_of() for p in self.present())]) if self.present() else UNSEEN

    def refs_of(self, life: Life) -> list[PartitionRef]:
        """Where events of this life are known to lie."""
        return sorted({e.ref for e in life.sightings})

    def watermark(self, life: Life) -> float:
        if self.rules.colocated:
            return min(self.seen_in(p) for p in self.refs_of(life))
        return self.watermark_everywhere

    def seen_in(self, ref: PartitionRef) -> float:
        """Up to when the partition was ever seen, whichever its topic's incarnation."""
        return max(p.monitor_as_of() for p in self.partitions.values() if p.ref[:2] == ref[:2])

    def due(self, reference: float, wait_s: float) -> float:
        """When a wait is over; an outage that began while it ran comes on top, and a grace is left after it."""
        due = reference + wait_s
        for began, ended in merged(self.outages):
            if began < due and ended > reference:
                lost = ended - max(began, reference)
                due = max(due + lost, ended + self.rules.retry_grace_s)
        return due

    def gaps_of(self, life: Life) -> list[Gap]:
        """The gaps in which events of this life may lie."""
        refs = {ref[:2] for ref in self.refs_of(life)}
        began = min(e.record_ts for e in life.sightings)
        return [
            gap
            for gap in self.gaps
            if (gap.ref[:2] in refs or not self.rules.colocated) and began <= gap.passed_at + self.rules.settle_max_s
        ]

    # What is asked

    def judge(self, life: Life) -> list[Seen]:
        """The life's events with their verdicts as of now."""
        return [Seen(e, *self._verdict(e)) for e in life.sightings]

    def _verdict(self, event: Sighting) -> tuple[Verdict, float]:
        # Worked out anew whenever a message about its partition has come in; between them nothing can change it.
        known = self._verdicts.setdefault(event.ref, {})
        if event.offset not in known:
            known[event.offset] = self.partitions[event.ref].verdict(event.offset)
        return known[event.offset]

    def opened_at(self, seen: list[Seen]) -> float:
        """The ts of the earliest standing open; never without one."""
        return min((s.event.ts for s in of_kind(seen, OPEN) if s.stands), default=NEVER)

    def partial(self, events: list[Sighting]) -> bool:
        return not any(e.kind == OPEN for e in events) or any(e.ts < self.start_at for e in events)

    def stuck_of(self, life: Life, seen: list[Seen]) -> tuple[Cause, float] | None:
        """The table of causes, first match wins."""
        events = life.sightings
        if self.partial(events) or any(e.signature.kept_time for e in events):
            return None
        thresholds = self.rules.thresholds(type_of(events))
        state, watermark, maybe_unread = state_of(seen), self.watermark(life), bool(self.gaps_of(life))
        if state == State.OPEN and not maybe_unread:
            due = self.due(last_activity(events), thresholds.idle_after_s)
            if watermark > due:
                return Cause.IDLE, due
            due = self.due(self.opened_at(seen), thresholds.overdue_after_s)
            if watermark > due:
                return Cause.OVERDUE, due
        if state == State.TENTATIVELY_CLOSED:
            return self._stuck_close(seen, thresholds.commit_pending_after_s)
        if state == State.ABORTED and not maybe_unread and any(s.stands for s in seen):
            due = self.due(max(s.decided_at for s in seen if not s.stands), self.rules.retry_grace_s)
            pending = [s.event.ref for s in seen if s.verdict is Verdict.PENDING]
            if min([watermark, *(self.partitions[ref].both_as_of() for ref in pending)]) > due:
                return Cause.NEVER_COMMITTED, due
        return None

    def _stuck_close(self, seen: list[Seen], commit_pending_after_s: float) -> tuple[Cause, float] | None:
        at_lso, behind = [], []
        for s in of_kind(seen, CLOSE, Verdict.PENDING):
            partition = self.partitions[s.event.ref]
            due = self.due(s.event.record_ts, commit_pending_after_s)
            if partition.both_as_of() > due:
                (at_lso if s.event.offset == partition.last_stable_offset() else behind).append(due)
        if behind:
            return Cause.UNDECIDED, min(behind)
        return (Cause.COMMIT_PENDING, min(at_lso)) if at_lso else None

    def adopt(self, rules: Rules) -> None:
        """Go by other rules from now on, for all that is live."""
        self.rules = rules
        for life in self.lives.values():
            self._look_at(life)

    def _look_at(self, life: Life) -> None:
        label = type_of(life.sightings) or "unspecified"
        if not life.counted_open and any(e.kind == OPEN for e in life.sightings):
            life.counted_open = True
            self.opened[label] += 1
        before, seen, last_at = life.cause, self.judge(life), last_activity(life.sightings)
        life.cause, life.since = self.stuck_of(life, seen) or (None, 0.0)
        if life.cause != before:
            self.changes.append(Change(life.txn_id, type_of(life.sightings), before, life.cause, life.since))
        if life.cause is None:
            # A pause may take it back for a while; another state ends the wait.
            if before and self.due_without_outages(life, seen, before) == NEVER:
                del life.been_stuck[before]
            return
        due = self.due_without_outages(life, seen, life.cause)
        due_then, event_then = life.been_stuck.get(life.cause, (NEVER, None))
        if life.cause != before and (event_then != last_at or due > due_then):
            life.causes.append(life.cause)
            self.stuck[label, life.cause.value] += self.caught_up
        life.been_stuck[life.cause] = due, last_at

    def due_without_outages(self, life: Life, seen: list[Seen], cause: Cause) -> float:
        """When it would be stuck for this cause if there had been no outage; never in another state."""
        thresholds, state = self.rules.thresholds(type_of(life.sightings)), state_of(seen)
        if state == State.OPEN and cause is Cause.IDLE:
            return last_activity(life.sightings) + thresholds.idle_after_s
        if state == State.OPEN and cause is Cause.OVERDUE:
            return self.opened_at(seen) + thresholds.overdue_after_s
        if state == State.ABORTED and cause is Cause.NEVER_COMMITTED:
            return max(s.decided_at for s in seen if not s.stands) + self.rules.retry_grace_s
        if state == State.TENTATIVELY_CLOSED and cause in (Cause.UNDECIDED, Cause.COMMIT_PENDING):
            pending = of_kind(seen, CLOSE, Verdict.PENDING)
            return min(s.event.record_ts for s in pending) + thresholds.commit_pending_after_s
        return NEVER

    # The gauges, counted anew

    def gauges(self) -> Gauges:
        """All four, from all that is live."""
        live: Counter[tuple[str, str]] = Counter()
        stuck: Counter[tuple[str, str]] = Counter()
        partial: Counter[str] = Counter()
        opened: Counter[tuple[str, int]] = Counter()
        for life in self.lives.values():
            seen = self.judge(life)
            label, state = type_of(life.sightings) or "unspecified", state_of(seen)
            if life.cause is not None:
                live[label, "stuck"] += 1
                stuck[label, life.cause.value] += 1
            elif state in (State.OPEN, State.TENTATIVELY_CLOSED, State.ABORTED):
                live[label, state.value] += 1
            partial[label] += self.partial(life.sightings)
            replayed = any(e.signature.kept_time for e in life.sightings)
            at = self.opened_at(seen)
            if at != NEVER and not replayed and state in (State.OPEN, State.TENTATIVELY_CLOSED):
                opened[label, int(at)] += 1
        return Gauges(live, stuck, +partial, opened)

    # Settlement

    def may_settle(self, life: Life) -> bool:
        """Whether the outcome is final and nothing that was appended before it became so can be unread."""
        seen = self.judge(life)
        close = deciding_close(seen)
        if close is not None:
            if self.rules.colocated:
                return True
            was_read = self._was_all_read(life, close)
            return not any(s.verdict == Verdict.PENDING for s in seen) and (self._timed_out(close) or was_read)
        return not any(s.stands for s in seen) and self._seen_by_all(life) > self._abort_is_final_at(seen)

    def must_settle(self, life: Life) -> bool:
        """Whether one of the plain ways to settle is open: by (a) in all partitions, by (b) in all, or by time."""
        if not self.may_settle(life):
            return False
        close = deciding_close(self.judge(life))
        if close is None or self.rules.colocated or self._timed_out(close):
            return True
        by_as_of = self.seen_everywhere() > close.decided_at
        return by_as_of or (self._nothing_waits_for_discovery() and self._read_past_by_all(close))

    def _nothing_waits_for_discovery(self) -> bool:
        closes = [deciding_close(self.judge(life)) for life in self.lives.values()]
        return all(c is None or c.decided_at < self.discovered_at for c in closes)

    def _read_past_by_all(self, close: Seen) -> bool:
        # The ledger may wait for the next whole second.
        key = math.ceil(close.event.record_ts + self.rules.settle_lateness_s)
        return all(p.read_past() > key for p in self.present())

    def _was_all_read(self, life: Life, close: Seen) -> bool:
        if self._all_read(close):
            life.all_read_for = close.event
        return life.all_read_for == close.event

    def _all_read(self, close: Seen) -> bool:
        key = close.event.record_ts + self.rules.settle_lateness_s
        return self.discovered_at > close.decided_at and all(
            p.monitor_as_of() > close.decided_at or p.read_past() > key for p in self.present()
        )

    def _timed_out(self, close: Seen) -> bool:
        return self.timed_out_until > close.decided_at + self.rules.settle_max_s

    def timed_out(self, life: Life) -> bool:
        """Whether it has waited for `settle_max_s`."""
        close = deciding_close(self.judge(life))
        return close is not None and not self.rules.colocated and self._timed_out(close)

    def timed_out_only(self, life: Life) -> bool:
        """Whether nothing but the time-out lets it settle."""
        close = deciding_close(self.judge(life))
        return close is not None and not self.rules.colocated and not self._was_all_read(life, close)

    def _seen_by_all(self, life: Life) -> float:
        if self.rules.colocated:
            return self.latest(life.sightings[0].ref).monitor_as_of()
        return self.seen_everywhere()

    def _abort_is_final_at(self, seen: list[Seen]) -> float:
        return self.due(max(s.decided_at for s in seen), self.rules.retry_grace_s)

    def end_of(self, life: Life) -> Ended:
        """What the life comes to, if it ends now."""
        seen = self.judge(life)
        counted = up_to_first_close(seen) if self.rules.colocated else seen
        events = [s.event for s in counted]
        partial = self.partial(events)
        outcome = self._outcome(life, counted, partial)
        measured = measure(counted, partial) if outcome == Outcome.CLOSED else Measured(None, None, [], [], set())
        odd = set(measured.anomalies)
        if any(e.ts < self.start_at for e in events):
            odd.discard(Anomaly.CLOSE_WITHOUT_OPEN)  # its open may lie where we never read
        if any(e.signature.future for e in events):
            odd.add(Anomaly.FUTURE_TIMESTAMP)
        if self.rules.colocated and len({e.ref[:2] for e in events}) > 1:
            odd.add(Anomaly.NOT_COLOCATED)
        if life.late_retry:
            odd.add(Anomaly.LATE_RETRY)
        return Ended(
            outcome=outcome,
            txn_type=type_of(events),
            attempts=attempts_of(counted),
            duration_s=measured.duration_s,
            status=measured.status,
            step_durations=sorted(measured.step_durations, key=repr),
            step_gaps=sorted(measured.step_gaps, key=repr),
            anomalies=odd,
            commit_delay_s=self._commit_delay(counted),
            late_events=len(seen) - len(counted),
            replayed=any(s.event.signature.kept_time for s in seen),
        )

    def _outcome(self, life: Life, counted: list[Seen], partial: bool) -> Outcome:
        if of_kind(counted, CLOSE, Verdict.COMMITTED):
            return Outcome.CLOSED
        if of_kind(counted, CLOSE, Verdict.UNKNOWN) or any(s.verdict == Verdict.UNKNOWN for s in counted) or partial:
            return Outcome.UNKNOWN
        final_at = self._abort_is_final_at(counted)
        if any(gap.as_of <= final_at for gap in self.gaps_of(life)):
            return Outcome.UNKNOWN
        return Outcome.ABORTED

    def _commit_delay(self, counted: list[Seen]) -> float | None:
        closes = of_kind(counted, CLOSE, Verdict.COMMITTED)
        if not closes:
            return None
        first = min(closes, key=lambda s: s.event.order)
        return max(0.0, first.decided_at - first.event.read_at)

    def end(self, life: Life) -> Ended:
        """End the life."""
        ended = self.end_of(life)
        if life.cause is not None:
            self.changes.append(Change(life.txn_id, type_of(life.sightings), life.cause, None, 0.0))
        del self.lives[life.txn_id]
        self.ended[life.txn_id] = ended.outcome
        self.late_events += ended.late_events
        return ended


def deciding_close(seen: list[Seen]) -> Seen | None:
    """Of the committed and unknown closes the smallest in (record timestamp, topic, partition, offset)."""
    decided = of_kind(seen, CLOSE, Verdict.COMMITTED, Verdict.UNKNOWN)
    return min(decided, key=lambda s: (s.event.record_ts, s.event.ref, s.event.offset), default=None)


def merged(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans joined where they overlap or touch, ascending."""
    joined: list[tuple[float, float]] = []
    for began, ended in sorted(spans):
        if joined and began <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(ended, joined[-1][1]))
        else:
            joined.append((began, ended))
    return joined
