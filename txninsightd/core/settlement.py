"""Which transactions are ripe: their outcome is final, and no event that was appended before can still be unread.

A closed one (or one whose close has an unknown verdict) is ripe when none of its own sightings is pending and every
partition (a) has a monitor `as_of` beyond the moment at which the close was decided, or (b) was read past the close's
record timestamp + lateness. (a) serves the live case, (b) lets a backlog settle while it is read. Each has a heap: by
decided_at against the smallest `as_of`; and by record timestamp + lateness against the smallest "read past" of those
partitions whose `as_of` does not suffice. Transactions decided at one moment, or keyed to one second, are kept together
as a cohort, so the heaps hold moments and not transactions. A wholly aborted one is ripe by (a) alone, a grace later.
Where events are colocated, a closed one is ripe at once.

A transaction may be settled later than possible, but never with another result. `settle_max_s` bounds the wait.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import heappop, heappush
from itertools import count
from math import ceil

from txninsightd.core.events import Judged
from txninsightd.core.lifecycle import ENDED, latest_abort
from txninsightd.core.transaction import UNSEEN, Ending, Transaction
from txninsightd.core.verdicts import PartitionState
from txninsightd.core.watermark import Watermark
from txninsightd.vocabulary import PartitionRef

LEAST_COMPACTED = 10_000
"""So many obsolete endings may stay in the queues before they are removed."""

COMPACTED_A_STEP = 10_000
"""So many endings are looked at in one step, and the rest of their cohort."""

Queue = list[tuple[float, int, Transaction, Ending]]


class Cohort:
    """Closed transactions that wait together; `decided_at` is that of the latest."""

    __slots__ = ("decided_at", "waiting")

    def __init__(self) -> None:
        self.decided_at = UNSEEN
        self.waiting: deque[tuple[Transaction, Ending]] = deque()

    def add(self, txn: Transaction, ending: Ending) -> None:
        """Add one more."""
        self.waiting.append((txn, ending))
        if ending.decided_at > self.decided_at:
            self.decided_at = ending.decided_at

    def __bool__(self) -> bool:
        """Whether any transaction still waits; obsolete ones at the end are removed."""
        waiting = self.waiting
        while waiting and waiting[-1][0].ending is not waiting[-1][1]:
            waiting.pop()
        return bool(waiting)


class Cohorts:
    """Cohorts by a moment, earliest first."""

    def __init__(self) -> None:
        self._moments: list[float] = []
        self._cohorts: dict[float, Cohort] = {}

    def at(self, moment: float) -> Cohort:
        """The cohort of this moment."""
        cohort = self._cohorts.get(moment)
        if cohort is None:
            cohort = self._cohorts[moment] = Cohort()
            heappush(self._moments, moment)
        return cohort

    def first(self) -> tuple[float, Cohort] | None:
        """The earliest moment with a transaction that still waits, and its cohort; None without one."""
        while self._moments:
            cohort = self._cohorts[self._moments[0]]
            if cohort:
                return self._moments[0], cohort
            del self._cohorts[heappop(self._moments)]
        return None

    def take_before(self, moment: float) -> Iterator[tuple[Transaction, Ending]]:
        """Take out all with an earlier moment, one after the other; others may come and go in between."""
        while (first := self.first()) is not None and first[0] < moment:
            yield first[1].waiting.popleft()

    def compact(self) -> Iterator[None]:
        """Remove those that wait no more, some in each step; others may come and go in between."""
        looked_at = 0
        for cohort in list(self._cohorts.values()):
            looked_at += len(cohort.waiting)
            cohort.waiting = deque((txn, ending) for txn, ending in cohort.waiting if txn.ending is ending)
            if looked_at >= COMPACTED_A_STEP:
                looked_at = 0
                yield
        self._cohorts = {moment: cohort for moment, cohort in self._cohorts.items() if cohort.waiting}
        self._moments = sorted(self._cohorts)

    def __len__(self) -> int:
        return sum(len(cohort.waiting) for cohort in self._cohorts.values())


class ReadPast:
    """Whether every partition is beyond a cohort: seen past its decision, or read past its key.

    Partitions only go forward, so the one that was behind last is asked first, and those that it was asked after are
    not asked again for the same cohort. The cost of a cohort is one question to each partition, however often the
    whole is asked.
    """

    def __init__(self, watermark: Watermark) -> None:
        self._watermark = watermark
        self._asked_for = (UNSEEN, UNSEEN, 0)
        self._left: list[PartitionState] = []

    def is_beyond(self, key: float, decided_at: float) -> bool:
        """`key`: record timestamp + lateness."""
        if self._watermark.discovered_at <= decided_at:
            # A partition that is not found yet may hold anything.
            return False
        asked_for = (key, decided_at, self._watermark.changes)
        if self._asked_for != asked_for:
            self._asked_for, self._left = asked_for, list(self._watermark.present())
        left = self._left
        while left:
            partition = left[-1]
            if not partition.gone and partition.monitor_as_of <= decided_at and partition.read_past <= key:
                return False
            left.pop()
        return True


class Settlement:
    """Transactions that wait to be settled. One may stand in several queues: only its present `ending` counts.

    `given_up`: endings that became obsolete since obsolete ones were last removed from the queues.
    """

    def __init__(self, colocated: bool, settle_max_s: float, settle_lateness_s: float, watermark: Watermark) -> None:
        self.settle_max_s = settle_max_s
        self.settle_lateness_s = settle_lateness_s
        self._colocated = colocated
        self._watermark = watermark
        # Unless events are colocated, closed ones stand in both, and leave by the one that is ripe first.
        self._by_decided = Cohorts()
        self._by_key = Cohorts()
        self._aborted: dict[PartitionRef | None, Queue] = {}
        self._read_past = ReadPast(watermark)
        self._ready: deque[tuple[Transaction, Ending]] = deque()
        self._parked: dict[PartitionRef, Queue] = {}
        # Breaks ties in the heaps, where transactions cannot be compared.
        self._serial = count()
        self.given_up = 0
        self._compact_at = LEAST_COMPACTED
        self._compacting: Iterator[None] | None = None

    # --- In -----------------------------------------------------------------------------------------------------------

    def ending_of(self, txn: Transaction, life: list[Judged] | None) -> Ending | None:
        """What the transaction waits for as it stands. `life`: its events with their verdicts, if it is doubtful."""
        # Colocated, the first decided close ends it, though another may pend.
        if txn.deciding is not None and (txn.state in ENDED or self._colocated):
            record_ts, _, _, decided_at = txn.deciding
            return Ending(record_ts + self.settle_lateness_s, decided_at, wholly_aborted=False)
        # An abort with events that stand has no ending: it stays until it is retried, forgotten or evicted.
        if life is not None and not any(j.stands for j in life):
            decided_at = latest_abort(life)
            settles_at = self._watermark.due_after(decided_at, self._watermark.retry_grace_s)
            return Ending(settles_at, decided_at, wholly_aborted=True)
        return None

    def await_ending(self, txn: Transaction, ending: Ending | None) -> None:
        """Let the transaction wait for this ending (None: it lives on) instead of a former one."""
        # An equal ending keeps its object: queues tell the present one from obsolete ones by identity.
        if ending != txn.ending:
            self.release(txn)
            txn.ending = ending
            if ending is not None:
                self._enqueue(txn, ending)

    def final(self) -> set[Transaction]:
        """Those that only wait for the verdicts of their own events."""
        parked = [(txn, ending) for queue in self._parked.values() for _, _, txn, ending in queue]
        return {txn for txn, ending in (*parked, *self._ready) if txn.ending is ending}

    def restore(self, txn: Transaction, ending: Ending, final: bool) -> None:
        """Let a transaction wait as it did when the snapshot was taken; `final`: for verdicts only."""
        txn.ending = ending
        if final:
            self._ready.append((txn, ending))
        else:
            self._enqueue(txn, ending)

    def move_moments(self, live: Iterable[Transaction], move: Callable[[float], float]) -> None:
        """Our clock was wrong: replace each moment that it gave, and queue all anew that wait."""
        final = self.final()
        self._by_decided, self._by_key, self._read_past = Cohorts(), Cohorts(), ReadPast(self._watermark)
        self._aborted, self._parked, self._ready = {}, {}, deque()
        self.given_up, self._compacting = 0, None
        for txn in live:
            ending = txn.ending
            if ending is not None:
                key = move(ending.key) if ending.wholly_aborted else ending.key
                self.restore(txn, Ending(key, move(ending.decided_at), ending.wholly_aborted), txn in final)

    def settled(self, txn: Transaction) -> None:
        """It came from `ripe`, and is settled."""
        # Closed ones stood in two queues, and left by one of them.
        if txn.ending is not None and not self._colocated and not txn.ending.wholly_aborted:
            self.given_up += 1
        txn.ending = None

    def release(self, txn: Transaction) -> None:
        """It no longer waits for its ending."""
        if txn.ending is not None:
            txn.ending = None
            self.given_up += 1

    def _enqueue(self, txn: Transaction, ending: Ending) -> None:
        if ending.wholly_aborted:
            queue = self._aborted.setdefault(txn.events[0].ref if self._colocated else None, [])
            heappush(queue, (ending.key, next(self._serial), txn, ending))
        elif self._colocated:
            self._ready.append((txn, ending))
        else:
            self._by_decided.at(ending.decided_at).add(txn, ending)
            # Rounded up: settled slightly later, with far fewer cohorts.
            self._by_key.at(ceil(ending.key)).add(txn, ending)

    def overdue(self, now: float) -> None:
        """Let those pass that have waited for `settle_max_s`, whatever may still be unread."""
        for txn, ending in self._by_decided.take_before(now - self.settle_max_s):
            if txn.ending is ending:
                txn.overtime = True
                self._ready.append((txn, ending))

    def decided(self, partition: PartitionState) -> None:
        """Verdicts have come in this partition: a transaction that waited for one of them may be ripe now."""
        parked = self._parked.get(partition.ref)
        while parked and parked[0][0] < partition.decided_offset:
            _, _, txn, ending = heappop(parked)
            self._ready.append((txn, ending))

    # --- Out ----------------------------------------------------------------------------------------------------------

    def ripe(self, partitions: Mapping[PartitionRef, PartitionState]) -> Iterator[Transaction | None]:
        """Those that may be settled now. The caller settles each before it asks for the next.

        None for one that was looked at and may not. Between two of them anything else may happen; one that was not
        taken yet still waits.
        """
        if self.given_up > self._compact_at:
            self._compact_at = max(LEAST_COMPACTED, self._entries() - self.given_up)
            self.given_up, self._compacting = 0, self._compact()
        if self._compacting is not None and next(self._compacting, self) is self:
            self._compacting = None
        for txn, ending in self._final():
            if txn.ending is not ending:
                yield None
                continue
            # Wholly aborted ones have nothing pending; colocated, what pends lies beyond the close, or is a breach.
            pending = None if ending.wholly_aborted or self._colocated else _own_pending(txn, partitions)
            if pending is None:
                yield txn
            else:
                ref, offset = pending
                heappush(self._parked.setdefault(ref, []), (offset, next(self._serial), txn, ending))
                yield None

    def _final(self) -> Iterator[tuple[Transaction, Ending]]:
        while self._ready:
            yield self._ready.popleft()
        for ref, queue in list(self._aborted.items()):
            as_of = self._watermark.seen_everywhere() if ref is None else self._watermark.seen_in(ref)
            # Obsolete endings leave as well, and `ripe` skips them.
            while queue and (queue[0][0] < as_of or queue[0][2].ending is not queue[0][3]):
                yield heappop(queue)[2:]
        if not self._colocated:
            yield from self._closed()

    def _closed(self) -> Iterator[tuple[Transaction, Ending]]:
        yield from self._by_decided.take_before(self._watermark.read_everywhere())
        # A later cohort that was decided earlier might be ripe; it waits, so that the queue need not be searched.
        while (first := self._by_key.first()) is not None and self._read_past.is_beyond(first[0], first[1].decided_at):
            yield first[1].waiting.popleft()

    def _compact(self) -> Iterator[None]:
        """Remove obsolete endings, which would keep finished transactions in memory, some in each step.

        It is begun when there are more of them than others, so each transaction bears a fixed cost.
        """
        yield from self._by_decided.compact()
        yield from self._by_key.compact()
        for queue in list(self._aborted.values()):
            yield from _compact_queue(queue)
        self._ready = deque((txn, ending) for txn, ending in self._ready if txn.ending is ending)
        for queue in self._parked.values():
            queue[:] = [entry for entry in queue if entry[2].ending is entry[3]]
            queue.sort()

    def _entries(self) -> int:
        queues = (*self._aborted.values(), *self._parked.values())
        return len(self._by_decided) + len(self._by_key) + len(self._ready) + sum(map(len, queues))


def _compact_queue(queue: Queue) -> Iterator[None]:
    """Others may be pushed and popped in between. What is not looked at yet is not in the queue, and leaves later."""
    left = queue[:]
    queue.clear()
    while left:
        for entry in left[-COMPACTED_A_STEP:]:
            if entry[2].ending is entry[3]:
                heappush(queue, entry)
        del left[-COMPACTED_A_STEP:]
        yield


def _own_pending(
    txn: Transaction, partitions: Mapping[PartitionRef, PartitionState]
) -> tuple[PartitionRef, int] | None:
    """The first of its sightings that has no verdict yet."""
    ref, decided_offset = None, 0
    for event in txn.events:
        # Most lie in one partition, which is then looked up once.
        if event.ref is not ref:
            ref = event.ref
            decided_offset = partitions[ref].decided_offset
        if event.offset >= decided_offset:
            return event.ref, event.offset
    return None
