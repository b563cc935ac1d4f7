"""What both views have seen of one partition, and the verdicts that follow from it.

The validator says which offsets it passed and which of them were delivered to it. A sighting in the range that it
passed is *committed* if it was delivered and *aborted* if it was not; where the validator could not look, or skipped,
the sighting is *unknown*. A verdict is given only up to the smaller of both views' applied positions: coverage beyond
the monitor's position waits here. No verdict is kept for a committed event. Control records (commit and abort markers)
are neither delivered nor sighted, so they need no treatment of their own.

(Read-committed semantics and the last stable offset: KIP-98. Why the frontier proves an abort: docs/verdicts.md.)
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import NamedTuple

import msgspec

from txninsightd.core.deadlines import Deadlines, drop
from txninsightd.core.events import Judged
from txninsightd.core.transaction import UNSEEN, Note, PendingClose, Transaction
from txninsightd.offset_ranges import OffsetRanges
from txninsightd.vocabulary import Coverage, PartitionRef, Verdict, View

LEAST_COMPACTED = 10_000
"""So many sightings or closes that are no longer needed may stay before they are removed."""

COMPACTED_BATCH = 10_000

COMPACTED_A_STEP = 10_000
"""So many sightings are looked at in one step, at least."""

COMPACTED_FOR_EACH = 2
"""So many are looked at for each that a message brings, at least: more than come."""


class Sighted(NamedTuple):
    """The columns of one applied batch of sightings that await their verdicts."""

    offsets: list[int]
    txn_ids: list[str]


class Undelivered(NamedTuple):
    """A sighting that the committed view passed without delivering, or could not look at."""

    offset: int
    txn_id: str
    verdict: Verdict
    decided_at: float


class Compacting(NamedTuple):
    """The sightings of finished transactions are being removed: those in [next, end) are still to be looked at."""

    next: int
    end: int
    kept: int = 0


class PartitionState:
    """One partition as the aggregator knows it. Positions are the next offset to come; moments are epoch seconds.

    `topic_id`: of its topic; "": not known. `absent_at`: the last complete look that did not find it. `gone`: nothing
    waits for it any more. `void`: its topic was deleted, so nothing more comes of it, and nothing of it is undecided.
    `waiting_since`: since when the last stable offset has stood still with records behind it; 0 while none wait.
    `undecided`: how many sightings are kept for their verdicts (up to a batch of them may have theirs already).
    `compacted`: how many were left when the sightings of finished transactions were last removed.
    `closes_given_up`: how many of `pending_closes` belong to finished transactions.
    """

    def __init__(self, ref: PartitionRef, start_offset: int) -> None:
        self.ref = ref
        self.topic_id = ""
        self.monitor_offset = start_offset
        self.validator_offset = start_offset
        self.decided_offset = start_offset
        self.monitor_as_of = UNSEEN
        self.validator_as_of = UNSEEN
        self.read_past = UNSEEN
        self.absent_at = UNSEEN
        self.gone = False
        self.void = False
        self.waiting_runs = 0
        self.monitor_end = -1
        self.validator_end = -1
        self.stable_offset = -1
        self.waiting_since = 0.0
        self.undecided = 0
        self.compacted = 0
        self._compacting: Compacting | None = None
        self.pending_closes: deque[PendingClose] = deque()
        self.closes_given_up = 0
        self.close_deadlines: Deadlines[PendingClose] = Deadlines()
        self._waiting: deque[Coverage] = deque()
        self._sighted: deque[Sighted] = deque()

    @property
    def waiting(self) -> Iterable[Coverage]:
        """What the validator passed and the monitor did not yet."""
        return self._waiting

    @property
    def sighted(self) -> Iterable[Sighted]:
        """The sightings that await their verdicts, batch by batch; the first ones may have theirs."""
        return self._sighted

    def restore(self, waiting: Iterable[Coverage], sighted: Iterable[Sighted]) -> None:
        """Take up what waited when the snapshot was taken."""
        self._waiting.extend(waiting)
        self._sighted.extend(sighted)
        self.undecided = sum(len(s.offsets) for s in self._sighted)

    def move_moments(self, move: Callable[[float], float]) -> None:
        """Our clock was wrong: replace each moment that it gave."""
        self.monitor_as_of = move(self.monitor_as_of)
        self.validator_as_of = move(self.validator_as_of)
        self.absent_at = move(self.absent_at)
        self.waiting_since = move(self.waiting_since) if self.waiting_since else 0.0
        self._waiting = deque(
            msgspec.structs.replace(c, decided_at=move(c.decided_at), as_of=move(c.as_of) if c.as_of else 0.0)
            for c in self._waiting
        )
        for close in self.pending_closes:
            close.sighted_at = move(close.sighted_at)

    def order_pending_closes(self) -> None:
        """Sort the pending closes by offset, the order in which their verdicts come."""
        self.pending_closes = deque(sorted(self.pending_closes, key=attrgetter("offset")))

    def as_of(self, view: View) -> float:
        """The moment up to which the view has nothing unread."""
        return self.monitor_as_of if view is View.MONITOR else self.validator_as_of

    @property
    def both_as_of(self) -> float:
        """The moment up to which neither view has anything unread."""
        return min(self.monitor_as_of, self.validator_as_of)

    @property
    def last_stable_offset(self) -> int:
        """Where the validator stands, if the broker said that no more is stable; -1 while it may be on its way."""
        return self.validator_offset if self.stable_offset == self.validator_offset else -1

    def undecided_records(self) -> int:
        """How many applied sightings have no verdict yet."""
        return self.undecided - (bisect_left(self._sighted[0].offsets, self.decided_offset) if self._sighted else 0)

    def oldest_undecided(self) -> tuple[int, str] | None:
        """Offset and txn_id of the first sighting without verdict."""
        for sighted in self._sighted:
            i = bisect_left(sighted.offsets, self.decided_offset)
            if i < len(sighted.offsets):
                return sighted.offsets[i], sighted.txn_ids[i]
        return None

    def every(self, most: int, low: int, high: int) -> Iterator[int]:
        """The offset of each `most`-th sighting in (low, high), counted from `low`."""
        skip = most
        for sighted in self._sighted:
            offsets = sighted.offsets
            if offsets[0] >= high:
                return
            start, end = bisect_left(offsets, low), bisect_left(offsets, high)
            for i in range(start + skip, end, most):
                yield offsets[i]
            if end > start:
                # So many of the next batch come before its first one; none: that is its first sighting.
                skip = (skip - (end - start)) % most

    def sight(self, offsets: list[int], txn_ids: list[str], to_offset: int, read_at: float) -> None:
        """The monitor has passed `to_offset`, with these sightings (ascending, none applied before)."""
        # Batches are told apart by their first and last offset, so none may be empty.
        if offsets:
            self._sighted.append(Sighted(offsets, txn_ids))
            self.undecided += len(offsets)
        self.monitor_offset = max(self.monitor_offset, to_offset)
        if not self.waiting_since and self.monitor_offset > self.validator_offset:
            self.waiting_since = read_at

    def cover(self, coverage: Coverage) -> dict[str, int]:
        """The validator has passed a range. It could not look at what it skipped since the range before.

        Returns how many records of the range, not known before, were delivered ("ok") and lost ("gap").
        """
        before = self.validator_offset
        if coverage.to_offset <= before:
            return {}
        self._waiting.append(coverage)
        # A range takes room even if nothing was delivered in it.
        self.waiting_runs += 1 + len(OffsetRanges(coverage.runs))
        self.validator_offset = coverage.to_offset
        self.waiting_since = coverage.decided_at if self.monitor_offset > self.validator_offset else 0.0
        counts = {"ok": OffsetRanges(coverage.runs).count(before), "gap": OffsetRanges(coverage.gaps).count(before)}
        return {result: count for result, count in counts.items() if count}

    def decide(self) -> Iterator[tuple[int, float, list[Undelivered]]]:
        """Apply what both views have passed: yields (decided up to, decided_at, what was not delivered below it)."""
        while self._waiting:
            coverage = self._waiting[0]
            upto = min(coverage.to_offset, self.monitor_offset)
            if upto <= self.decided_offset:
                break
            # Only up to the monitor's position: beyond it sightings may still come, and only they can have a verdict.
            undelivered = list(self._undelivered(coverage, self.decided_offset, upto))
            self.decided_offset = upto
            if upto == coverage.to_offset:
                self._waiting.popleft()
                self.waiting_runs -= 1 + len(OffsetRanges(coverage.runs))
            yield upto, coverage.decided_at, undelivered
        self._forget_decided()

    def drop_waiting(self) -> None:
        """Drop the coverage beyond the monitor, which will never come there."""
        self._waiting.clear()
        self.waiting_runs = 0

    def _undelivered(self, coverage: Coverage, start: int, end: int) -> Iterator[Undelivered]:
        # The validator never looked between the range before and this one: unknown, never aborted.
        if start < coverage.from_offset:
            skipped = min(coverage.from_offset, end)
            for offset, txn_id in self._sightings_in(start, skipped):
                yield Undelivered(offset, txn_id, Verdict.UNKNOWN, coverage.decided_at)
            start = skipped
        gaps = OffsetRanges(coverage.gaps)
        # Runs decide first: what was delivered is committed, even where a gap covers it.
        for low, high in OffsetRanges(coverage.runs).holes(start, end):
            for offset, txn_id in self._sightings_in(low, high):
                verdict = Verdict.UNKNOWN if offset in gaps else Verdict.ABORTED
                yield Undelivered(offset, txn_id, verdict, coverage.decided_at)

    def _sightings_in(self, low: int, high: int) -> Iterator[tuple[int, str]]:
        """Sightings with low <= offset < high. Called with rising ranges: whole batches below `low` are dropped."""
        sighted = self._sighted
        while sighted and sighted[0].offsets[-1] < low:
            self.undecided -= len(sighted.popleft().offsets)
        for batch in sighted:
            if batch.offsets[0] >= high:
                return
            i = bisect_left(batch.offsets, low)
            while i < len(batch.offsets) and batch.offsets[i] < high:
                yield batch.offsets[i], batch.txn_ids[i]
                i += 1

    def _forget_decided(self) -> None:
        while self._sighted and self._sighted[0].offsets[-1] < self.decided_offset:
            self.undecided -= len(self._sighted.popleft().offsets)

    # --- Finished transactions ----------------------------------------------------------------------------------------

    @property
    def is_compacting(self) -> bool:
        """Whether `compact` has more to do."""
        return self._compacting is not None

    def compact(self, live: Container[str], crowded: bool, brought: int = 0) -> None:
        """Remove the sightings of finished transactions, which need no verdict, a portion with each call.

        Begun only when there are twice as many as the last time (`crowded`: an eighth more), so the cost of each is
        small. `crowded`: there is hardly any room, so all is done at once. `brought`: by the message at hand.
        """
        if self._compacting is None:
            if self.undecided < max(LEAST_COMPACTED, self.compacted + self.compacted // (8 if crowded else 1)):
                return
            self._compacting = Compacting(0, self.monitor_offset)
        self._compact_some(self._compacting, live, max(COMPACTED_A_STEP, COMPACTED_FOR_EACH * brought))
        while crowded and self._compacting is not None:
            self._compact_some(self._compacting, live, COMPACTED_A_STEP)

    def _compact_some(self, at: Compacting, live: Container[str], most: int) -> None:
        """Look at `most` sightings, and the rest of their batch."""
        sighted = self._sighted
        before = bisect_left(sighted, at.next, key=lambda batch: batch.offsets[-1])
        left = len(sighted) - before
        sighted.rotate(-before)
        part, looked_at = [], 0
        while left and looked_at < most and sighted[0].offsets[0] < at.end:
            part.append(sighted.popleft())
            looked_at += len(part[-1].offsets)
            left -= 1
        ends = not left or sighted[0].offsets[0] >= at.end
        kept = [(o, t) for s in part for o, t in zip(s.offsets, s.txn_ids, strict=True) if t in live]
        chunks = [kept[i : i + COMPACTED_BATCH] for i in range(0, len(kept), COMPACTED_BATCH)]
        sighted.extendleft(Sighted([o for o, _ in chunk], [t for _, t in chunk]) for chunk in reversed(chunks))
        sighted.rotate(before)
        self.undecided -= looked_at - len(kept)
        all_kept = at.kept + len(kept)
        self._compacting = None if ends else Compacting(part[-1].offsets[-1] + 1, at.end, all_kept)
        if ends:
            self.compacted = all_kept

    def give_up(self, close: PendingClose) -> None:
        """The verdict of this close is no longer needed."""
        drop(close)
        close.txn = None
        self.closes_given_up += 1
        # Removing one from the middle of a deque walks through it, so they are removed together.
        if self.closes_given_up > LEAST_COMPACTED + len(self.pending_closes) // 2:
            self.pending_closes = deque(c for c in self.pending_closes if c.txn is not None)
            self.closes_given_up = 0


def judge(txn: Transaction, partitions: Mapping[PartitionRef, PartitionState]) -> list[Judged]:
    """A live transaction's events with their verdicts as of now."""
    notes = txn.notes
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


def give_verdicts(partition: PartitionState, live: Mapping[str, Transaction], dirty: dict[Transaction, None]) -> None:
    """Note the verdicts that are new in a partition. Transactions that must be evaluated are added to `dirty`.

    Only closes, and what is not committed, are noted.
    """
    for decided_offset, decided_at, undelivered in partition.decide():
        verdicts = {u.offset: u.verdict for u in undelivered}
        closes = partition.pending_closes
        while closes and closes[0].offset < decided_offset:
            close = closes.popleft()
            # Removed from `verdicts`, so that it is not noted a second time below.
            verdict = verdicts.pop(close.offset, Verdict.COMMITTED)
            txn = close.txn
            if txn is None:
                partition.closes_given_up -= 1
                continue
            drop(close)
            txn.close_decided(close, Note(verdict, decided_at, close.sighted_at))
            dirty[txn] = None
        for u in undelivered:
            # A late verdict of a finished transaction may hit a newer transaction with the same id. The note then is of
            # an event that the newer one does not have: that costs it its fast paths, and changes nothing.
            hit = live.get(u.txn_id) if u.offset in verdicts else None
            if hit is not None:
                hit.note(partition.ref, u.offset, Note(u.verdict, decided_at))
                hit.simple = False
                dirty[hit] = None
