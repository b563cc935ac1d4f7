"""The ledger's state as bytes, and back: what a checkpoint holds.

A ledger that is dumped between two messages and restored behaves, message for message, as the one that was not. What
can be worked out again is left out: wheels are filled from the moments at which something falls due or was last active,
the queues of those that wait to be settled from their endings. All else is saved as it stands: nothing is judged twice.

The first chunk is the *head* (partitions, horizon, figures, what is remembered); each further one holds some thousand
transactions as columns: live ones first, in the order in which they came, then those that linger in the archive. Most
transactions are plain, open ones, which need no more than their columns; what else one may have stands in its `Rest`.
Every chunk is MessagePack. `VERSION` changes when an older program could no longer read it.
"""

import gc
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice
from math import inf, isfinite, isnan, nan
from sys import intern
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from txninsightd.core.events import Event, Judged
from txninsightd.core.figures import Exemplar, Histogram, Shown
from txninsightd.core.finished import NO_FIGURES, Finished
from txninsightd.core.kpis import Kpis
from txninsightd.core.ledger import Incarnation, Judging, Ledger
from txninsightd.core.lifecycle import NEVER, Outage
from txninsightd.core.snapshot_checks import LATEST_S, check, check_transaction
from txninsightd.core.tombstones import Generation
from txninsightd.core.transaction import Ending, Note, Transaction
from txninsightd.core.verdicts import PartitionState, Sighted
from txninsightd.core.watermark import Gap
from txninsightd.vocabulary import Anomaly, Cause, Coverage, Kind, Outcome, PartitionRef, Signature, State, Verdict

VERSION = 1
TRANSACTIONS_A_CHUNK = 10_000

# The place is the bit in checkpoints that exist: a new one goes to the end.
FLAGS = (
    "committed_close",
    "unknown_close",
    "doubtful",
    "simple",
    "early",
    "future",
    "replayed",
    "sighted_open",
    "counted_open",
    "late_retry",
    "overtime",
)
"""The yes-or-no fields of a transaction, lowest bit first."""

NO_SECOND = -(1 << 62)
KINDS = frozenset(Kind)


class Unusable(Exception):
    """The bytes are no state that this program can read."""


class OtherColocation(Exception):
    """The state came about with the other setting of `events.colocated`, under which other things hold."""

    def __init__(self, was: bool) -> None:
        super().__init__(was)
        self.was = was


# --- What is written --------------------------------------------------------------------------------------------------


Moment = Annotated[float, msgspec.Meta(le=LATEST_S)]
"""Epoch seconds; minus infinity: never seen."""

Stamp = Annotated[float, msgspec.Meta(ge=-LATEST_S, le=LATEST_S)]
"""Epoch seconds of what has happened."""

Offset = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
OffsetAnswered = Annotated[int, msgspec.Meta(ge=-1, le=2**63 - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Difference = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]


class SavedPositions(msgspec.Struct):
    """The plain fields of a PartitionState."""

    monitor_offset: Offset
    validator_offset: Offset
    decided_offset: Offset
    monitor_as_of: Moment
    validator_as_of: Moment
    read_past: Moment
    absent_at: Moment
    gone: bool
    void: bool
    waiting_runs: Count
    monitor_end: OffsetAnswered
    validator_end: OffsetAnswered
    stable_offset: OffsetAnswered
    waiting_since: Stamp


PARTITION_FIELDS = SavedPositions.__struct_fields__


class SavedPartition(msgspec.Struct, array_like=True):
    """One partition of one topic, and what waits there."""

    ref: PartitionRef
    fields: SavedPositions
    waiting: list[Coverage]
    sighted: list[Sighted]


class SavedDomain(msgspec.Struct, array_like=True):
    """How far one domain was seen, and where not. `ref`: of the one partition that it is; None: all of them."""

    ref: PartitionRef | None
    as_of: Moment
    gaps: list[Gap]


Labels = TypeVar("Labels")
Pair = tuple[str, str]
Three = tuple[str, str, str]


class SavedHistogram(msgspec.Struct, Generic[Labels], array_like=True):
    """One histogram; `exemplars` by the number of the bucket."""

    labels: Labels
    counts: list[Count]
    sum: float
    exemplars: dict[int, Exemplar]


class SavedCounters(msgspec.Struct):
    """The counters of Figures as pairs of labels and count."""

    opened: list[tuple[str, Count]]
    finished: list[tuple[Three, Count]]
    stuck: list[tuple[Pair, Count]]
    anomalies: list[tuple[str, Count]]
    records: list[tuple[Three, Count]]
    live: list[tuple[Pair, Difference]]
    live_stuck: list[tuple[Pair, Difference]]
    live_partial: list[tuple[str, Difference]]
    replayed: list[tuple[Pair, Count]] = []
    objective_missed: list[tuple[str, Count]] = []
    limit_hits: list[tuple[str, Count]] = []


class SavedHistograms(msgspec.Struct):
    """The histograms of Figures."""

    durations: list[SavedHistogram[str]]
    commit_delays: list[SavedHistogram[str]]
    step_durations: list[SavedHistogram[Pair]]
    step_gaps: list[SavedHistogram[Pair]]


COUNTERS = SavedCounters.__struct_fields__
HISTOGRAMS = SavedHistograms.__struct_fields__


NamedPairs = tuple[list[tuple[str, str | None, str]], Count, list[str], Count]


class SavedPairs(msgspec.Struct):
    """The pairs of labels that got a name."""

    steps: NamedPairs
    statuses: NamedPairs


class SavedFigures(msgspec.Struct):
    """All figures, and the labels that got a name."""

    bounds: list[float]
    counters: SavedCounters
    histograms: SavedHistograms
    opened_seconds: list[tuple[str, list[tuple[int, Difference]]]]
    settled_by_timeout: Count
    txn_types: tuple[list[str], Count]
    pairs: SavedPairs


class SavedMemory(msgspec.Struct):
    """The ids that are remembered: the young as pairs, the sealed generations as eight bytes an id."""

    young: bytes
    young_since: Stamp
    sealed: list[tuple[bytes, Stamp]]


class Head(msgspec.Struct):
    """All that is not a transaction. `judging`: by what the live ones are judged; `judged`: whether all are by now."""

    colocated: bool
    judging: Judging
    judged: bool
    start_at: Moment
    caught_up: bool
    discovered_at: Moment
    outages: list[Outage]
    domains: list[SavedDomain]
    partitions: list[SavedPartition]
    topics: dict[str, Incarnation]
    figures: SavedFigures
    memory: SavedMemory
    live: int
    lingering: int


class SavedEnd(msgspec.Struct, array_like=True):
    """How a transaction that lingers ended; `verdicts` of its events, None where all were committed."""

    outcome: Outcome
    attempts: int
    duration_s: float | None
    status: str | None
    anomalies: set[Anomaly]
    commit_delay_s: float | None
    late_events: int
    settled_at: Stamp
    verdicts: list[tuple[Verdict, Stamp]] | None


class Rest(msgspec.Struct, omit_defaults=True):
    """What a plain open transaction does not have. Places are numbers in the head's list of partitions."""

    state: State = State.OPEN
    cause: Cause | None = None
    since: Stamp = 0.0
    causes: tuple[Cause, ...] = ()
    ending: tuple[Stamp, Stamp, bool] | None = None
    final: bool = False
    look_at: bool = False
    deciding: tuple[Stamp, int, Offset, Stamp] | None = None
    notes: list[tuple[int, Offset, Verdict, Stamp, Stamp]] = []
    closes: list[tuple[int, Offset, Stamp, Stamp, Stamp | None]] = []
    given_up_steps: Count = 0
    end: SavedEnd | None = None


PLAIN = Rest()


class Chunk(msgspec.Struct):
    """Some transactions, as columns of native 32- and 64-bit numbers. A `due_at` that is not a number: none."""

    txn_ids: list[str]
    txn_types: list[str | None]
    type_numbers: bytes
    flags: bytes
    last_at: bytes
    opened_at: bytes
    due_at: bytes
    shown: list[tuple[str, str | None, str | None, bool] | None]
    shown_numbers: bytes
    opened_seconds: bytes
    event_counts: bytes
    signatures: list[Signature]
    signature_numbers: bytes
    place_numbers: bytes
    offsets: bytes
    timestamps: bytes
    record_timestamps: bytes
    rest: dict[int, Rest]


# --- Out --------------------------------------------------------------------------------------------------------------


def dump(ledger: Ledger) -> Iterator[bytes]:
    """The state in chunks. Only between two messages, after `settle`; the ledger must not change until the last."""
    encode = msgspec.msgpack.Encoder().encode
    yield encode(_head(ledger))
    # The order in which the head lists them, by which `_restore` counts.
    numbers = {ref: i for i, ref in enumerate(ledger.partitions)}
    final = ledger.settlement.final()
    to_look_at = ledger.to_look_at()
    live = iter(ledger.live.values())
    while some := list(islice(live, TRANSACTIONS_A_CHUNK)):
        rests = {i: _rest(txn, numbers, txn in final, txn in to_look_at) for i, txn in enumerate(some)}
        yield encode(_chunk(some, [txn.events for txn in some], rests, numbers))
    lingering = iter(ledger.archive.lingering.values())
    while ended := list(islice(lingering, TRANSACTIONS_A_CHUNK)):
        rests = {i: _rest_of_ended(finished, numbers) for i, finished in enumerate(ended)}
        lives = [[j.event for j in f.doubtful_life] if f.doubtful_life is not None else f.txn.events for f in ended]
        yield encode(_chunk([f.txn for f in ended], lives, rests, numbers))


def _head(ledger: Ledger) -> Head:
    watermark = ledger.watermark
    return Head(
        colocated=ledger.rules.colocated,
        judging=ledger.rules.judging,
        judged=ledger.judged_by is not None,
        start_at=ledger.start_at,
        caught_up=ledger.caught_up,
        discovered_at=watermark.discovered_at,
        outages=watermark.outages,
        domains=[SavedDomain(ref, domain.as_of, domain.gaps) for ref, domain in watermark.domains()],
        partitions=[_saved_partition(p) for p in ledger.partitions.values()],
        topics=ledger.topics,
        figures=_saved_figures(ledger),
        memory=_saved_memory(ledger),
        live=len(ledger.live),
        lingering=len(ledger.archive.lingering),
    )


def _saved_partition(partition: PartitionState) -> SavedPartition:
    fields = SavedPositions(*(getattr(partition, name) for name in PARTITION_FIELDS))
    return SavedPartition(partition.ref, fields, list(partition.waiting), list(partition.sighted))


def _saved_figures(ledger: Ledger) -> SavedFigures:
    figures = ledger.figures
    return SavedFigures(
        bounds=list(figures.bounds),
        counters=SavedCounters(*(list(getattr(figures, name).items()) for name in COUNTERS)),
        histograms=SavedHistograms(*(_saved_histograms(getattr(figures, name)) for name in HISTOGRAMS)),
        opened_seconds=[(txn_type, list(seconds.items())) for txn_type, seconds in figures.opened_seconds.items()],
        settled_by_timeout=figures.settled_by_timeout,
        txn_types=figures.txn_types.saved(),
        pairs=SavedPairs(figures.steps.saved(), figures.statuses.saved()),
    )


def _saved_histograms(histograms: dict[Labels, Histogram]) -> list[SavedHistogram[Labels]]:
    return [SavedHistogram(labels, h.counts, h.sum, h.exemplars) for labels, h in histograms.items()]


def _saved_memory(ledger: Ledger) -> SavedMemory:
    memory = ledger.archive.memory
    young = array("Q", (h | bit for h, bit in memory.young.items()))
    return SavedMemory(young.tobytes(), memory.young_since, [(g.hashes.tobytes(), g.sealed_at) for g in memory.sealed])


def _rest(txn: Transaction, numbers: dict[PartitionRef, int], final: bool, look_at: bool) -> Rest:
    # What `simple` does not say. PLAIN is told by identity: only who is something else gets a record of its own.
    if txn.simple and not (txn.causes or txn.given_up_steps or look_at):
        return PLAIN
    rest = _verdicts(txn, numbers)
    rest.ending = (txn.ending.key, txn.ending.decided_at, txn.ending.wholly_aborted) if txn.ending else None
    rest.final, rest.look_at = final, look_at
    rest.closes = [
        (numbers[c.ref], c.offset, c.record_ts, c.sighted_at, None if c.bucket is None else c.due_at)
        for c in txn.pending_closes
    ]
    return rest


def _verdicts(txn: Transaction, numbers: dict[PartitionRef, int]) -> Rest:
    rest = Rest(txn.state, txn.cause, txn.since, txn.causes, given_up_steps=txn.given_up_steps)
    rest.notes = [
        (numbers[ref], offset, note.verdict, note.decided_at, note.sighted_at)
        for (ref, offset), note in txn.notes.items()
    ]
    if txn.deciding is not None:
        record_ts, ref, offset, decided_at = txn.deciding
        rest.deciding = (record_ts, numbers[ref], offset, decided_at)
    return rest


def _rest_of_ended(finished: Finished, numbers: dict[PartitionRef, int]) -> Rest:
    rest, kpis, life = _verdicts(finished.txn, numbers), finished.kpis, finished.doubtful_life
    rest.end = SavedEnd(
        finished.outcome,
        finished.attempts,
        kpis.duration_s,
        kpis.status,
        kpis.anomalies,
        finished.commit_delay_s,
        finished.late_events,
        finished.settled_at,
        [(j.verdict, j.decided_at) for j in life] if life is not None else None,
    )
    return rest


class Table:
    """Distinct values, and the number of each in the order in which they were met."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}

    def column(self, values: Iterable[Any]) -> bytes:
        """The numbers of these values, those that are new included."""
        numbers = self.numbers
        return array("I", [numbers.setdefault(value, len(numbers)) for value in values]).tobytes()


def _chunk(
    txns: list[Transaction], lives: list[list[Event]], rests: dict[int, Rest], numbers: dict[PartitionRef, int]
) -> Chunk:
    events = [event for life in lives for event in life]
    types, shown, signatures = Table(), Table(), Table()
    return Chunk(
        txn_ids=[txn.txn_id for txn in txns],
        type_numbers=types.column(txn.txn_type for txn in txns),
        txn_types=list(types.numbers),
        flags=array("I", map(_flags, txns)).tobytes(),
        last_at=array("d", [txn.last_at for txn in txns]).tobytes(),
        opened_at=array("d", [txn.opened_at for txn in txns]).tobytes(),
        due_at=array("d", [nan if txn.bucket is None else txn.due_at for txn in txns]).tobytes(),
        shown_numbers=shown.column(_shown(txn.shown) for txn in txns),
        shown=list(shown.numbers),
        opened_seconds=array("q", [_opened_second(txn.shown) for txn in txns]).tobytes(),
        event_counts=array("I", map(len, lives)).tobytes(),
        signature_numbers=signatures.column(event.signature for event in events),
        signatures=list(signatures.numbers),
        place_numbers=array("I", [numbers[event.ref] for event in events]).tobytes(),
        offsets=array("q", [event.offset for event in events]).tobytes(),
        timestamps=array("d", [event.ts for event in events]).tobytes(),
        record_timestamps=array("d", [event.record_ts for event in events]).tobytes(),
        rest={i: rest for i, rest in rests.items() if rest is not PLAIN},
    )


def _flags(txn: Transaction) -> int:
    return sum(1 << i for i, name in enumerate(FLAGS) if getattr(txn, name))


def _shown(shown: Shown | None) -> tuple[str, str | None, str | None, bool] | None:
    return (shown.txn_type, shown.state, shown.cause, shown.partial) if shown is not None else None


def _opened_second(shown: Shown | None) -> int:
    return shown.opened_s if shown is not None and shown.opened_s is not None else NO_SECOND


# --- In ---------------------------------------------------------------------------------------------------------------


def restore(chunks: Iterable[bytes], ledger: Ledger) -> None:
    """Bring an empty ledger to the state that was dumped. It judges as the dumped one did, until it adopts its rules.

    All else of its rules, and its buckets, stay what they are; what others counted stands in the first of its own that
    reaches as far. Raises Unusable when the bytes cannot be read (the ledger is then spoilt), and OtherColocation.
    """
    collecting = gc.isenabled()
    # Millions of objects come, and all of them stay: the collector would walk through them over and over.
    gc.disable()
    try:
        _restore(iter(chunks), ledger)
    # These say nothing against the bytes.
    except (OSError, MemoryError, OtherColocation):
        raise
    except Exception as failure:  # whatever else goes wrong comes of what the bytes say
        raise Unusable(f"{type(failure).__name__}: {failure}") from failure
    finally:
        if collecting:
            gc.enable()


def _restore(chunks: Iterator[bytes], ledger: Ledger) -> None:
    head = msgspec.msgpack.decode(next(chunks), type=Head)
    if head.colocated != ledger.rules.colocated:
        raise OtherColocation(head.colocated)
    ledger.start_at, ledger.caught_up, ledger.topics = head.start_at, head.caught_up, head.topics
    ledger.judge_as_before(head.judging, head.judged)
    # Before the horizon, whose domains they make, and in the order in which they came: of the topics of one name the
    # latest counts there.
    for saved in head.partitions:
        _restore_partition(ledger, saved)
    ledger.watermark.resume(head.discovered_at, head.outages, [(d.ref, d.as_of, d.gaps) for d in head.domains])
    _restore_figures(ledger, head.figures)
    _restore_memory(ledger, head.memory)
    refs = list(ledger.partitions)
    decoder = msgspec.msgpack.Decoder(Chunk)
    for chunk in map(decoder.decode, chunks):
        if len(ledger.live) < head.live:
            _restore_live(ledger, chunk, refs)
        else:
            _restore_ended(ledger, chunk, refs)
    if (len(ledger.live), len(ledger.archive.lingering)) != (head.live, head.lingering):
        raise ValueError(f"{len(ledger.live)} of {head.live} live transactions")
    for partition in ledger.partitions.values():
        # They came transaction by transaction, and verdicts go by offset.
        partition.order_pending_closes()
    ledger.recount()
    check(ledger)


def _restore_partition(ledger: Ledger, saved: SavedPartition) -> None:
    partition = ledger.add_partition(saved.ref, 0)
    for name in PARTITION_FIELDS:
        setattr(partition, name, getattr(saved.fields, name))
    partition.resume(saved.waiting, saved.sighted)


def _restore_figures(ledger: Ledger, saved: SavedFigures) -> None:
    figures = ledger.figures
    for name in COUNTERS:
        counter: Counter[Any] = getattr(figures, name)
        counter.update(dict(getattr(saved.counters, name)))
    for name in HISTOGRAMS:
        for h in getattr(saved.histograms, name):
            _restore_histogram(getattr(figures, name)[h.labels], h, saved.bounds)
    for txn_type, seconds in saved.opened_seconds:
        figures.opened_seconds[txn_type].update(dict(seconds))
    figures.settled_by_timeout = saved.settled_by_timeout
    figures.txn_types.resume(*saved.txn_types)
    figures.steps.resume(*saved.pairs.steps)
    figures.statuses.resume(*saved.pairs.statuses)


def _restore_histogram(histogram: Histogram, saved: SavedHistogram[Any], bounds: list[float]) -> None:
    if len(saved.counts) != len(bounds) + 1:
        raise ValueError("a histogram of other buckets than it says")
    if sum(saved.counts) > 2**53:
        raise ValueError("a histogram that has counted more than can be")
    histogram.sum = saved.sum
    if bounds == list(histogram.bounds):
        histogram.counts, histogram.exemplars = saved.counts, saved.exemplars
        return
    for bound, count in zip([*bounds, inf], saved.counts, strict=True):
        histogram.counts[bisect_left(histogram.bounds, bound)] += count


def _restore_memory(ledger: Ledger, saved: SavedMemory) -> None:
    young = _numbers("Q", saved.young)
    sealed = [Generation(_numbers("Q", hashes), sealed_at) for hashes, sealed_at in saved.sealed]
    ledger.archive.memory.resume({number & ~1: number & 1 for number in young}, saved.young_since, sealed)


def _numbers(kind: str, data: bytes) -> "array[Any]":
    numbers: array[Any] = array(kind)
    numbers.frombytes(data)
    return numbers


def _moments(data: bytes) -> "array[float]":
    moments = _numbers("d", data)
    # What is not a number slips through min() and max(), but not through a sum.
    if moments and not (isfinite(sum(moments)) and -LATEST_S <= min(moments) <= max(moments) <= LATEST_S):
        raise ValueError("a moment that cannot be")
    return moments


def _moments_or_never(data: bytes) -> "array[float]":
    moments = _numbers("d", data)
    if not all(-LATEST_S <= moment <= LATEST_S or moment == NEVER for moment in moments):
        raise ValueError("a moment that cannot be")
    return moments


def _due_ats(data: bytes) -> "array[float]":
    due_ats = _numbers("d", data)
    # Who waits for no moment has what is not a number, and that lies beyond nothing.
    if any(abs(due_at) > LATEST_S for due_at in due_ats):
        raise ValueError("a moment that cannot be")
    return due_ats


def _lives(ledger: Ledger, chunk: Chunk, refs: list[PartitionRef]) -> Iterator[list[Event]]:
    """The events of each transaction of a chunk."""
    signatures = [ledger.shared(signature) for signature in chunk.signatures]
    signature_numbers = _numbers("I", chunk.signature_numbers)
    offsets = _numbers("q", chunk.offsets)
    if min(offsets, default=0) < 0 or any(s.kind not in KINDS for s in signatures):
        raise ValueError("an event that cannot be")
    events = list(
        map(
            Event,
            _moments(chunk.timestamps),
            map(refs.__getitem__, _numbers("I", chunk.place_numbers)),
            offsets,
            _moments(chunk.record_timestamps),
            map(signatures.__getitem__, signature_numbers),
        )
    )
    counts = _numbers("I", chunk.event_counts)
    ends = list(accumulate(counts))
    if not len(ends) == len(chunk.txn_ids) or (ends and ends[-1] != len(events)) or 0 in counts:
        raise ValueError("columns of different lengths")
    # Whether a close has its verdict or awaits one stands in a Rest, and only those are checked (check_transaction).
    closing = {i for i, signature in enumerate(signatures) if signature.kind == Kind.TRANSACTION_CLOSE}
    closes = (i for i, number in enumerate(signature_numbers) if number in closing) if closing else ()
    # As many transactions end at or before event `i` as come before its own.
    if any(bisect_right(ends, i) not in chunk.rest for i in closes):
        raise ValueError("a close in a transaction that is open")
    for start, end in zip([0, *ends], ends, strict=False):
        yield events[start:end]


def _transactions(ledger: Ledger, chunk: Chunk, refs: list[PartitionRef]) -> Iterator[tuple[Transaction, Rest]]:
    """The transactions of a chunk, without what has to do with others."""
    types = [intern(name) if name is not None else None for name in chunk.txn_types]
    # Few combinations occur: each is taken apart once, not once a transaction.
    flags = {number: _flags_set(number) for number in set(_numbers("I", chunk.flags))}
    rest = chunk.rest
    columns = zip(
        chunk.txn_ids,
        _numbers("I", chunk.type_numbers),
        _numbers("I", chunk.flags),
        _moments(chunk.last_at),
        _moments_or_never(chunk.opened_at),
        _lives(ledger, chunk, refs),
        strict=True,
    )
    for i, (txn_id, type_number, flag_bits, last_at, opened_at, events) in enumerate(columns):
        txn = Transaction(txn_id, late_retry=False)
        txn.txn_type = types[type_number]
        txn.events, txn.last_at, txn.opened_at = events, last_at, opened_at
        for name in flags[flag_bits]:
            setattr(txn, name, True)
        more = rest.get(i, PLAIN)
        if more is not PLAIN:
            _restore_verdicts(txn, more, refs)
        yield txn, more


def _flags_set(number: int) -> list[str]:
    return [name for i, name in enumerate(FLAGS) if number >> i & 1]


def _restore_verdicts(txn: Transaction, rest: Rest, refs: list[PartitionRef]) -> None:
    txn.state, txn.cause, txn.since, txn.causes = rest.state, rest.cause, rest.since, rest.causes
    txn.given_up_steps = rest.given_up_steps
    if rest.notes:
        txn.notes = {
            (refs[p], offset): Note(verdict, decided_at, sighted_at)
            for p, offset, verdict, decided_at, sighted_at in rest.notes
        }
    if rest.deciding is not None:
        record_ts, p, offset, decided_at = rest.deciding
        txn.deciding = (record_ts, refs[p], offset, decided_at)


def _restore_live(ledger: Ledger, chunk: Chunk, refs: list[PartitionRef]) -> None:
    live, wheel = ledger.live, ledger.watermark.wheel
    due_ats, shown = _due_ats(chunk.due_at), _restored_shown(chunk)
    for (txn, rest), shown_as, due_at in zip(_transactions(ledger, chunk, refs), shown, due_ats, strict=True):
        live[txn.txn_id] = txn
        txn.shown = shown_as
        if not isnan(due_at):
            wheel(txn).set(txn, due_at)
        if rest is not PLAIN:
            _restore_waits(ledger, txn, rest, refs)


def _restored_shown(chunk: Chunk) -> Iterator[Shown | None]:
    """What each contributes to the gauges; those that contribute the same share it."""
    known: dict[tuple[int, int], Shown | None] = {}
    for key in zip(_numbers("I", chunk.shown_numbers), _numbers("q", chunk.opened_seconds), strict=True):
        if key not in known:
            known[key] = _make_shown(chunk.shown[key[0]], key[1])
        yield known[key]


def _make_shown(told: tuple[str, str | None, str | None, bool] | None, second: int) -> Shown | None:
    if told is None:
        return None
    txn_type, state, cause, partial = told
    return Shown(txn_type, state, cause, second if second != NO_SECOND else None, partial)


def _restore_waits(ledger: Ledger, txn: Transaction, rest: Rest, refs: list[PartitionRef]) -> None:
    """What the transaction waits for, and who waits for it."""
    for p, offset, record_ts, sighted_at, due_at in rest.closes:
        close = txn.await_verdict(refs[p], offset, record_ts, sighted_at)
        partition = ledger.partitions[refs[p]]
        partition.pending_closes.append(close)
        if due_at is not None:
            partition.close_deadlines.set(close, due_at)
    if txn.cause is not None:
        ledger.stuck[txn.txn_id] = txn
    if rest.look_at:
        # Whether it awaited the validator or was withheld: the look will tell.
        ledger.look_at(txn)
    check_transaction(txn)
    if rest.ending is not None:
        ledger.settlement.resume(txn, Ending(*rest.ending), rest.final)


def _restore_ended(ledger: Ledger, chunk: Chunk, refs: list[PartitionRef]) -> None:
    for txn, rest in _transactions(ledger, chunk, refs):
        end = rest.end
        if end is None:
            raise ValueError("a transaction that lingers has no end")
        life = None
        if end.verdicts is not None:
            life = [Judged(e, *verdict) for e, verdict in zip(txn.events, end.verdicts, strict=True)]
        kpis = Kpis(end.duration_s, end.status, NO_FIGURES, NO_FIGURES, end.anomalies)
        ledger.archive.resume(
            Finished(txn, life, end.outcome, end.attempts, kpis, end.commit_delay_s, end.late_events, end.settled_at)
        )
