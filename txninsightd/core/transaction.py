"""One live business transaction as the ledger keeps it: its events, the verdicts that matter, and where it stands.

Verdicts are not kept for each event. An event at or beyond its partition's decided offset is pending, one below it is
committed, unless a note says otherwise; decided closes always have a note. So a transaction that runs as it should
holds its events and nothing else.
"""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from txninsightd.core.deadlines import Bucket
from txninsightd.core.events import Event, Life
from txninsightd.core.lifecycle import NEVER, Wait, state_of
from txninsightd.vocabulary import Cause, PartitionRef, State, Verdict

UNSEEN = float("-inf")
"""The moment of what was never seen."""


class Note(msgspec.Struct, frozen=True, gc=False):
    """What the committed view said of one event. `sighted_at`: of closes, when the monitor read it."""

    verdict: Verdict
    decided_at: float
    sighted_at: float = 0.0


class PendingClose:
    """A close that awaits its verdict; falls due when it has waited for too long.

    `txn` is None once the transaction is finished: the verdict is not needed any more.
    """

    __slots__ = ("bucket", "due_at", "offset", "record_ts", "ref", "sighted_at", "txn")

    def __init__(self, txn: "Transaction", ref: PartitionRef, offset: int, record_ts: float, sighted_at: float) -> None:
        self.txn: Transaction | None = txn
        self.ref = ref
        self.offset = offset
        self.record_ts = record_ts
        self.sighted_at = sighted_at
        self.bucket: Bucket | None = None
        self.due_at = 0.0


class Ending(msgspec.Struct, frozen=True, gc=False):
    """What a transaction that may settle waits for.

    Closed, or a close of unknown verdict: every partition seen beyond `decided_at`, or read past `key` (record
    timestamp + lateness). Wholly aborted: every partition seen beyond `key` (decided_at + grace).
    """

    key: float
    decided_at: float
    wholly_aborted: bool


# Compared as tuples, never down to the last number: no two closes share partition and offset.
Deciding = tuple[float, PartitionRef, int, float]
"""Of the committed and unknown closes the smallest in (record timestamp, topic, partition, offset); its decided_at."""

MOST_CAUSES = 100
"""So many of the causes that a transaction was stuck for are kept, the latest ones."""


class BeenStuck(NamedTuple):
    """That a wait was over; `last_at`: the transaction's last event then, or while it stayed so."""

    wait: Wait
    last_at: float


# Shared by all transactions without any, and never changed: a transaction that needs one gets its own first.
NEVER_STUCK: dict[Cause, BeenStuck] = {}
NO_NOTES: dict[tuple[PartitionRef, int], Note] = {}
NO_CLOSES: list[PendingClose] = []


class Standing(msgspec.Struct, frozen=True, gc=False):
    """Where a live transaction stands, as the gauges show it.

    `state`: open, tentatively_closed, stuck or aborted; None where no gauge counts it (closed or unknown, and about to
    be settled). `opened_s`: the whole second of its open; None without one, and where it has no age.
    """

    txn_type: str | None
    state: str | None
    cause: str | None
    opened_s: int | None
    partial: bool


class Transaction:
    """Mutable, owned by the ledger. `bucket` and `due_at` belong to the wheel that it stands in.

    `idle_bucket` belongs to the wheel of those idle for longest.
    """

    __slots__ = (
        "been_stuck",
        "bucket",
        "cause",
        "causes",
        "committed_close",
        "counted_open",
        "deciding",
        "doubtful",
        "due_at",
        "early",
        "ending",
        "events",
        "future",
        "given_up_steps",
        "idle_bucket",
        "last_at",
        "late_retry",
        "notes",
        "opened_at",
        "overtime",
        "pending_closes",
        "replayed",
        "retype",
        "sighted_open",
        "simple",
        "since",
        "standing",
        "state",
        "txn_id",
        "txn_type",
        "unknown_close",
    )

    def __init__(self, txn_id: str, late_retry: bool) -> None:
        self.txn_id = txn_id
        self.txn_type: str | None = None
        self.events: list[Event] = []
        self.notes = NO_NOTES
        self.pending_closes = NO_CLOSES
        self.committed_close = False
        self.deciding: Deciding | None = None
        self.unknown_close = False
        self.doubtful = False  # something of it was aborted, or its verdict is unknown
        self.simple = False  # open, not stuck, nothing noted: a further step changes nothing
        self.last_at = UNSEEN
        self.opened_at = NEVER
        self.sighted_open = False
        self.counted_open = False
        self.early = False  # an event of it was stamped before the moment at which we started to read
        self.replayed = False
        self.future = False  # an event of it was clamped
        self.retype = False
        self.late_retry = late_retry
        self.state = State.OPEN
        self.cause: Cause | None = None
        self.since = 0.0
        self.causes: tuple[Cause, ...] = ()
        self.been_stuck = NEVER_STUCK
        self.standing: Standing | None = None  # as it was last reported
        self.ending: Ending | None = None
        self.overtime = False
        self.bucket: Bucket | None = None
        self.due_at = 0.0
        self.idle_bucket: Bucket | None = None
        self.given_up_steps = 0  # steps that were not kept, to stay within a limit; their verdict is unknown

    @property
    def partial(self) -> bool:
        """Whether its beginning was not seen: no duration, never stuck."""
        return self.early or not self.sighted_open

    def await_verdict(self, ref: PartitionRef, offset: int, record_ts: float, sighted_at: float) -> PendingClose:
        """A close of it was sighted there and has no verdict yet."""
        close = PendingClose(self, ref, offset, record_ts, sighted_at)
        if self.pending_closes is NO_CLOSES:
            self.pending_closes = []
        self.pending_closes.append(close)
        return close

    def note(self, ref: PartitionRef, offset: int, note: Note) -> None:
        """Keep a verdict."""
        if self.notes is NO_NOTES:
            self.notes = {}
        self.notes[ref, offset] = note
        if note.verdict is Verdict.ABORTED or note.verdict is Verdict.UNKNOWN:
            self.doubtful = True

    def state_by(self, life: Life | None) -> State:
        """Its state: the first three rules by what was noted. `life` is only needed, and given, if it is doubtful."""
        if self.committed_close:
            return State.CLOSED
        if self.pending_closes:
            return State.TENTATIVELY_CLOSED
        if self.unknown_close:
            return State.UNKNOWN
        return State.OPEN if life is None else state_of(life)

    def place_in_gauges(self) -> Standing | None:
        """Where it stands, from its state and cause as they were last evaluated; None where no gauge counts it."""
        state, cause, partial = self.state, self.cause, self.partial
        waits_open = state is State.OPEN or state is State.TENTATIVELY_CLOSED
        counted: str | None = None
        if cause is not None:
            counted = "stuck"
        elif waits_open or state is State.ABORTED:
            counted = state
        elif not partial:
            return None
        aged = waits_open and self.opened_at != NEVER and not self.replayed
        return Standing(self.txn_type, counted, cause, int(self.opened_at) if aged else None, partial)

    def over_until(self, *causes: Cause) -> float:
        """The latest end, without pauses, of a wait that made it stuck for one of these causes; UNSEEN: none did."""
        if not self.been_stuck:
            return UNSEEN
        return max((self.been_stuck[cause].wait.due for cause in causes if cause in self.been_stuck), default=UNSEEN)

    def stuck_for(self, cause: Cause, wait: Wait) -> bool:
        """It is stuck for this cause; returns whether that is another time than the last.

        It is the same time if only a pause has taken the cause back for a while (an outage that was learnt of late, a
        clock that was set right), and no event has come since.
        """
        before = self.been_stuck.get(cause)
        is_new = before is None or before.last_at != self.last_at or wait.due > before.wait.due
        self.still_stuck_for(cause, wait)
        if is_new:
            self.causes = (*self.causes[1 - MOST_CAUSES :], cause)
        return is_new

    def still_stuck_for(self, cause: Cause, wait: Wait) -> None:
        """It is stuck for this cause, as it was before."""
        if self.been_stuck is NEVER_STUCK:
            self.been_stuck = {}
        self.been_stuck[cause] = BeenStuck(wait, self.last_at)

    def not_stuck_for(self, cause: Cause) -> None:
        """Its wait for this cause has ended: if it is stuck for it again, that is another time."""
        self.been_stuck.pop(cause, None)

    def move_moments(self, move: Callable[[float], float]) -> None:
        """Our clock was wrong: replace each moment that it gave, but for the ending, which the settlement keeps."""
        for place, note in self.notes.items():
            sighted_at = move(note.sighted_at) if note.sighted_at else 0.0
            self.notes[place] = Note(note.verdict, move(note.decided_at), sighted_at)
        if self.deciding is not None:
            self.deciding = (*self.deciding[:3], move(self.deciding[3]))
        if Cause.NEVER_COMMITTED in self.been_stuck:
            # The only cause whose wait begins at a moment of our clock.
            before = self.been_stuck[Cause.NEVER_COMMITTED]
            wait = before.wait._replace(reference=move(before.wait.reference))
            self.been_stuck[Cause.NEVER_COMMITTED] = before._replace(wait=wait)

    def close_decided(self, close: PendingClose, note: Note) -> None:
        """One of its closes has its verdict."""
        self.pending_closes.remove(close)
        self.note(close.ref, close.offset, note)
        if note.verdict is not Verdict.ABORTED:
            deciding = (close.record_ts, close.ref, close.offset, note.decided_at)
            if self.deciding is None or deciding < self.deciding:
                self.deciding = deciding
        if note.verdict is Verdict.COMMITTED:
            self.committed_close = True
        elif note.verdict is Verdict.UNKNOWN:
            self.unknown_close = True
