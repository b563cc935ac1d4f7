"""The ledger: every live business transaction, kept up to date message by message.

It is a plain function of the ordered messages that it is given and of the time that it is told, and it returns what
happened as facts (facts.py). What lifecycle.py says of a whole life at once, the ledger computes incrementally:

- A step of an open transaction is appended and moves `last_at`; nothing else happens. Whatever could change a state
  (opens, closes, anything aborted or unknown, an event of a stuck transaction) makes the transaction *dirty*, and the
  dirty ones are evaluated once, at the end of each message; if they are very many, some of them a little later.
- A committed step triggers nothing. Only closes, and aborted or unknown offsets, are noted.
- Time comes as `as_of` with the messages. It can only make a transaction stuck or settle it, so a transaction that
  waits for it stands in a wheel and is evaluated when it falls due.
- Whatever grows with the input has a limit (eviction.py).

The parts of the ledger have modules of their own: partitions and topics (topics.py), causes and warming up (stuck.py),
limits (eviction.py), what waits to be settled (settlement.py), how far all was seen (watermark.py), what is finished
(archive.py). None of them calls the ledger.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from txninsightd.core import our_clock
from txninsightd.core.agenda import Agenda
from txninsightd.core.archive import Archive
from txninsightd.core.deadlines import drop
from txninsightd.core.events import Judged
from txninsightd.core.eviction import Eviction
from txninsightd.core.facts import (
    Fact,
    FactBuffer,
    Opened,
    PartitionsFound,
    RecordsRead,
    Settled,
    StandingChanged,
)
from txninsightd.core.finished import Finished, finish, finish_plain, give_up, is_plain
from txninsightd.core.intake import Intake
from txninsightd.core.kpis import type_of
from txninsightd.core.life_key import LifeKey, key_of
from txninsightd.core.lifecycle import earliest_open
from txninsightd.core.portions import Message, all_lost, in_portions
from txninsightd.core.rules import JudgingRules, Rules
from txninsightd.core.settlement import Settlement
from txninsightd.core.stuck import StuckTracker
from txninsightd.core.topics import Topics
from txninsightd.core.transaction import NO_CLOSES, UNSEEN, Standing, Transaction
from txninsightd.core.verdicts import PartitionState, give_verdicts, judge
from txninsightd.core.watermark import Watermark
from txninsightd.offset_ranges import OffsetRanges
from txninsightd.vocabulary import (
    Coverage,
    Discovery,
    Outcome,
    PartitionRef,
    Seen,
    SeenTopic,
    Sightings,
    State,
    View,
)

NOT_KNOWN = 0.0
"""A moment in a message that its sender does not know."""

REJUDGED_A_STEP = 100
"""Transactions evaluated again in one step after a change of rules."""

SETTLED_A_STEP = 100
"""Transactions settled before their facts are handed on, while the processor's caches still hold them."""

EVALUATED_A_STEP = 500
"""Transactions evaluated in one call, at most; the others of a message are evaluated when `settle` is called."""


class Ledger:
    """All live transactions. `start_at`: the moment at which reading began, if not at the beginning of the topics.

    `judged_by`: the rules by which every live transaction was judged; None while a reload evaluates them again.
    `agenda`: what is still to be evaluated after the latest messages. `our_clock`: the one that gave all moments that
    are not those of events.
    """

    def __init__(self, rules: Rules, start_at: float = UNSEEN) -> None:
        self.rules = rules
        self.judged_by: JudgingRules | None = rules.judging
        self.live: dict[str, Transaction] = {}
        self._facts = FactBuffer()
        self.topics = Topics()
        self.partitions = self.topics.partitions
        self.watermark = Watermark(rules.colocated, rules.settle_max_s, rules.retry_grace_s)
        self.settlement = Settlement(rules.colocated, rules.settle_max_s, rules.settle_lateness_s, self.watermark)
        self.stuck_tracker = StuckTracker(rules, self.partitions, self.watermark, self._facts)
        self.eviction = Eviction(rules, self._facts.limit_hit)
        self.archive = Archive(
            rules.linger_s, rules.most_lingering, rules.remember_s, rules.most_remembered, self._facts.limit_hit
        )
        self._handlers: dict[type, Callable[[Any], None]] = {
            Sightings: self._sighted,
            Coverage: self._covered,
            Seen: self._seen,
            Discovery: self._discovered,
        }
        self.agenda = Agenda()
        self.intake = Intake(self.live, self.archive, self.eviction, self._facts, start_at)
        self.our_clock = our_clock.NOT_KNOWN
        self._now = NOT_KNOWN

    # --- Calls that return facts. `now` in epoch seconds --------------------------------------------------------------

    def apply(self, message: Message, now: float) -> list[Fact]:
        """Take in one message of a reader. What was applied before changes nothing."""
        self._now = now
        self._handlers[type(message)](message)
        return self._facts.take()

    def in_portions(self, message: Message) -> Iterator[Message]:
        """The same message as several, each to be applied in a few milliseconds; anything may happen in between."""
        return in_portions(message, self.topics)

    def evaluate(self, now: float) -> Iterator[list[Fact]]:
        """Evaluate, in short steps, what the latest messages made due and did not evaluate themselves."""
        self._now = now
        while self.agenda:
            self._evaluate_some()
            self._notice_catch_up()
            yield self._facts.take()

    def settle(self, now: float) -> Iterator[list[Fact]]:
        """Evaluate what is left, then emit, once and for all, every transaction whose outcome is final, and evict.

        Millions may be final at once, so the facts come in portions. Messages may be applied between two of them, and
        snapshots taken; a caller that never takes the rest only settles later.
        """
        yield from self.evaluate(now)
        while self._settle_some():
            # Here as well: messages may go on bringing transactions until the last is settled.
            self._evict()
            yield self._facts.take()
            yield from self.evaluate(self._now)
        self._evict()
        yield self._facts.take()

    def tick(self, now: float) -> list[Fact]:
        """Do what depends on the wall clock alone: settle what waited for too long, and forget."""
        self._now = now
        self.intake.tick()
        # During the warm-up the time in which nothing was read would count as waiting; but that may not last for ever.
        if self.stuck_tracker.has_warmed_up_for(self.rules.settle_max_s, now):
            self.settlement.overdue(now)
            self.archive.age(now)
        return self._facts.take()

    def forget(self, txn_id: str, now: float) -> list[Fact]:
        """End a live transaction because the operator says that it is dead; no facts when there is none."""
        self._now = now
        txn = self.live.get(txn_id)
        if txn is not None:
            # It may still stand on the agenda, not counted as opened.
            self._evaluate(txn)
            self._give_up(txn, Outcome.FORGOTTEN)
        return self._facts.take()

    def adopt(self, rules: Rules, now: float) -> Iterator[list[Fact]]:
        """Go by these rules from now on; `colocated` must be as it was.

        Whatever is evaluated goes by them at once. What only waits is evaluated again, and what has no room any longer
        is dropped, in the steps that are returned: each is a short portion of work, to be taken between two messages.
        A second reload before the last step makes the former steps obsolete.
        """
        self._now = now
        self._go_by(rules)
        if self.judged_by != rules.judging:
            self.judged_by = None
        return self._adopting(rules, now)

    # --- What is asked ------------------------------------------------------------------------------------------------

    @property
    def stuck(self) -> dict[str, Transaction]:
        """The stuck transactions by id."""
        return self.stuck_tracker.stuck

    @property
    def warming_up(self) -> bool:
        """Whether what was written before reading began is still being read."""
        return self.stuck_tracker.warming_up

    def life(self, txn: Transaction) -> list[Judged]:
        """A live transaction's events with their verdicts as of now."""
        return judge(txn, self.partitions)

    @property
    def start_at(self) -> float:
        """The moment at which reading began; minus infinity: at the beginning of the topics."""
        return self.intake.start_at

    def standings(self) -> Iterator[Standing]:
        """Where every live transaction stands."""
        return (txn.standing for txn in self.live.values() if txn.standing is not None)

    def key_of(self, txn: Transaction) -> LifeKey:
        """The idempotency key of a life, from what is known of it by now."""
        return key_of(txn, self.life(txn) if txn.doubtful else None, self.partitions)

    # --- Starting and restoring ---------------------------------------------------------------------------------------

    def add_partition(self, ref: PartitionRef, start_offset: int) -> PartitionState:
        """A partition that both views read from `start_offset` on."""
        partition = self.topics.add(ref, start_offset)
        self.watermark.add(partition)
        return partition

    def start_reading(self, now: float) -> None:
        """Reading begins, or goes on, at `now`: nothing new is called stuck until both views have seen beyond it."""
        self.stuck_tracker.start_reading(now)
        self.watermark.pauses.no_later_than(now)
        seen = max((max(p.monitor_as_of, p.validator_as_of) for p in self.partitions.values()), default=UNSEEN)
        if max(seen, self.watermark.discovered_at) > now:
            # The clock was ahead before a restart of the machine, nobody knows how far: nothing was learnt after now.
            self._correct(lambda moment: min(moment, now))

    def clock_stepped(self, by_s: float, now: float) -> list[Fact]:
        """Our clock was found to be stepped by so many seconds; `now` is told by it as it is from here on.

        All moments that it gave are what they were plus the step. Waits that were running do not run over a leap
        forward, and nothing new is called stuck until both views have seen beyond `now`: with readers that are well, a
        second or two.
        """
        self._now = now
        self._correct(lambda moment: moment + by_s)
        for partition in self.partitions.values():
            # Records without a timestamp have our clock's.
            partition.read_past = min(partition.read_past, now)
        self.watermark.pauses.clock_stepped(by_s, now)
        self.stuck_tracker.start_reading(now)
        return self._facts.take()

    def _correct(self, move: Callable[[float], float]) -> None:
        """Replace each moment that our clock gave, and look at all live transactions again."""
        for partition in self.partitions.values():
            partition.move_moments(move)
        self.watermark.move_moments(move)
        for txn in self.live.values():
            if txn.notes or txn.deciding is not None:
                txn.move_moments(move)
        self.settlement.move_moments(self.live.values(), move)
        self.archive.move_moments(move)
        self.intake.start_at = move(self.intake.start_at)
        self.agenda.add(self.live.values())

    def restore_judging(self, judging: JudgingRules, judged: bool) -> None:
        """Judge as the snapshot did until rules are adopted. `judged`: whether all live ones had been judged so."""
        self._go_by(self.rules._replace(**judging._asdict()))
        self.judged_by = judging if judged else None

    def finish_restore(self) -> None:
        """Work out again what a snapshot does not hold."""
        for partition in self.partitions.values():
            # They were restored transaction by transaction.
            partition.order_pending_closes()
        self.eviction.restore(self.live, sum(partition.undecided for partition in self.partitions.values()))

    # --- Rules --------------------------------------------------------------------------------------------------------

    def _go_by(self, rules: Rules) -> None:
        self.rules = self.stuck_tracker.rules = self.eviction.rules = rules
        self.watermark.settle_max_s = self.settlement.settle_max_s = rules.settle_max_s
        self.settlement.settle_lateness_s = rules.settle_lateness_s
        self.watermark.retry_grace_s = rules.retry_grace_s

    def _adopting(self, rules: Rules, now: float) -> Iterator[list[Fact]]:
        for _ in self.archive.keep(rules.linger_s, rules.most_lingering, rules.remember_s, rules.most_remembered, now):
            yield self._facts.take()
        if left := self._facts.take():
            yield left
        if self.judged_by is not None:
            return
        # Only those of now: what comes later is judged by the new rules anyway.
        live = iter(list(self.live.values()))
        yield []
        while portion := list(islice(live, REJUDGED_A_STEP)):
            for txn in portion:
                self._evaluate(txn)
            yield self._facts.take()
        if self.rules is rules:
            self.judged_by = rules.judging

    # --- Partitions ---------------------------------------------------------------------------------------------------

    def _discovered(self, message: Discovery) -> None:
        retired = self.topics.identify(message)
        for partition in retired:
            self._retire(partition, message.asked_at, unread=True)
        starts = []
        for partition, start in self.topics.begin(message, not_there_at=self.watermark.discovered_at):
            self.watermark.add(partition)
            starts.append(start)
        if starts:
            self._facts.add(PartitionsFound(starts))
        if message.complete:
            for partition in (deleted := self.topics.deleted(message)):
                self._retire(partition, message.asked_at, unread=partition.monitor_end > partition.monitor_offset)
            self.topics.mark_missing(message)
            retired += deleted
            self.watermark.discovered_at = max(self.watermark.discovered_at, message.asked_at)
        if retired:
            self._look_for_gaps()
        self.watermark.partitions_changed()
        self.agenda.add(self.watermark.advance(None))
        self._evaluate_some()
        self._notice_catch_up()

    def _retire(self, partition: PartitionState, now: float, unread: bool) -> None:
        """Its topic was deleted: what has no verdict never gets one. `unread`: some of it may never have been read."""
        lost = all_lost(partition, now)
        self._count_records(View.VALIDATOR, lost.topic, partition.cover(lost))
        self._decide(partition)
        partition.drop_waiting()
        if unread:
            self.watermark.gap(partition, now)
        partition.gone = partition.void = True
        self.watermark.partitions_changed()

    def _note_gap(self, partition: PartitionState, passed_at: float) -> None:
        self.watermark.gap(partition, passed_at)
        self._look_for_gaps()

    def _look_for_gaps(self) -> None:
        # Only the stuck ones are evaluated: one that waits is asked about gaps when it falls due.
        self.agenda.add(self.stuck.values())

    def _count_records(self, view: View, topic: str, results: dict[str, int]) -> None:
        if results:
            self._facts.add(RecordsRead(view, topic, results))

    # --- Sightings ----------------------------------------------------------------------------------------------------

    def _sighted(self, message: Sightings) -> None:
        partition = self.topics.partition_of(message)
        if partition is None:
            return
        applied = partition.monitor_offset
        if message.to_offset > applied:
            self._count_records(View.MONITOR, message.topic, message.results)
        self.intake.take(partition, message, self.agenda.added)
        partition.read_past = max(partition.read_past, message.low_timestamp or UNSEEN)
        partition.monitor_end = max(partition.monitor_end, message.end_offset)
        # Gap and outage lie before the message's `as_of`: what falls due by that must be judged with both known.
        if OffsetRanges(message.gaps).end > applied:
            self._note_gap(partition, message.read_at)
        self._note_outage(message.outage_from, message.as_of)
        # 0 is larger than UNSEEN, and yet no moment that was seen.
        if message.as_of > NOT_KNOWN and self.watermark.seen_by_monitor(partition, message.as_of):
            self.agenda.add(self.watermark.advance([partition]))
        self._update(partition)

    def _note_outage(self, began: float, ended: float) -> None:
        """The broker did not answer for a while: stuck ones, and those about to settle as aborted, get more time."""
        if began and self.watermark.pauses.outage(began, ended):
            # One in a wheel falls due as before, and then waits for longer. But when an abort may settle stands in its
            # ending.
            self.agenda.add(self.stuck.values())
            self.agenda.add(txn for txn in self.live.values() if txn.ending and txn.ending.wholly_aborted)

    # --- How far was seen ---------------------------------------------------------------------------------------------

    def _seen(self, message: Seen) -> None:
        moved = []
        for topic in message.topics:
            ended_at = dict(zip(topic.partitions, topic.as_ofs, strict=True)) if topic.outages else {}
            for number, began in topic.outages:
                if self.topics.partition_at(PartitionRef(topic.topic, number, topic.incarnation)) is not None:
                    self._note_outage(began, ended_at[number])
            moved += self._see(message.view, topic)
        if message.view is View.MONITOR:
            self.agenda.add(self.watermark.advance(moved))
        for partition in moved:
            # Most have none.
            if partition.pending_closes:
                self._look_at_closes(partition)
        self._end_message()

    def _see(self, view: View, topic: SeenTopic) -> list[PartitionState]:
        """Take in how far the partitions of a topic were seen; returns those that it may still be of use to."""
        moved = []
        monitor, watermark = view is View.MONITOR, self.watermark
        for i, number in enumerate(topic.partitions):
            partition = self.topics.partition_at(PartitionRef(topic.topic, number, topic.incarnation))
            if partition is None:
                continue
            moved.append(partition)
            if monitor:
                partition.monitor_end = max(partition.monitor_end, topic.end_offsets[i])
                watermark.seen_by_monitor(partition, topic.as_ofs[i] or UNSEEN)
            else:
                partition.validator_end = max(partition.validator_end, topic.end_offsets[i])
                partition.stable_offset = max(partition.stable_offset, topic.stable_offsets[i])
                watermark.seen_by_validator(partition, topic.as_ofs[i] or UNSEEN)
        return moved

    # --- Verdicts -----------------------------------------------------------------------------------------------------

    def _covered(self, message: Coverage) -> None:
        partition = self.topics.partition_of(message)
        if partition is None:
            return
        self._count_records(View.VALIDATOR, message.topic, partition.cover(message))
        partition.validator_end = max(partition.validator_end, message.end_offset)
        partition.stable_offset = max(partition.stable_offset, message.stable_offset)
        if message.as_of > NOT_KNOWN:
            self.watermark.seen_by_validator(partition, message.as_of)
        self._update(partition)

    def _update(self, partition: PartitionState) -> None:
        """Bring verdicts, states and causes up to date after a message about this partition."""
        self._decide(partition)
        self._look_at_closes(partition)
        self._end_message()

    def _look_at_closes(self, partition: PartitionState) -> None:
        first = partition.pending_closes[0].txn if partition.pending_closes else None
        if first is not None and first.cause is not None:
            # The first pending close may lie at the last stable offset by now, and then its cause is another one.
            self.agenda.add([first])
        self.agenda.add(c.txn for c in partition.close_deadlines.due(partition.both_as_of) if c.txn is not None)

    def _end_message(self) -> None:
        self.agenda.add(self.stuck_tracker.take_look_again())
        self._evaluate_some()
        self._notice_catch_up()

    def _decide(self, partition: PartitionState) -> None:
        undecided = partition.undecided
        give_verdicts(partition, self.live, self.agenda.added)
        self.settlement.decided(partition)
        self.eviction.undecided += partition.undecided - undecided

    # --- Evaluation ---------------------------------------------------------------------------------------------------

    def _evaluate_some(self) -> None:
        left = EVALUATED_A_STEP
        # What the evaluations add comes at once, too, if there is room.
        while left > 0 and (portion := self.agenda.take(left)):
            left -= len(portion)
            for txn in portion:
                self._evaluate(txn)

    def _notice_catch_up(self) -> None:
        """End the warm-up when it is time, and evaluate what it has withheld."""
        if self.stuck_tracker.awaits_catch_up and not self.agenda:
            self.agenda.add(self.stuck_tracker.end_warm_up())
            self._evaluate_some()
            if not self.agenda:
                self.stuck_tracker.notice_catch_up()

    def _evaluate(self, txn: Transaction) -> None:
        # It may be finished since it became dirty, or its id may belong to a newer life.
        if self.live.get(txn.txn_id) is not txn:
            return
        if txn.retype:
            txn.txn_type = type_of(txn.events)
            txn.retype = False
        life = self.life(txn) if txn.doubtful else None
        if life is not None:
            txn.opened_at = earliest_open(life)
        # The wheel it belongs to may have changed with its events, or with the `as_of`s.
        drop(txn)
        txn.state = txn.state_by(life)
        self.stuck_tracker.evaluate(txn, life, self._now)
        txn.simple = txn.state is State.OPEN and txn.cause is None and not txn.doubtful
        self.settlement.await_ending(txn, self.settlement.ending_of(txn, life))
        self._report(txn)
        # A new transaction is not simple yet, so it comes by here at the end of its first message.
        self.eviction.add(txn)

    def _report(self, txn: Transaction) -> None:
        if txn.sighted_open and not txn.counted_open:
            txn.counted_open = True
            self._facts.add(Opened(txn.txn_type))
        self._move(txn, txn.place_in_gauges())

    def _move(self, txn: Transaction, standing: Standing | None) -> None:
        if standing != txn.standing:
            self._facts.add(StandingChanged(txn.standing, standing))
            txn.standing = standing

    # --- The end of a life --------------------------------------------------------------------------------------------

    def _evict(self) -> None:
        for txn, limit in self.eviction.victims(self.live):
            self._facts.limit_hit(limit)
            self._give_up(txn, Outcome.EVICTED)
        self.archive.shrink(self.rules.most_events - self.eviction.kept_events)

    def _settle_some(self) -> bool:
        """Settle some of those that are ripe; returns whether there may be more."""
        looked_at = 0
        for txn in islice(self.settlement.ripe(self.partitions), SETTLED_A_STEP):
            looked_at += 1
            if txn is not None:
                self._finish(txn)
        return looked_at > 0

    def _finish(self, txn: Transaction) -> None:
        assert txn.ending is not None
        # `finish` may cut events off, so both are taken before.
        key, events = self.key_of(txn), len(txn.events)
        if txn.committed_close and is_plain(txn, self.rules.colocated):
            finished = finish_plain(txn, self._now)
        else:
            unread = self.watermark.retry_maybe_unread(txn, txn.ending.key)
            finished = finish(txn, self.life(txn), self.rules.colocated, self.start_at, unread, self._now)
        self.settlement.settled(txn)
        self._leave(finished, key, events)

    def _give_up(self, txn: Transaction, outcome: Outcome) -> None:
        finished = give_up(txn, self.life(txn), outcome, self._now)
        self._leave(finished, self.key_of(txn), len(txn.events))

    def _leave(self, finished: Finished, key: LifeKey, events: int) -> None:
        """A transaction is finished: nothing waits for it any more. `events`: how many of it were kept."""
        txn = finished.txn
        drop(txn)
        self.eviction.remove(txn, events)
        self.stuck_tracker.leave(txn, self._now)
        self.settlement.release(txn)
        for close in txn.pending_closes:
            self.partitions[close.ref].give_up(close)
        txn.pending_closes = NO_CLOSES
        del self.live[txn.txn_id]
        self._move(txn, None)
        self.archive.add(finished, self._now)
        missed = self.rules.objectives.are_missed(txn.txn_type, finished.kpis.duration_s) and not txn.replayed
        self._facts.add(Settled(finished, key, missed))
