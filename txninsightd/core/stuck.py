"""Which live transactions are stuck, and why: the table of causes (lifecycle.py), applied as time goes on.

A transaction that may become stuck waits in a wheel for the watermark to pass its threshold; a stuck one waits for
nothing but its next event. What cannot be said by a wheel alone is looked at again after the next message.

While the daemon is *warming up* (what was written before reading began is still being read) nothing new is called
stuck: such a transaction is withheld and evaluated again once both views have caught up.
"""

from collections.abc import Mapping

from txninsightd.core.events import Judged
from txninsightd.core.facts import FactBuffer, StuckChanged
from txninsightd.core.lifecycle import (
    ENDED,
    LATE_CLOSE,
    NEVER,
    Situation,
    Stuck,
    Wait,
    cause_of,
    latest_abort,
    wait_of,
)
from txninsightd.core.rules import Rules
from txninsightd.core.transaction import UNSEEN, Transaction
from txninsightd.core.verdicts import PartitionState, judge
from txninsightd.core.watermark import Watermark
from txninsightd.vocabulary import Cause, PartitionRef, State, Thresholds

NOT_WARMING_UP = 0.0
NO_WAIT = Wait(NEVER, NEVER)


class StuckTracker:
    """`stuck`: the stuck transactions by id, in the order in which they became so.

    `caught_up`: whether both views have seen all partitions at some moment since the state began.
    """

    def __init__(
        self, rules: Rules, partitions: Mapping[PartitionRef, PartitionState], watermark: Watermark, facts: FactBuffer
    ) -> None:
        self.rules = rules
        self.stuck: dict[str, Transaction] = {}
        self.caught_up = False
        self._partitions = partitions
        self._watermark = watermark
        self._facts = facts
        self._warming_up_since = NOT_WARMING_UP
        # Dicts as ordered sets, here as everywhere in the core: the order follows from the messages alone.
        self._look_again: dict[Transaction, None] = {}
        self._withheld: dict[Transaction, None] = {}

    # --- Warming up ---------------------------------------------------------------------------------------------------

    def start_reading(self, now: float) -> None:
        """Reading begins, or goes on, at `now`: the warm-up lasts until both views have seen beyond that."""
        self._warming_up_since = now

    @property
    def warming_up(self) -> bool:
        """Whether what was written before reading began is still being read."""
        return self._warming_up_since != NOT_WARMING_UP

    def has_warmed_up_for(self, seconds: float, now: float) -> bool:
        """Whether the warm-up is over, or has lasted for longer than `seconds`."""
        return not self.warming_up or now > self._warming_up_since + seconds

    def end_warm_up(self) -> dict[Transaction, None]:
        """End the warm-up once both views have seen beyond its start; returns what must be evaluated again."""
        withheld: dict[Transaction, None] = {}
        if self.warming_up and self._watermark.seen_everywhere_by_both() > self._warming_up_since:
            self._warming_up_since = NOT_WARMING_UP
            withheld, self._withheld = self._withheld, {}
        return withheld

    def notice_catch_up(self) -> None:
        """What becomes stuck from the first catch-up on is new. To be called once what was withheld is evaluated."""
        self.caught_up = self.caught_up or (not self.warming_up and self._watermark.seen_everywhere_by_both() > UNSEEN)

    @property
    def awaits_catch_up(self) -> bool:
        """Whether one of the two above has anything to do."""
        return self.warming_up or not self.caught_up

    # --- What is looked at again --------------------------------------------------------------------------------------

    def look_again(self, txn: Transaction) -> None:
        """Evaluate this one after the next message."""
        self._look_again[txn] = None

    def take_look_again(self) -> dict[Transaction, None]:
        """The transactions to be evaluated after this message."""
        again, self._look_again = self._look_again, {}
        return again

    def to_look_at(self) -> set[Transaction]:
        """All that are evaluated again later without a wheel: what a snapshot must tell."""
        return {*self._look_again, *self._withheld}

    # --- One transaction ----------------------------------------------------------------------------------------------

    def evaluate(self, txn: Transaction, life: list[Judged] | None, now: float) -> None:
        """Work out the cause anew. `life`: the events with their verdicts, where they are known already."""
        stuck = self._judge(txn, life)
        cause = stuck.cause if stuck is not None else txn.cause
        wait = self._wait(txn, life, cause) if cause is not None else NO_WAIT
        if stuck is None and cause is not None and wait.reference == NEVER:
            # Not by a pause, but by what has happened to it.
            txn.not_stuck_for(cause)
        self._set(txn, stuck, wait, now)

    def leave(self, txn: Transaction, now: float) -> None:
        """The transaction is finished: it is not stuck any more."""
        if self._withheld:
            self._withheld.pop(txn, None)
        self._set(txn, None, NO_WAIT, now)

    def restore(self, txn: Transaction) -> None:
        """Take in a transaction that was stuck when the snapshot was taken."""
        self.stuck[txn.txn_id] = txn

    def _judge(self, txn: Transaction, life: list[Judged] | None) -> Stuck | None:
        if txn.partial or txn.replayed or txn.state in ENDED:
            return None
        thresholds = self.rules.thresholds(txn.txn_type)
        if txn.state is State.TENTATIVELY_CLOSED:
            if not self._close_waits_too_long(txn, thresholds.commit_pending_after_s):
                return None
            return self._cause(txn, life, thresholds)
        # What lies in a gap is never read, so this holds for good, and no wheel is needed.
        if self._watermark.maybe_unread(txn):
            return None
        if txn.state is State.OPEN:
            return self._judge_open(txn, life, thresholds)
        assert life is not None  # aborted: that is never so without a note
        return self._judge_aborted(txn, life, thresholds)

    def _judge_open(self, txn: Transaction, life: list[Judged] | None, thresholds: Thresholds) -> Stuck | None:
        watermark = self._watermark
        idle_at = watermark.due_after(txn.last_at, thresholds.idle_after_s, txn.over_until(Cause.IDLE))
        overdue_at = watermark.due_after(txn.opened_at, thresholds.overdue_after_s, txn.over_until(Cause.OVERDUE))
        stuck = None
        if watermark.of(txn) > min(idle_at, overdue_at):
            stuck = self._cause(txn, life, thresholds)
        # Idle is the first of all causes: nothing that falls due can change it. An overdue one may become idle.
        if stuck is None or stuck.cause is not Cause.IDLE:
            watermark.wheel(txn).set(txn, idle_at if stuck is not None else min(idle_at, overdue_at))
        return stuck

    def _judge_aborted(self, txn: Transaction, life: list[Judged], thresholds: Thresholds) -> Stuck | None:
        if not any(j.stands for j in life):
            return None
        stuck = self._cause(txn, life, thresholds)
        if stuck is None:
            over_until = txn.over_until(Cause.NEVER_COMMITTED)
            due_at = self._watermark.due_after(latest_abort(life), self.rules.retry_grace_s, over_until)
            if self._watermark.of(txn) > due_at:
                # The monitor has seen enough. How far the validator is with what still pends, no wheel can tell.
                self._look_again[txn] = None
            else:
                self._watermark.wheel(txn).set(txn, due_at)
        return stuck

    def _close_waits_too_long(self, txn: Transaction, commit_pending_after_s: float) -> bool:
        """Whether one of its pending closes does. Those that do not yet are given a deadline."""
        late = False
        over_until = txn.over_until(*LATE_CLOSE)
        for close in txn.pending_closes:
            partition = self._partitions[close.ref]
            due_at = self._watermark.due_after(close.record_ts, commit_pending_after_s, over_until)
            if partition.both_as_of > due_at:
                late = True
            else:
                partition.close_deadlines.set(close, due_at)
        return late

    def _cause(self, txn: Transaction, life: list[Judged] | None, thresholds: Thresholds) -> Stuck | None:
        return cause_of(self._situation(txn, life, thresholds))

    def _wait(self, txn: Transaction, life: list[Judged] | None, cause: Cause) -> Wait:
        return wait_of(self._situation(txn, life, self.rules.thresholds(txn.txn_type)), cause)

    def _situation(self, txn: Transaction, life: list[Judged] | None, thresholds: Thresholds) -> Situation:
        return Situation(
            life=life if life is not None else judge(txn, self._partitions),
            state=txn.state,
            thresholds=thresholds,
            retry_grace_s=self.rules.retry_grace_s,
            watermark=self._watermark.of(txn),
            both_as_of=lambda ref: self._partitions[ref].both_as_of,
            last_stable_offset=lambda ref: self._partitions[ref].last_stable_offset,
            maybe_unread=self._watermark.maybe_unread(txn),
            outages=self._watermark.pauses.outages,
            pauses=self._watermark.pauses.all,
            over_until=txn.over_until,
            last_at=txn.last_at,
        )

    def _set(self, txn: Transaction, stuck: Stuck | None, wait: Wait, now: float) -> None:
        cause = stuck.cause if stuck is not None else None
        if cause is txn.cause:
            if stuck is not None:
                txn.since = stuck.since
                txn.still_stuck_for(stuck.cause, wait)
            return
        if self.warming_up and txn.cause is None:
            # It may wait in no wheel now, as stuck ones do not, so it is evaluated again when the warm-up ends.
            self._withheld[txn] = None
            return
        since = stuck.since if stuck is not None else 0.0
        is_new = cause is not None and txn.stuck_for(cause, wait) and self.caught_up
        self._facts.add(StuckChanged(txn.txn_id, txn.txn_type, txn.cause, cause, since, now, is_new))
        txn.cause, txn.since = cause, since
        if cause is None:
            del self.stuck[txn.txn_id]
        else:
            self.stuck[txn.txn_id] = txn
