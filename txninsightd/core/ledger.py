"""The ledger: every live business transaction, kept up to date message by message.

It is a plain function of the ordered messages that it gets and of the time that it is told. What lifecycle.py says of a
whole life at once, the ledger computes as sightings and verdicts come in:

- A step of an open transaction is appended and moves `last_at`; nothing else happens. Whatever could change a state
  (opens, closes, anything aborted or unknown, an event of a stuck transaction) makes the transaction *dirty*, and the
  dirty are evaluated once, at the end of each message.
- A committed step triggers nothing. Work is due for closes, and for aborted or unknown offsets: only they are noted.
- Time comes as `as_of` with the messages. It can only make a transaction stuck or settle it, so those that wait for it
  stand in wheels and are looked at when they fall due.
- Whatever grows with what comes in has a limit. Past it, steps are given up first (they are not kept, and their verdict
  is unknown), then whole transactions, those idle for longest: they are *evicted*.

`sighted` and `covered` apply one message each; `settle` (settlement.py decides who is ripe) emits what is final and is
called after each message or handful of messages; `tick` does what depends on the wall clock alone.
"""

import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from itertools import compress, islice
from types import MappingProxyType
from typing import NamedTuple

from txninsightd.core.deadlines import drop
from txninsightd.core.events import STEP_KINDS, Event, Judged
from txninsightd.core.eviction_order import EvictionOrder
from txninsightd.core.figures import Figures, Shown
from txninsightd.core.finished import Archive, Finished, finish, finish_plain, give_up, is_plain, record
from txninsightd.core.kpis import type_of
from txninsightd.core.lifecycle import (
    NEVER,
    Situation,
    Stuck,
    cause_of,
    due_after,
    earliest_open,
    latest_abort,
    state_of,
)
from txninsightd.core.settlement import Settlement
from txninsightd.core.transaction import NO_CLOSES, UNSEEN, Ending, Note, Transaction
from txninsightd.core.verdicts import PartitionState
from txninsightd.core.watermark import Watermark
from txninsightd.vocabulary import (
    Anomaly,
    Cause,
    Coverage,
    Discovery,
    Kind,
    Objective,
    Outcome,
    PartitionRef,
    PartitionStart,
    Sightings,
    Signature,
    State,
    Thresholds,
    Verdict,
)

NOT_KNOWN = 0.0
"""A moment in a message that its sender does not know."""

REJUDGED_A_STEP = 100
"""Transactions judged anew in one step after a change of rules."""

PROGRESS_EVERY = 5_000
"""After so many transactions in one go, somebody may want to know that it goes on."""

ENDED = (State.CLOSED, State.UNKNOWN)

NO_LIMIT = sys.maxsize

MOST_SIGNATURES = 10_000
"""As many distinct signatures are kept at a time, so that events share them."""

LOOKS = 16
"""So many transactions are looked at for each one that may be evicted, to find those idle for longest."""

LEAST_EVICTED = 1000
"""So many may be evicted at a time, beside two for each that has come since: no time is long, even if a limit falls."""


class Objectives(NamedTuple):
    """What is wanted of transactions that go well: of most types, and of those that have their own."""

    usual: Objective = Objective()
    by_type: Mapping[str, Objective] = MappingProxyType({})

    def of(self, txn_type: str | None) -> Objective:
        """The objective of a type."""
        return self.usual if txn_type is None else self.by_type.get(txn_type, self.usual)


class Judging(NamedTuple):
    """That part of the rules by which live transactions are judged."""

    settle_lateness_s: float
    settle_max_s: float
    retry_grace_s: float
    stuck: Thresholds
    stuck_by_type: Mapping[str, Thresholds]


class Rules(NamedTuple):
    """What the operator decides. `*_s` in seconds.

    `most_events`: of all live and lingering transactions together; `most_events_each`: of one live transaction.
    """

    colocated: bool
    settle_lateness_s: float
    settle_max_s: float
    retry_grace_s: float
    linger_s: float
    remember_s: float
    most_lingering: int
    most_remembered: int
    stuck: Thresholds
    stuck_by_type: Mapping[str, Thresholds]
    most_open: int = NO_LIMIT
    most_events_each: int = NO_LIMIT
    most_events: int = NO_LIMIT
    most_undecided: int = NO_LIMIT
    objectives: Objectives = Objectives()

    def thresholds(self, txn_type: str | None) -> Thresholds:
        """The thresholds of a type."""
        return self.stuck_by_type.get(txn_type, self.stuck) if txn_type is not None else self.stuck

    @property
    def judging(self) -> Judging:
        """By what live transactions are judged."""
        return Judging(*(getattr(self, name) for name in Judging._fields))


class Incarnation(NamedTuple):
    """Which topic stands behind a name: its id ("": not known), and how many others did before it."""

    topic_id: str
    number: int


class StuckChange(NamedTuple):
    """A transaction became stuck, changed its cause, or is no longer stuck (`cause` None)."""

    txn_id: str
    txn_type: str | None
    before: Cause | None
    cause: Cause | None
    since: float


class Ledger:
    """All live transactions. `start_at`: the moment at which reading began, if not at the beginning of the topics.

    `judged_by`: by what every live transaction was judged; None while they are being judged anew (see `adopt`).
    `kept_events`: of all live transactions. `undecided`: sightings that are kept for their verdicts.
    `watermark`: how far we have seen. `settlement`: who waits to be settled.
    """

    def __init__(self, rules: Rules, figures: Figures, start_at: float = UNSEEN) -> None:
        self.rules = rules
        self.judged_by: Judging | None = rules.judging
        self.figures = figures
        self.start_at = start_at
        self.live: dict[str, Transaction] = {}
        self.stuck: dict[str, Transaction] = {}
        self.partitions: dict[PartitionRef, PartitionState] = {}
        self.topics: dict[str, Incarnation] = {}
        self.archive = Archive(
            rules.linger_s, rules.most_lingering, rules.remember_s, rules.most_remembered, figures.limit_hits
        )
        self.kept_events = 0
        self.undecided = 0
        self.stuck_changes: list[StuckChange] = []
        self.caught_up = False
        self.watermark = Watermark(rules.colocated, rules.settle_max_s)
        self.settlement = Settlement(rules.colocated, rules.settle_max_s, self.watermark)
        # Dicts as ordered sets: who is looked at first follows from the messages, not from where objects lie in memory.
        self._dirty: dict[Transaction, None] = {}
        self._await_validator: dict[Transaction, None] = {}
        self._eviction_order = EvictionOrder()
        self._admitted = 0
        self._outsized: dict[Transaction, None] = {}
        self._signatures: dict[Signature, Signature] = {}
        self.on_progress: Callable[[], None] = lambda: None
        self._resumed_at = NOT_KNOWN
        self._withheld: dict[Transaction, None] = {}

    # --- What a checkpoint needs --------------------------------------------------------------------------------------

    def to_look_at(self) -> set[Transaction]:
        """Those that are looked at again after the next message, or once both views have caught up."""
        return {*self._await_validator, *self._withheld}

    def look_at(self, txn: Transaction) -> None:
        """Look at this one again after the next message."""
        self._await_validator[txn] = None

    def resume(self, now: float) -> None:
        """Reading begins, or goes on, at `now`: nothing new is called stuck before both views have seen beyond that."""
        self._resumed_at = now
        for partition in self.partitions.values():
            # After a clock was set back, `as_of` would lie in the future, and silence unseen would count as seen.
            partition.monitor_as_of = min(partition.monitor_as_of, now)
            partition.validator_as_of = min(partition.validator_as_of, now)
        self.watermark.not_beyond(now)

    @property
    def warming_up(self) -> bool:
        """Whether what was written before reading began is still being read."""
        return self._resumed_at != NOT_KNOWN

    def recount(self) -> None:
        """Work out how much is kept, and who has been idle for how long."""
        self.undecided = sum(partition.undecided for partition in self.partitions.values())
        self.kept_events = sum(len(txn.events) for txn in self.live.values())
        for txn in self.live.values():
            self._eviction_order.add(txn)

    # --- What comes in ------------------------------------------------------------------------------------------------

    def add_partition(self, ref: PartitionRef, start_offset: int) -> PartitionState:
        """A partition that both views read from `start_offset` on."""
        partition = PartitionState(ref, start_offset)
        self.partitions[ref] = partition
        self.watermark.add(partition)
        return partition

    def discovered(self, message: Discovery) -> list[PartitionStart]:
        """Take in which partitions there are: lost ones are no longer waited for. Gives what to begin, and where."""
        # First, since what begins bears the number of the topic that is there now.
        for topic, topic_id in message.topic_ids.items():
            self._identify(topic, topic_id, message.asked_at)
        # Before `discovered_at` moves: what begins now was not there at the look before this one (see Horizon.gap).
        begun = [found for each in message.found if (found := self._begin(each)) is not None]
        if message.complete:
            self._note_absent(message)
            self.watermark.discovered_at = max(self.watermark.discovered_at, message.asked_at)
        self._dirty.update(dict.fromkeys(self.watermark.advance(None)))
        self._evaluate_dirty()
        return begun

    def _identify(self, topic: str, topic_id: str, now: float) -> None:
        """A name with another id than before is another topic, and the old one is no more."""
        known = self.topics.get(topic)
        if known is None or not known.topic_id:
            self.topics[topic] = Incarnation(topic_id, known.number if known is not None else 0)
        elif known.topic_id != topic_id:
            self.topics[topic] = Incarnation(topic_id, known.number + 1)
            for partition in self.partitions.values():
                if partition.ref.topic == topic and not partition.void:
                    self._void(partition, now, unread=True)

    def _begin(self, found: PartitionStart) -> PartitionStart | None:
        """What was away, and comes back as the same topic, goes on where it was left."""
        topic = self.topics.get(found.topic, Incarnation(found.topic_id, 0))
        ref = PartitionRef(found.topic, found.partition, topic.number)
        known = self.partitions.get(ref)
        if known is not None and not known.void:
            return None
        start_offset = known.monitor_offset if known is not None else found.start_offset
        self.add_partition(ref, start_offset).absent_at = self.watermark.discovered_at
        return PartitionStart(*ref[:2], start_offset, incarnation=topic.number, topic_id=topic.topic_id)

    def _note_absent(self, message: Discovery) -> None:
        """What is missing is no longer waited for; missing a second time, it was deleted."""
        for partition in self.partitions.values():
            ref = partition.ref
            absent = ref.partition not in message.present.get(ref.topic, ())
            if absent and partition.gone and not partition.void:
                self._void(partition, message.asked_at, unread=partition.monitor_end > partition.monitor_offset)
            partition.gone = absent or partition.void
            # Where events are colocated, some wait for this partition alone, in which nothing will ever be read.
            if partition.void and absent:
                partition.monitor_as_of = max(partition.monitor_as_of, message.asked_at)

    def _void(self, partition: PartitionState, now: float, unread: bool) -> None:
        """It was deleted: what has no verdict yet never gets one. `unread`: part of it may never have been read."""
        ref, start, end = partition.ref, partition.decided_offset, partition.monitor_offset
        # As if the validator had told of a gap: the usual walk then finds all that pends to be unknown.
        unreadable = Coverage(ref.topic, ref.partition, start, end, now, NOT_KNOWN, [], [start, end], -1)
        self.figures.count_records("validator", ref.topic, partition.cover(unreadable))
        self._decide(partition)
        partition.drop_waiting()
        if unread:
            self.watermark.gap(partition, now)
            self._dirty.update(dict.fromkeys(self.stuck.values()))
        partition.gone = partition.void = True

    def _partition_of(self, message: Sightings | Coverage) -> PartitionState | None:
        """None: its topic was deleted meanwhile."""
        partition = self.partitions[PartitionRef(message.topic, message.partition, message.incarnation)]
        return None if partition.void else partition

    def sighted(self, message: Sightings) -> None:
        """Apply what a monitor saw; what it saw before changes nothing."""
        partition = self._partition_of(message)
        if partition is None:
            return
        # Asked before `monitor_offset` moves. Flat pairs: the last number is the end of the last gap.
        gap_is_new = bool(message.gaps) and message.gaps[-1] > partition.monitor_offset
        if message.to_offset > partition.monitor_offset:
            self.figures.count_records("monitor", message.topic, message.results)
        columns = _news(message, partition.monitor_offset)
        self._await_verdicts(partition, *self._append_events(partition, columns, message), message)
        partition.read_past = max(partition.read_past, message.low_timestamp or UNSEEN)
        partition.monitor_end = max(partition.monitor_end, message.end_offset)
        if gap_is_new:
            # Before `as_of` moves: up to where it stands now, the partition was seen without the gap.
            # Only the stuck are looked at: who waits is asked about gaps when it falls due.
            self.watermark.gap(partition, message.read_at)
            self._dirty.update(dict.fromkeys(self.stuck.values()))
        # Before `as_of` passes the outage: who falls due by that must be judged with the outage known.
        self._note_outage(message)
        # 0 is larger than UNSEEN, and yet no moment that was seen.
        if message.as_of > max(partition.monitor_as_of, NOT_KNOWN):
            partition.monitor_as_of = message.as_of
            self._dirty.update(dict.fromkeys(self.watermark.advance(partition)))
        self._apply(partition)

    def covered(self, message: Coverage) -> None:
        """Apply what a validator passed."""
        partition = self._partition_of(message)
        if partition is None:
            return
        self.figures.count_records("validator", message.topic, partition.cover(message))
        partition.validator_end = max(partition.validator_end, message.end_offset)
        partition.stable_offset = max(partition.stable_offset, message.stable_offset)
        if message.as_of > max(partition.validator_as_of, NOT_KNOWN):
            partition.validator_as_of = message.as_of
        self._apply(partition)

    def tick(self, now: float) -> None:
        """What depends on the wall clock alone: settlement that waited for too long, and forgetting."""
        # While warming up, the time in which nobody read would pass for waiting; but that may not last for ever.
        if now > self._resumed_at + self.rules.settle_max_s or not self.warming_up:
            self.settlement.overdue(now)
            self.archive.age(now)

    def settle(self, now: float) -> list[Finished]:
        """Emit, once and for all, every transaction whose outcome is final, and those that there is no room for."""
        settled: list[Finished] = []
        for txn in self.settlement.ripe(self.partitions):
            settled.append(self._finish(txn, now))
            if not len(settled) % PROGRESS_EVERY:
                self.on_progress()
        return settled + self._make_room(now)

    def forget(self, txn_id: str, now: float) -> bool:
        """End a transaction because the operator says that it is dead; says whether it was live."""
        txn = self.live.get(txn_id)
        if txn is not None:
            self._give_up(txn, Outcome.FORGOTTEN, now)
        return txn is not None

    def adopt(self, rules: Rules, now: float) -> Iterator[None]:
        """Go by these rules from now on; `colocated` must be as it was.

        Whatever is evaluated goes by them at once. What only waits is judged anew, and what has no room any longer let
        go, in the steps that are given back: each is a short portion of work, to be taken between two messages. Who
        adopts again before the last step leaves the former steps alone.
        """
        self._go_by(rules)
        if self.judged_by != rules.judging:
            self.judged_by = None
        for txn_type in rules.stuck_by_type:
            self.figures.txn_types.name(txn_type)
        return self._adopting(rules, now)

    def _adopting(self, rules: Rules, now: float) -> Iterator[None]:
        yield from self.archive.keep(rules.linger_s, rules.most_lingering, rules.remember_s, rules.most_remembered, now)
        if self.judged_by is not None:
            return
        # Those of now: who comes later is judged by the new rules anyway.
        live = iter(list(self.live.values()))
        yield
        while portion := list(islice(live, REJUDGED_A_STEP)):
            for txn in portion:
                self._evaluate(txn)
            yield
        if self.rules is rules:
            self.judged_by = rules.judging

    def judge_as_before(self, judging: Judging, judged: bool) -> None:
        """Judge as before a restart until rules are adopted; `judged`: whether all live ones had been judged so."""
        self._go_by(self.rules._replace(**judging._asdict()))
        self.judged_by = judging if judged else None

    def _go_by(self, rules: Rules) -> None:
        self.rules = rules
        self.watermark.settle_max_s = self.settlement.settle_max_s = rules.settle_max_s

    # --- What is asked ------------------------------------------------------------------------------------------------

    def topic_ids(self) -> dict[str, str]:
        """The ids of the topics, as far as they are known."""
        return {name: topic.topic_id for name, topic in self.topics.items() if topic.topic_id}

    def life(self, txn: Transaction) -> list[Judged]:
        """A transaction's events with their verdicts as of now."""
        partitions, notes = self.partitions, txn.notes
        life = []
        for event in txn.events:
            note = notes.get((event.ref, event.offset))
            if note is not None:
                life.append(Judged(event, note.verdict, note.decided_at))
            elif event.offset < partitions[event.ref].decided_offset:
                life.append(Judged(event, Verdict.COMMITTED))
            else:
                life.append(Judged(event, Verdict.PENDING))
        return life

    # --- Sightings ----------------------------------------------------------------------------------------------------

    def _append_events(
        self, partition: PartitionState, columns: "Columns", message: Sightings
    ) -> tuple[list[int], list[str]]:
        """The inner loop: everything here is paid for once an event. Gives the offsets and txn_ids of what was kept."""
        live, dirty, ref, start_at = self.live, self._dirty, partition.ref, self.start_at
        signatures = [self.shared(Signature(*s)) for s in message.signatures]
        plain = [s.kind in STEP_KINDS and not s.kept_time and not s.future for s in signatures]
        types = [s.txn_type for s in signatures]
        # With too many undecided, all but a first event is past a limit; `_has_room` still lets in opens and closes.
        most = self.rules.most_events_each if self.undecided < self.rules.most_undecided else 1
        late, passed_over, lived = 0, [], len(live)
        for offset, txn_id, index, ts, record_ts in zip(*columns, strict=True):
            txn = live.get(txn_id)
            if txn is None:
                txn = self._admit(txn_id, signatures[index])
                if txn is None:
                    late += 1
                    continue
            events = txn.events
            if len(events) >= most and not self._has_room(txn, signatures[index], ts, record_ts):
                passed_over.append(offset)
                continue
            event = Event(ts, ref, offset, record_ts, signatures[index])
            events.append(event)
            moment = ts if ts > record_ts else record_ts
            if moment > txn.last_at:
                txn.last_at = moment
            if ts < start_at:
                # Not simple: the gauge of partial ones is to be told, which only an evaluation does.
                txn.early = True
                txn.simple = False
            txn_type = types[index]
            if txn_type is not None and txn_type != txn.txn_type:
                if txn.txn_type is None:
                    txn.txn_type = txn_type
                else:
                    # Which type holds is up to the order of the events, not of their arrival; `_evaluate` finds out.
                    txn.retype = True
                txn.simple = False
            if not (txn.simple and plain[index]):
                dirty[txn] = None
                if not plain[index]:
                    self._note_end(partition, txn, event, message.read_at)
        kept = (columns[0], columns[1]) if not passed_over else _without(passed_over, columns[0], columns[1])
        # Late events are in the columns, and in no transaction.
        self.kept_events += len(kept[0]) - late
        self._admitted += len(live) - lived
        return kept

    def _has_room(self, txn: Transaction, signature: Signature, ts: float, record_ts: float) -> bool:
        """Whether an event past a limit is kept all the same. Opens and closes are, for as long as can be.

        A step that is not kept still shows that its transaction is alive.
        """
        most = self.rules.most_events_each
        if signature.kind not in STEP_KINDS:
            if len(txn.events) < 2 * most:
                return True
            self._outsized[txn] = None
            return False
        limit = "events_per_transaction" if len(txn.events) >= most else "undecided_records"
        self.figures.limit_hits[limit] += 1
        txn.given_up_steps += 1
        txn.last_at = max(txn.last_at, ts, record_ts)
        txn.early = txn.early or ts < self.start_at
        txn.replayed = txn.replayed or signature.kept_time
        txn.future = txn.future or signature.future
        if not txn.simple or txn.early or txn.replayed:
            self._dirty[txn] = None
        return False

    def _await_verdicts(
        self, partition: PartitionState, offsets: list[int], txn_ids: list[str], message: Sightings
    ) -> None:
        before = partition.undecided
        partition.sight(offsets, txn_ids, message.to_offset, message.read_at)
        partition.compact(self.live, crowded=self.undecided >= self.rules.most_undecided)
        self.undecided += partition.undecided - before

    def shared(self, signature: Signature) -> Signature:
        """The one instance of equal signatures."""
        if len(self._signatures) >= MOST_SIGNATURES:
            self._signatures.clear()
        return self._signatures.setdefault(signature, signature)

    def _admit(self, txn_id: str, signature: Signature) -> Transaction | None:
        """A transaction that is not live: new, or over (its event is late, unless it opens an aborted one anew)."""
        was_aborted = self.archive.was_aborted(txn_id)
        if was_aborted is not None and not (was_aborted and signature.kind == Kind.TRANSACTION_OPEN):
            self.figures.anomalies[Anomaly.LATE_EVENT.value] += 1
            return None
        txn = Transaction(txn_id, late_retry=was_aborted is not None)
        self.live[txn_id] = txn
        return txn

    def _note_end(self, partition: PartitionState, txn: Transaction, event: Event, sighted_at: float) -> None:
        """An open, a close, or a replayed event."""
        kind = event.signature.kind
        if event.signature.kept_time:
            txn.replayed = True
        if event.signature.future:
            txn.future = True
        if kind == Kind.TRANSACTION_OPEN:
            txn.sighted_open = True
            txn.opened_at = min(txn.opened_at, event.ts)
        elif kind == Kind.TRANSACTION_CLOSE:
            # Sightings come by ascending offset, so these stand in the order in which verdicts will come.
            partition.pending_closes.append(txn.await_verdict(event.ref, event.offset, event.record_ts, sighted_at))

    # --- Verdicts -----------------------------------------------------------------------------------------------------

    def _note_outage(self, message: Sightings) -> None:
        """The broker did not answer for a while: the stuck, and who waits to be settled as aborted, get more time."""
        if message.outage_from and self.watermark.outage(message.outage_from, message.as_of):
            # Who stands in a wheel needs no look: it falls due as before, and then waits for longer. But when an abort
            # may settle stands in its ending.
            self._dirty.update(dict.fromkeys(self.stuck.values()))
            self._dirty.update((txn, None) for txn in self.live.values() if txn.ending and txn.ending.wholly_aborted)

    def _apply(self, partition: PartitionState) -> None:
        """Bring verdicts, states and causes up to date after a message about this partition."""
        self._decide(partition)
        self._look_at_front(partition)
        self._dirty.update(self._await_validator)
        self._await_validator.clear()
        for close in partition.close_deadlines.due(partition.both_as_of):
            if close.txn is not None:
                self._dirty[close.txn] = None
        self._evaluate_dirty()
        if self.warming_up or not self.caught_up:
            self._notice_catch_up()

    def _notice_catch_up(self) -> None:
        present = [p.both_as_of for p in self.partitions.values() if not p.gone]
        seen = min(present, default=UNSEEN)
        if self.warming_up and seen > self._resumed_at:
            # First, or `_set_cause` would withhold them again.
            self._resumed_at = NOT_KNOWN
            self._dirty.update(self._withheld)
            self._withheld = {}
            self._evaluate_dirty()
        # Last: what is found stuck at the first catch-up of all is shown, and not counted as having become so.
        self.caught_up = self.caught_up or (seen > UNSEEN and not self.warming_up)

    def _decide(self, partition: PartitionState) -> None:
        ref, live, undecided = partition.ref, self.live, partition.undecided
        for decided_offset, decided_at, undelivered in partition.decide():
            verdicts = {u.offset: u.verdict for u in undelivered}
            closes = partition.pending_closes
            while closes and closes[0].offset < decided_offset:
                close = closes.popleft()
                # Taken out, so that it is not noted a second time below.
                verdict = verdicts.pop(close.offset, Verdict.COMMITTED)
                txn = close.txn
                if txn is None:
                    partition.closes_given_up -= 1
                    continue
                drop(close)
                txn.close_decided(close, Note(verdict, decided_at, close.sighted_at))
                self._dirty[txn] = None
            for u in undelivered:
                # An event of a life that is over may meet the next life of its id, which then has a note of what it
                # does not have. That costs it the short ways, and changes no verdict.
                txn = live.get(u.txn_id) if u.offset in verdicts else None
                if txn is not None:
                    txn.note(ref, u.offset, Note(u.verdict, decided_at))
                    txn.simple = False
                    self._dirty[txn] = None
            self.settlement.decided(partition)
        self.undecided += partition.undecided - undecided

    def _look_at_front(self, partition: PartitionState) -> None:
        """The first pending close may have come to lie at the last stable offset: that changes its cause."""
        first = partition.pending_closes[0].txn if partition.pending_closes else None
        if first is not None and first.cause is not None:
            self._dirty[first] = None

    # --- States and causes --------------------------------------------------------------------------------------------

    def _evaluate_dirty(self) -> None:
        dirty, self._dirty = self._dirty, {}
        for i, txn in enumerate(dirty, 1):
            self._evaluate(txn)
            if not i % PROGRESS_EVERY:
                self.on_progress()

    def _evaluate(self, txn: Transaction) -> None:
        # It may be over since it was made dirty, or its id may live again as another.
        if self.live.get(txn.txn_id) is not txn:
            return
        if txn.retype:
            txn.txn_type = type_of(txn.events)
            txn.retype = False
        life = self.life(txn) if txn.doubtful else None
        if life is not None:
            txn.opened_at = earliest_open(life)
        # Which wheel is its own may have changed with its events, or with the `as_of`s.
        drop(txn)
        txn.state = self._state(txn, life)
        self._set_cause(txn, self._stuck(txn, life))
        txn.simple = txn.state is State.OPEN and txn.cause is None and not txn.doubtful
        self._prepare_ending(txn, life)
        self._show(txn)
        # Whoever is new comes by here at the end of its first message, since it is not simple yet.
        if txn.idle_bucket is None:
            self._eviction_order.add(txn)

    def _state(self, txn: Transaction, life: list[Judged] | None) -> State:
        """The first three rules by what was noted; only a doubtful transaction needs its whole life."""
        if txn.committed_close:
            return State.CLOSED
        if txn.pending_closes:
            return State.TENTATIVELY_CLOSED
        if txn.unknown_close:
            return State.UNKNOWN
        return State.OPEN if life is None else state_of(life)

    def _stuck(self, txn: Transaction, life: list[Judged] | None) -> Stuck | None:
        if txn.partial or txn.replayed or txn.state in ENDED:
            return None
        thresholds = self.rules.thresholds(txn.txn_type)
        if txn.state is State.TENTATIVELY_CLOSED:
            if not self._close_waits_too_long(txn, thresholds.commit_pending_after_s):
                return None
            return self._cause(txn, life, thresholds)
        # And for good, since what lay in a gap is never read: no wheel.
        if self.watermark.maybe_unread(txn):
            return None
        if txn.state is State.OPEN:
            idle_at = self._due_after(txn.last_at, thresholds.idle_after_s)
            overdue_at = self._due_after(txn.opened_at, thresholds.overdue_after_s)
            stuck = None
            if self.watermark.of(txn) > min(idle_at, overdue_at):
                stuck = self._cause(txn, life, thresholds)
            # Idle is the first of all causes: nothing that falls due can change it. The overdue may become idle.
            if stuck is None or stuck.cause is not Cause.IDLE:
                self.watermark.wheel(txn).set(txn, idle_at if stuck is not None else min(idle_at, overdue_at))
            return stuck
        assert life is not None  # Aborted: nothing is, without a note
        if not any(j.stands for j in life):
            return None
        stuck = self._cause(txn, life, thresholds)
        if stuck is None:
            due_at = self._due_after(latest_abort(life), self.rules.retry_grace_s)
            if self.watermark.of(txn) > due_at:
                # The monitor has seen enough; how far the validator has come, for what still pends, no wheel can tell.
                self._await_validator[txn] = None
            else:
                self.watermark.wheel(txn).set(txn, due_at)
        return stuck

    def _due_after(self, reference: float, wait_s: float) -> float:
        outages = self.watermark.outages
        return due_after(reference, wait_s, outages, self.rules.retry_grace_s) if outages else reference + wait_s

    def _close_waits_too_long(self, txn: Transaction, commit_pending_after_s: float) -> bool:
        """Whether one of its pending closes does; those that do not yet fall due later."""
        late = False
        for close in txn.pending_closes:
            partition = self.partitions[close.ref]
            due_at = self._due_after(close.record_ts, commit_pending_after_s)
            if partition.both_as_of > due_at:
                late = True
            else:
                partition.close_deadlines.set(close, due_at)
        return late

    def _cause(self, txn: Transaction, life: list[Judged] | None, thresholds: Thresholds) -> Stuck | None:
        return cause_of(
            Situation(
                life=life if life is not None else self.life(txn),
                state=txn.state,
                thresholds=thresholds,
                retry_grace_s=self.rules.retry_grace_s,
                watermark=self.watermark.of(txn),
                both_as_of=lambda ref: self.partitions[ref].both_as_of,
                last_stable_offset=lambda ref: self.partitions[ref].last_stable_offset,
                maybe_unread=self.watermark.maybe_unread(txn),
                outages=self.watermark.outages,
                last_at=txn.last_at,
            )
        )

    def _set_cause(self, txn: Transaction, stuck: Stuck | None) -> None:
        cause = stuck.cause if stuck is not None else None
        if cause is txn.cause:
            if stuck is not None:
                txn.since = stuck.since
            return
        if self.warming_up and txn.cause is None:
            # It may stand in no wheel now, as the stuck do not: it is looked at again when both views have caught up.
            self._withheld[txn] = None
            return
        change = StuckChange(txn.txn_id, txn.txn_type, txn.cause, cause, stuck.since if stuck is not None else 0.0)
        self.stuck_changes.append(change)
        txn.cause, txn.since = cause, change.since
        if cause is None:
            del self.stuck[txn.txn_id]
            return
        txn.stuck_for(cause)
        self.stuck[txn.txn_id] = txn
        if self.caught_up:
            self.figures.stuck[self.figures.txn_types(txn.txn_type), cause.value] += 1

    def _show(self, txn: Transaction) -> None:
        label = self.figures.txn_types(txn.txn_type)
        if txn.sighted_open and not txn.counted_open:
            txn.counted_open = True
            self.figures.opened[label] += 1
        waits_open = txn.state in (State.OPEN, State.TENTATIVELY_CLOSED)
        state = "stuck" if txn.cause else txn.state.value if waits_open or txn.state is State.ABORTED else None
        aged = waits_open and txn.opened_at != NEVER and not txn.replayed
        shown = Shown(
            label, state, txn.cause.value if txn.cause else None, int(txn.opened_at) if aged else None, txn.partial
        )
        if shown != txn.shown:
            self.figures.show(txn.shown, shown)
            txn.shown = shown

    # --- Settlement ---------------------------------------------------------------------------------------------------

    def _prepare_ending(self, txn: Transaction, life: list[Judged] | None) -> None:
        ending = None
        # Colocated, the first decided close ends it, though another may pend.
        if txn.deciding is not None and (txn.state in ENDED or self.rules.colocated):
            record_ts, _, _, decided_at = txn.deciding
            ending = Ending(record_ts + self.rules.settle_lateness_s, decided_at, wholly_aborted=False)
        # An abort with something left behind has no ending: it stays until it is retried, forgotten or evicted.
        elif life is not None and not any(j.stands for j in life):
            decided_at = latest_abort(life)
            ending = Ending(self._due_after(decided_at, self.rules.retry_grace_s), decided_at, wholly_aborted=True)
        if ending is not None or txn.ending is not None:
            self.settlement.await_ending(txn, ending)

    def _finish(self, txn: Transaction, now: float) -> Finished:
        assert txn.ending is not None
        # Before `finish`, which cuts off what lies beyond the close.
        events = len(txn.events)
        if txn.committed_close and is_plain(txn, self.rules.colocated):
            finished = finish_plain(txn, now)
        else:
            unread = self.watermark.retry_maybe_unread(txn, txn.ending.key)
            finished = finish(txn, self.life(txn), self.rules.colocated, self.start_at, unread, now)
        self._leave(finished, events, now)
        return finished

    def _leave(self, finished: Finished, events: int, now: float) -> None:
        """It is over, whatever became of it: nothing waits for it any more. `events`: how many were kept of it."""
        txn = finished.txn
        drop(txn)
        self._eviction_order.leave(txn)
        if self._withheld:
            self._withheld.pop(txn, None)
        self._set_cause(txn, None)
        self.settlement.release(txn)
        if txn.pending_closes:
            self._release_closes(txn)
        del self.live[txn.txn_id]
        self.kept_events -= events
        self.figures.show(txn.shown, None)
        txn.shown = None
        self.archive.add(finished, now)
        record(self.figures, finished, self.rules.objectives.of(txn.txn_type))

    def _release_closes(self, txn: Transaction) -> None:
        for close in txn.pending_closes:
            self.partitions[close.ref].give_up(close)
        txn.pending_closes = NO_CLOSES

    # --- Limits -------------------------------------------------------------------------------------------------------

    def _make_room(self, now: float) -> list[Finished]:
        """Give up what exceeds the limits: outsized live ones, those idle for longest, and what lingers.

        Of the events of all together, what lingers goes first.
        """
        evicted = []
        if self._outsized:
            over = [txn for txn in self._outsized if self.live.get(txn.txn_id) is txn]
            self._outsized.clear()
            evicted += [self._evict(txn, "events_per_transaction", now) for txn in over]
        most, self._admitted = LEAST_EVICTED + 2 * self._admitted, 0
        if self._passed_limit() is not None:
            for txn in self._eviction_order.take(LOOKS * most):
                evicted.append(self._evict(txn, self._passed_limit() or "", now))
                if self._passed_limit() is None or len(evicted) >= most:
                    break
        self.archive.shrink(self.rules.most_events - self.kept_events)
        return evicted

    def _passed_limit(self) -> str | None:
        """The limit that the live transactions exceed."""
        if len(self.live) > self.rules.most_open:
            return "open_transactions"
        # Live ones alone: as long as it is only both together, what lingers goes.
        return "kept_events" if self.kept_events > self.rules.most_events else None

    def _evict(self, txn: Transaction, limit: str, now: float) -> Finished:
        self.figures.limit_hits[limit] += 1
        return self._give_up(txn, Outcome.EVICTED, now)

    def _give_up(self, txn: Transaction, outcome: Outcome, now: float) -> Finished:
        finished = give_up(txn, self.life(txn), outcome, now)
        self._leave(finished, len(txn.events), now)
        return finished


Columns = tuple[list[int], list[str], list[int], list[float], list[float]]
"""Of sightings: offset, txn_id, index of the signature, ts, record timestamp."""


def _news(message: Sightings, applied: int) -> Columns:
    """The columns without what was applied before (a reader that was restarted may overlap)."""
    offsets, stamps = message.offsets, message.record_timestamps
    if not offsets or offsets[0] >= applied:
        return offsets, message.txn_ids, message.signature_indexes, message.timestamps, stamps
    i = bisect_left(offsets, applied)
    return offsets[i:], message.txn_ids[i:], message.signature_indexes[i:], message.timestamps[i:], stamps[i:]


def _without(passed_over: list[int], offsets: list[int], txn_ids: list[str]) -> tuple[list[int], list[str]]:
    gone = set(passed_over)
    kept = [offset not in gone for offset in offsets]
    return list(compress(offsets, kept)), list(compress(txn_ids, kept))
