"""What both views have seen of one partition, and the verdicts that follow.

The validator says which offsets it passed and which of them were delivered to it. A sighting inside what it passed is
*committed* if it was delivered and *aborted* if it was not; where it could not look, or skipped, the sighting is
*unknown*. A verdict is given only up to the smaller of both views' applied positions: coverage beyond the monitor's
waits here, as runs. No verdict is kept for a committed event. Control records (commit and abort markers) are offsets
that nobody ever delivers and nobody ever sights, so they need no treatment of their own.

(Read-committed semantics and the last stable offset: KIP-98. Why the frontier proves an abort: docs/verdicts.md.)
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Container, Iterable, Iterator
from operator import attrgetter
from typing import NamedTuple

from txninsightd.core.deadlines import Deadlines, drop
from txninsightd.core.transaction import UNSEEN, PendingClose
from txninsightd.vocabulary import Coverage, PartitionRef, Verdict

LEAST_COMPACTED = 10_000
"""So many sightings or closes that nobody needs are borne with before they are sorted out."""

COMPACTED_BATCH = 10_000


def runs_of(offsets: list[int]) -> list[int]:
    """Ascending offsets as flat pairs of half-open runs: [3, 4, 5, 8] -> [3, 6, 8, 9]."""
    if not offsets:
        return []
    # Ascending and without a hole, as most batches are: one run, no loop.
    if offsets[-1] - offsets[0] == len(offsets) - 1:
        return [offsets[0], offsets[-1] + 1]
    runs = [offsets[0]]
    before = offsets[0]
    for offset in offsets:
        if offset > before + 1:
            runs += (before + 1, offset)
        before = offset
    runs.append(before + 1)
    return runs


class EndTracker:
    """`as_of` of one partition in one view: the latest moment up to which nothing unread can exist.

    The broker is asked where the log ends, at t0; once the reader's position reaches the answer, everything that was
    in the log at t0 has been read. Answers still ahead of the position are kept, few of them: dropping one in the
    middle only makes `as_of` advance a little later. `as_of`: what is known already of what lies before the
    position; an outage that goes on from before has begun then.
    """

    MOST_KEPT = 16

    def __init__(self, as_of: float = 0.0) -> None:
        self.as_of = as_of
        self.end_offset = -1
        self.reached_offset = -1
        self.outage_from = 0.0
        self._answered_at = as_of
        self._failed = False
        self._ahead: deque[tuple[float, int, float]] = deque()

    def answered(self, asked_at: float, end_offset: int) -> None:
        """The broker, asked at `asked_at`, says the log ends at `end_offset`."""
        if asked_at <= self._answered_at:
            return
        # Where nobody answered before, this is 0 all the same: when that outage began is not known, so it is none.
        outage_from = self._answered_at if self._failed else 0.0
        self.end_offset, self._answered_at, self._failed = end_offset, asked_at, False
        if len(self._ahead) >= self.MOST_KEPT:
            self._drop_one()
        self._ahead.append((asked_at, end_offset, outage_from))

    def failed(self) -> None:
        """The broker was asked and gave no answer."""
        self._failed = True

    def _drop_one(self) -> None:
        """The last answer that ended no outage; an outage must end with the answer that ended it."""
        i = next((i for i in reversed(range(len(self._ahead))) if not self._ahead[i][2]), len(self._ahead) - 1)
        del self._ahead[i]

    def reached(self, position: int) -> None:
        """The reader has passed everything below `position`: `as_of` may advance, up to the end of the next outage.

        It goes on from there once that outage was taken.
        """
        # A message has room for one outage, the one that its `as_of` ends.
        while self._ahead and self._ahead[0][1] <= position and not self.outage_from:
            self.as_of, self.reached_offset, self.outage_from = self._ahead.popleft()

    def take_outage(self) -> float:
        """When the outage that ended before the present `as_of` began, told once; 0 without one."""
        outage_from, self.outage_from = self.outage_from, 0.0
        return outage_from


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


class PartitionState:
    """One partition as the aggregator knows it. Positions are the next offset to come; moments are epoch seconds.

    `absent_at`: the last complete look that did not find it. `gone`: no longer to be waited for. `void`: its topic was
    deleted, so nothing more comes of it, and nothing of it is undecided.
    `waiting_since`: from when on the last stable offset has stood still with records behind it; 0 while none wait.
    `undecided`: how many sightings are kept for their verdicts (up to a batch of them may have it already).
    `compacted`: how many were left when those of transactions that are over were last sorted out.
    `closes_given_up`: how many of `pending_closes` nobody waits for any more.
    """

    def __init__(self, ref: PartitionRef, start_offset: int) -> None:
        self.ref = ref
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

    def resume(self, waiting: Iterable[Coverage], sighted: Iterable[Sighted]) -> None:
        """Take up what waited before a restart."""
        self._waiting.extend(waiting)
        self._sighted.extend(sighted)
        self.undecided = sum(len(s.offsets) for s in self._sighted)

    def order_pending_closes(self) -> None:
        """Bring the pending closes into the order of their offsets, which is that of their verdicts."""
        self.pending_closes = deque(sorted(self.pending_closes, key=attrgetter("offset")))

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
        """The validator has passed a range; what it skipped since its last one was outside its sight.

        Gives how many records were delivered and lost in it that were not known before.
        """
        before = self.validator_offset
        if coverage.to_offset <= before:
            return {}
        self._waiting.append(coverage)
        # A range takes room even where nothing was delivered in it.
        self.waiting_runs += 1 + len(coverage.runs) // 2
        self.validator_offset = coverage.to_offset
        self.waiting_since = coverage.decided_at if self.monitor_offset > self.validator_offset else 0.0
        counts = {"ok": _length(coverage.runs, before), "gap": _length(coverage.gaps, before)}
        return {result: count for result, count in counts.items() if count}

    def decide(self) -> Iterator[tuple[int, float, list[Undelivered]]]:
        """Apply what both views have passed: yields (decided up to, decided_at, what was not delivered below it)."""
        while self._waiting:
            coverage = self._waiting[0]
            upto = min(coverage.to_offset, self.monitor_offset)
            if upto <= self.decided_offset:
                break
            # Only up to the monitor: beyond it sightings may still come, and what has no sighting can get no verdict.
            undelivered = list(self._undelivered(coverage, self.decided_offset, upto))
            self.decided_offset = upto
            if upto == coverage.to_offset:
                self._waiting.popleft()
                self.waiting_runs -= 1 + len(coverage.runs) // 2
            yield upto, coverage.decided_at, undelivered
        self._forget_decided()

    def drop_waiting(self) -> None:
        """Let go of what the validator passed beyond the monitor, which will never come there."""
        self._waiting.clear()
        self.waiting_runs = 0

    def _undelivered(self, coverage: Coverage, start: int, end: int) -> Iterator[Undelivered]:
        # Between the range before and this one the validator never looked: unknown, never aborted.
        if start < coverage.from_offset:
            skipped = min(coverage.from_offset, end)
            for offset, txn_id in self._sightings_in(start, skipped):
                yield Undelivered(offset, txn_id, Verdict.UNKNOWN, coverage.decided_at)
            start = skipped
        # Runs decide first: what was delivered is committed, even where a gap is told over it.
        for low, high in _holes(coverage.runs, start, end):
            for offset, txn_id in self._sightings_in(low, high):
                verdict = Verdict.UNKNOWN if _inside(coverage.gaps, offset) else Verdict.ABORTED
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

    # --- What is over -------------------------------------------------------------------------------------------------

    def compact(self, live: Container[str], crowded: bool) -> None:
        """Sort out the sightings of transactions that live no more, of which no verdict is needed.

        Only when there are twice as many as the last time (`crowded`: an eighth more), so it costs little each.
        """
        if self.undecided < max(LEAST_COMPACTED, self.compacted + self.compacted // (8 if crowded else 1)):
            return
        kept = [(o, t) for s in self._sighted for o, t in zip(s.offsets, s.txn_ids, strict=True) if t in live]
        chunks = [kept[i : i + COMPACTED_BATCH] for i in range(0, len(kept), COMPACTED_BATCH)]
        self._sighted = deque(Sighted([o for o, _ in chunk], [t for _, t in chunk]) for chunk in chunks)
        self.undecided = len(kept)
        self.compacted = len(kept)

    def give_up(self, close: PendingClose) -> None:
        """Nobody waits for the verdict of this close any more."""
        drop(close)
        close.txn = None
        self.closes_given_up += 1
        # To take one out of the midst of a deque is to walk through it, so they go together.
        if self.closes_given_up > LEAST_COMPACTED + len(self.pending_closes) // 2:
            self.pending_closes = deque(c for c in self.pending_closes if c.txn is not None)
            self.closes_given_up = 0


def _holes(runs: list[int], start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of [start, end) that no run covers."""
    # Runs begin at even places: the one that `start` lies in, else the first behind it.
    i = bisect_right(runs, start) & ~1
    while start < end and i < len(runs):
        if runs[i] > start:
            yield start, min(runs[i], end)
        start = max(start, runs[i + 1])
        i += 2
    if start < end:
        yield start, end


def _length(ranges: list[int], start: int) -> int:
    """How many offsets from `start` on lie in the half-open ranges, given as flat pairs."""
    return sum(max(0, end - max(low, start)) for low, end in zip(ranges[::2], ranges[1::2], strict=True))


def _inside(ranges: list[int], offset: int) -> bool:
    """Whether the offset lies in one of the half-open ranges, given as ascending flat pairs."""
    return bisect_right(ranges, offset) % 2 == 1
